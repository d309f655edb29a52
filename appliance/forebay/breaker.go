package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"forebay/httpapi/admin"
)

func (a *app) breakerCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the circuit breakers, as the node that is asked sees them", Args: exactly()}
	list.RunE = a.withClient(func(ctx context.Context, c *admin.Client, _ []string) error {
		breakers, err := c.Breakers(ctx)
		if err != nil {
			return err
		}
		return a.print(admin.BreakerList{Data: nonNil(breakers)}, func(w io.Writer) { breakerTable(w, breakers) })
	})
	return a.group("breaker", "See and force circuit breakers", list,
		a.breakerForceCommand("open", "Hold back all calls of a service, on all nodes, until it is set to auto"),
		a.breakerForceCommand("close", "Let all calls of a service through, on all nodes, until it is set to auto"),
		a.breakerForceCommand("auto", "Let a breaker go by its own rules again, starting closed"))
}

func (a *app) breakerForceCommand(action, short string) *cobra.Command {
	cmd := &cobra.Command{Use: action + " NAME", Short: short, Args: exactly("NAME")}
	cmd.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		b, err := c.ForceBreaker(ctx, args[0], action)
		if err != nil {
			return err
		}
		return a.print(b, func(w io.Writer) { breakerTable(w, []admin.BreakerStatus{b}) })
	})
	return cmd
}

func breakerTable(w io.Writer, breakers []admin.BreakerStatus) {
	row(w, "NAME", "STATE", "OPEN ON", "FORCED", "FAILURES", "SINCE", "NEXT PROBE", "REASON")
	for _, b := range breakers {
		forced := orDash(b.Forced)
		if b.Forced != "" && b.ForcedBy != "" {
			forced += " by " + b.ForcedBy
		}
		row(w, b.Name, b.State, openOn(b), forced, b.Failures, local(b.Since), local(b.NextProbe), orDash(b.Reason))
	}
}

func openOn(b admin.BreakerStatus) string {
	switch {
	case len(b.OpenOn) > 0:
		nodes := make([]string, len(b.OpenOn))
		for i, n := range b.OpenOn {
			nodes[i] = fmt.Sprint("node ", n)
		}
		return strings.Join(nodes, ", ")
	case b.State != "closed":
		return "all nodes"
	}
	return "-"
}
