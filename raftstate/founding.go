package raftstate

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/hashicorp/raft"
)

// found writes the first entry of a new group's log, the same on each of its
// first members, so that any majority of them can begin. A directory that has a
// state is left as it is, and a node that joins waits to be told.
func (g *Group) found(conf *raft.Config, logs raft.LogStore, transport raft.Transport) error {
	exists, err := raft.HasExistingState(logs, g.watch, g.disk.snapshots)
	if err != nil {
		return &DamagedError{Path: filepath.Join(g.disk.dir, logFile), Err: err}
	}
	if members := g.founders(transport); !exists && len(members.Servers) > 0 {
		if err := raft.BootstrapCluster(conf, logs, g.watch, g.disk.snapshots, transport, members); err != nil {
			return fmt.Errorf("found group: %w", err)
		}
		exists = true
	}
	if !exists {
		return nil
	}
	// Founded or found: from here on a missing log is damage.
	return g.disk.own(g.cfg.NodeID)
}

// founders are the members of a group that this node may found; none: it joins
// one.
func (g *Group) founders(transport raft.Transport) (c raft.Configuration) {
	peers := g.cfg.Cluster.Peers
	if len(peers) == 0 {
		address := raft.ServerAddress(g.cfg.Cluster.Advertise)
		if g.port == nil {
			address = transport.LocalAddr()
		}
		c.Servers = append(c.Servers, raft.Server{ID: serverID(g.cfg.NodeID), Address: address})
		return c
	}
	if peers[g.cfg.NodeID] == "" {
		return c
	}
	for _, node := range slices.Sorted(maps.Keys(peers)) {
		c.Servers = append(c.Servers, raft.Server{ID: serverID(node), Address: raft.ServerAddress(peers[node])})
	}
	return c
}

// checkMembers refuses to start where the configuration and the state speak of
// different groups. With peers, a node that was a group of one would meet
// founders of another, and one of the two groups' states would be lost.
func (g *Group) checkMembers() error {
	servers := g.servers()
	single := len(servers) == 1 && servers[0].ID == serverID(g.cfg.NodeID)
	peers := g.cfg.Cluster.Peers
	switch {
	case g.port == nil && len(servers) > 1:
		return fmt.Errorf("%s holds the state of a group of %d nodes, and cluster.listen is empty: set it, "+
			"or make this node a group of its own with `forebay cluster recover`", g.disk.dir, len(servers))
	case single && len(peers) > 1 && !g.grown():
		return fmt.Errorf("%s holds the state of a group of this node alone, and cluster.peers names %d: "+
			"a group does not grow by its configuration. Start this node with its own address as the only peer, the others with peers "+
			"that name this one and not themselves, and add each with `forebay cluster add NODE ADDRESS`", g.disk.dir, len(peers))
	}
	return nil
}

// grown reports whether the group of one has the others written down already: it
// was larger and has been cut down to this node.
func (g *Group) grown() bool { return len(*g.machine.members.known.Load()) > 1 }
