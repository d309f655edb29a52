package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"forebay/appliance"
	"forebay/httpapi/admin"
	"forebay/raftstate"
)

func (a *app) clusterCommand() *cobra.Command {
	status := &cobra.Command{Use: "status", Short: "Show the members of the group", Args: exactly()}
	status.RunE = a.withClient(func(ctx context.Context, c *admin.Client, _ []string) error {
		return a.printMembers(c.Cluster(ctx))
	})
	remove := &cobra.Command{Use: "remove NODE", Short: "Take a node out of the group", Args: exactly("NODE")}
	remove.Long = "Take a node out of the group. It serves no more. To come back it must start with an empty raft directory and be added again."
	remove.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		if _, err := parseNode(args[0]); err != nil {
			return err
		}
		return a.printMembers(c.RemoveMember(ctx, args[0]))
	})
	return a.group("cluster", "Manage the group of nodes that share accounts, limits and breakers",
		status, a.clusterAddCommand(), remove, a.clusterTransferCommand(), a.clusterRecoverCommand(), a.clusterCertsCommand())
}

func (a *app) clusterAddCommand() *cobra.Command {
	var nonvoter bool
	cmd := &cobra.Command{Use: "add NODE ADDRESS", Short: "Add a node, which is running and waits to be added", Args: exactly("NODE", "ADDRESS")}
	cmd.Long = "Add a node by its number and the address of its cluster port. It gets a vote when it has caught up, unless there are five votes already.\n\n" +
		"Start the node first, with cluster.peers that name members of the group and not itself."
	cmd.Flags().BoolVar(&nonvoter, "nonvoter", false, "it stays without a vote")
	cmd.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		node, err := parseNode(args[0])
		if err != nil {
			return err
		}
		return a.printMembers(c.AddMember(ctx, admin.AddMember{Node: node, Address: args[1], NonVoter: nonvoter}))
	})
	return cmd
}

func (a *app) clusterTransferCommand() *cobra.Command {
	var to uint16
	cmd := &cobra.Command{Use: "transfer", Short: "Hand the leadership to another node, before the leader is stopped", Args: exactly()}
	cmd.Flags().Uint16Var(&to, "to", 0, "to this `NODE` (default: whichever is the furthest)")
	cmd.RunE = a.withClient(func(ctx context.Context, c *admin.Client, _ []string) error {
		return a.printMembers(c.Transfer(ctx, to))
	})
	return cmd
}

func (a *app) clusterRecoverCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "recover", Short: "Make this stopped node a group of its own, after the others are lost for good", Args: exactly()}
	cmd.Long = "Make this node a group of its own, with the accounts, limits and breakers that it knows, after a majority of the group is lost for good. " +
		"The appliance must be stopped. It refuses while another member answers that there is a leader, or while enough of them answer to elect one.\n\n" +
		"The lost nodes must never start again with their raft directories. Afterwards start this node and add new ones with `forebay cluster add NODE ADDRESS`."
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, _, err := a.config()
		if err != nil {
			return err
		}
		r, err := appliance.RecoverGroup(cmd.Context(), c)
		if errors.Is(err, raftstate.ErrInUse) {
			return fmt.Errorf("recover: the appliance is running: stop it first, `forebay drain --wait`")
		}
		if err != nil {
			return err
		}
		return a.print(map[string][]uint16{"members": {c.Node}, "lost": nonNil(r.Lost)}, func(w io.Writer) {
			row(w, "members", c.Node)
			row(w, "lost", numbers(r.Lost))
			row(w, "next", "start this node; wipe the lost ones before they start again; add new ones with `forebay cluster add NODE ADDRESS`")
		})
	}
	return cmd
}

func (a *app) clusterCertsCommand() *cobra.Command {
	dir := "."
	cmd := &cobra.Command{Use: "certs [NODE...]", Short: "Make certificates for the cluster port, and their authority", Args: cobra.ArbitraryArgs}
	cmd.Long = "Make a certificate for each node, by default for all in cluster.peers, and the authority that they come from unless the directory has one.\n\n" +
		"Give each node its own certificate and key and ca.pem (cluster.tls_cert_file, tls_key_file, tls_ca_file). " +
		"Keep ca-key.pem in a safe place, on none of them. Run it again to renew: nodes read changed files by themselves."
	cmd.Flags().StringVar(&dir, "dir", dir, "write to this `DIRECTORY`")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		nodes, err := a.nodesFor(cmd, args)
		if err != nil {
			return err
		}
		written, err := raftstate.MakeCertificates(dir, nodes)
		if err != nil {
			return err
		}
		return a.print(map[string][]string{"written": written}, func(w io.Writer) {
			for _, path := range written {
				row(w, path)
			}
		})
	}
	return cmd
}

// nodesFor are the nodes of the arguments, else those of the configuration.
func (a *app) nodesFor(cmd *cobra.Command, args []string) (nodes []uint16, err error) {
	for _, arg := range args {
		node, err := parseNode(arg)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, node)
	}
	if len(nodes) > 0 {
		return nodes, nil
	}
	c, _, err := a.config()
	if err != nil {
		return nil, err
	}
	if nodes = slices.Sorted(maps.Keys(c.Cluster.Peers)); len(nodes) == 0 {
		return nil, usagef("%s: for which nodes? Name them, or set cluster.peers", cmd.CommandPath())
	}
	return nodes, nil
}

func parseNode(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, usagef("%q is no node: write its number, 1 to 65535", text)
	}
	return uint16(n), nil
}

func numbers(nodes []uint16) string {
	var texts []string
	for _, n := range nodes {
		texts = append(texts, strconv.Itoa(int(n)))
	}
	return orDash(strings.Join(texts, ", "))
}

func (a *app) printMembers(s admin.RaftStatus, err error) error {
	if err != nil {
		return err
	}
	return a.print(s, func(w io.Writer) {
		leader := "none"
		if s.Leader != 0 {
			leader = strconv.Itoa(int(s.Leader))
		}
		row(w, "leader", leader)
		row(w, "term", s.Term)
		if !s.CertificateEnds.IsZero() {
			row(w, "certificate", "ends "+local(s.CertificateEnds))
		}
		row(w)
		row(w, "NODE", "ADDRESS", "ROLE", "REACHABLE", "LAG")
		for _, m := range s.Members {
			reachable, lag := "-", "-"
			if m.Reachable != nil {
				reachable = map[bool]string{true: "yes", false: "NO"}[*m.Reachable]
			}
			if m.Lag != nil {
				lag = strconv.FormatUint(*m.Lag, 10)
			}
			row(w, m.Node, m.Address, m.Role, reachable, lag)
		}
	})
}
