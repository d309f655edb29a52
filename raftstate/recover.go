package raftstate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/hashicorp/raft"
)

// recoverLimit is how long the other members get to answer Recover.
const recoverLimit = 5 * time.Second

// Recovered says what Recover has made of a group.
type Recovered struct {
	Was  []uint16 // the members that there were
	Lost []uint16 // the ones that are not any more
}

// Recover makes this node a group of its own, with the state that it has, after
// the others are lost for good. The appliance must not be running (ErrInUse). It
// asks the others first, and refuses where one of them knows a leader, or where
// those that answer are a majority with this one.
//
// What the lost nodes had and this one had not is gone, and what was not yet
// agreed upon and stands in this node's log counts. A lost node must not come
// back with its state: two of them could lead another group.
func Recover(ctx context.Context, cfg Config) (r Recovered, err error) {
	if err := cfg.Validate(); err != nil {
		return r, err
	}
	cfg = cfg.withDefaults()
	g, err := prepare(cfg)
	if err != nil {
		return r, err
	}
	if g.disk, err = openDisk(cfg); err != nil {
		return r, fmt.Errorf("open raft state: %w", err)
	}
	defer func() { err = errors.Join(err, g.disk.close()) }()
	_, transport := raft.NewInmemTransport("")
	conf := raftConfig(cfg, serverID(cfg.NodeID))
	members, err := raft.GetConfiguration(conf, g.machine, g.disk.log, g.disk.log, g.disk.snapshots, transport)
	if err != nil {
		return r, fmt.Errorf("read members: %w", err)
	}
	if len(members.Servers) == 0 {
		return r, errors.New("recover: this node has never been a member of a group")
	}
	for _, s := range members.Servers {
		r.Was = append(r.Was, nodeOf(s.ID))
		if nodeOf(s.ID) != cfg.NodeID {
			r.Lost = append(r.Lost, nodeOf(s.ID))
		}
	}
	if err := g.askTheLost(ctx, members); err != nil {
		return r, err
	}
	fresh, err := prepare(cfg) // the other machine has read the snapshot already
	if err != nil {
		return r, err
	}
	alone := raft.Configuration{Servers: []raft.Server{{ID: serverID(cfg.NodeID), Address: "recovered"}}}
	if at := cfg.Cluster.Advertise; at != "" {
		alone.Servers[0].Address = raft.ServerAddress(at)
	}
	err = raft.RecoverCluster(conf, recovering{fresh.machine, members}, g.disk.log, g.disk.log, g.disk.snapshots, transport, alone)
	if err != nil {
		return r, fmt.Errorf("recover: %w", err)
	}
	return r, nil
}

// recovering is the machine whose state becomes that of the group of one. It
// writes down the members that there were, as far as the group had not come to
// that: by it checkMembers tells a group that was cut down from one that never
// grew, which may not start with peers in its configuration.
type recovering struct {
	*machine
	were raft.Configuration
}

// Snapshot implements raft.FSM. RecoverCluster calls it once, after all commands.
func (r recovering) Snapshot() (raft.FSMSnapshot, error) {
	r.mu.Lock()
	for _, s := range r.were.Servers {
		node := nodeOf(s.ID)
		if _, ok := r.members.members[node]; !ok {
			r.members.members[node] = member{Node: node, Address: string(s.Address), NonVoter: s.Suffrage != raft.Voter}
		}
	}
	r.members.publish()
	r.mu.Unlock()
	return r.machine.Snapshot()
}

// askAll pings all other members at once, and returns what those say that answer.
func (c *calls) askAll(ctx context.Context, members raft.Configuration) map[uint16]pong {
	var mu sync.Mutex // guards answers
	answers := map[uint16]pong{}
	var all sync.WaitGroup
	for _, s := range members.Servers {
		node := nodeOf(s.ID)
		if node == c.node {
			continue
		}
		all.Go(func() {
			text, err := c.call(ctx, node, callPing, []byte(`{}`))
			var p pong
			if err == nil && json.Unmarshal(text, &p) == nil {
				mu.Lock()
				defer mu.Unlock()
				answers[node] = p
			}
		})
	}
	all.Wait()
	return answers
}

// askTheLost refuses if the group is not lost.
func (g *Group) askTheLost(ctx context.Context, members raft.Configuration) error {
	lookup := func(node uint16) []string {
		list := g.addresses(node)
		for _, s := range members.Servers {
			if nodeOf(s.ID) == node && !slices.Contains(list, string(s.Address)) {
				list = append(list, string(s.Address))
			}
		}
		return list
	}
	port := newDialer(g.cfg.NodeID, lookup, g.log)
	if g.cfg.Cluster.TLS.set() {
		var err error
		if port.creds, err = loadCredentials(g.cfg.Cluster.TLS, g.log); err != nil {
			return err
		}
	}
	calls := newCalls(g.cfg.NodeID, port)
	defer func() { _ = port.close(); calls.close() }()
	ctx, cancel := context.WithTimeout(ctx, recoverLimit)
	defer cancel()

	answers := calls.askAll(ctx, members)
	voters, answered := 0, 1
	for _, s := range members.Servers {
		if s.Suffrage == raft.Voter {
			voters++
		}
		p, ok := answers[nodeOf(s.ID)]
		if !ok {
			continue
		}
		if p.Leader != 0 {
			return fmt.Errorf("recover: refused: node %d answers, and node %d leads the group: it is not lost. "+
				"Start this node; if it was removed, empty its data directory's raft first", p.Node, p.Leader)
		}
		if s.Suffrage == raft.Voter {
			answered++
		}
	}
	if 2*answered > voters && voters > 1 {
		return fmt.Errorf("recover: refused: with this node %d of %d voters answer: start it, and they elect a leader", answered, voters)
	}
	return nil
}
