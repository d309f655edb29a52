package raftstate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// Status says how the group is doing, as this node sees it.
type Status struct {
	Ready   bool   // this node has caught up since its start
	Role    string // leader, follower, candidate, shutdown
	Term    uint64
	Leader  uint16 // 0: none known
	Applied uint64 // index of the last entry applied here
	Members []Member
	// Expelled: the leader says that this node is not a member, or not yet.
	Expelled bool
	// CertificateEnds is when this node's certificate ends; zero: it has none.
	CertificateEnds time.Time
}

// Member is one node of the group.
type Member struct {
	Node    uint16
	Address string
	Role    string // leader, voter, nonvoter
	// Reachable: it has answered within the last heartbeats, or is this node.
	Reachable bool
	// Lag counts the entries of this node's log that it has not applied yet, as
	// it last said. It means something on the leader, for a node that is
	// reachable.
	Lag uint64
}

// Status does not wait for anything.
func (g *Group) Status() Status {
	leader := g.Leader()
	s := Status{
		Ready:   g.isReady.Load(),
		Role:    strings.ToLower(g.raft.State().String()),
		Term:    g.raft.CurrentTerm(),
		Leader:  leader,
		Applied: g.raft.AppliedIndex(),
	}
	last := g.raft.LastIndex()
	known := *g.machine.members.known.Load()
	for _, server := range g.servers() {
		node := nodeOf(server.ID)
		m := Member{Node: node, Address: cmp.Or(known[node].Address, string(server.Address)),
			Role: strings.ToLower(server.Suffrage.String())}
		if node == leader {
			m.Role = "leader"
		}
		applied := s.Applied
		if m.Reachable = node == g.cfg.NodeID || g.reaches(node); node != g.cfg.NodeID {
			applied = g.peers.get(node).Applied
		}
		m.Lag = last - min(applied, last)
		s.Members = append(s.Members, m)
	}
	if g.port != nil && g.port.creds != nil {
		s.CertificateEnds = g.port.creds.ends()
	}
	s.Expelled = g.expelled.Load()
	return s
}

func nodeOf(id raft.ServerID) uint16 {
	n, _ := strconv.ParseUint(string(id), 10, 16)
	return uint16(n)
}

// Dump writes the state as it now is to w, in the form of a snapshot: secrets
// of keys are not in it. For backups.
func (g *Group) Dump(w io.Writer) error {
	if !g.isReady.Load() {
		return ErrNotReady
	}
	g.machine.mu.RLock()
	s := g.machine.snapshotLocked()
	g.machine.mu.RUnlock()
	if err := s.encode(w); err != nil {
		return fmt.Errorf("dump raft state: %w", err)
	}
	return nil
}

// Load makes what Dump wrote the group's state, in place of all that was there,
// and then sets the configured plans. For restoring a backup; nothing has
// changed when the dump cannot be read.
func (g *Group) Load(ctx context.Context, r io.Reader) error {
	if err := g.WaitLeader(ctx); err != nil {
		return err
	}
	dump, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("read dump: %w", err)
	}
	// raft panics on a snapshot that the machine refuses, so it is tried here first.
	if _, err := g.machine.decodeSnapshot(bytes.NewReader(dump)); err != nil {
		return fmt.Errorf("read dump: %w", err)
	}
	meta := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Size: int64(len(dump))}
	err = g.await(ctx, func() error { return g.raft.Restore(meta, bytes.NewReader(dump), g.cfg.CommandTimeout) })
	if err != nil {
		return fmt.Errorf("load raft state: %w", err)
	}
	if _, err = g.setPlans(ctx, g.cfg.Plans); err != nil {
		return err
	}
	return g.setBreakers(ctx, g.cfg.Breakers)
}

// Snapshot writes a snapshot to the directory now, so that the next start has
// less of the log to apply.
func (g *Group) Snapshot(ctx context.Context) error {
	err := g.await(ctx, func() error { return g.raft.Snapshot().Error() })
	if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("snapshot raft state: %w", err)
	}
	return nil
}
