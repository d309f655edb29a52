package raftstate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/hashicorp/raft"
)

const callMembers = "raft/members"

// Codes of a change of members that was refused.
const (
	CodeNoMember    = "not_found"   // the node is not one
	CodeBadMember   = "invalid"     // the change makes no sense
	CodeUnavailable = "unavailable" // nodes that it needs do not answer
	codeNotLeader   = "not_leader"  // asked of a node that does not lead
	opAdd           = "add"
	opRemove        = "remove"
	opTransfer      = "transfer"
	transferPatient = 10 // heartbeats that a new leader may take
)

// change is one change of members, as nodes ask the leader for it.
type change struct {
	Op       string `json:"op"`
	Node     uint16 `json:"node,omitzero"`
	Address  string `json:"address,omitzero"`
	NonVoter bool   `json:"nonvoter,omitzero"`
}

// AddMember makes a node a member: without a vote at first, and with one as soon
// as it has caught up, unless it is to stay without, or there are five already.
// A node that is a member gets the address and the wish. The error is a
// *CallError of the codes above, or as that of a change of accounts.
func (g *Group) AddMember(ctx context.Context, node uint16, address string, nonvoter bool) error {
	if _, _, err := net.SplitHostPort(address); node == 0 || err != nil {
		return &CallError{CodeBadMember, "write a node, 1 to 65535, and the address of its cluster port, host:port"}
	}
	return g.change(ctx, change{Op: opAdd, Node: node, Address: address, NonVoter: nonvoter})
}

// RemoveMember takes a node out of the group. It serves no more, and it must not
// come back with its state: added again, it starts with an empty directory.
func (g *Group) RemoveMember(ctx context.Context, node uint16) error {
	return g.change(ctx, change{Op: opRemove, Node: node})
}

// Transfer hands the leadership to another voter, and returns when there is
// another leader. to 0: whichever is the furthest.
//
// It is for an operator who is about to stop the leader: a transfer that fails
// can leave raft refusing all changes until the process is restarted
// (hashicorp/raft issue 696), which lead notices and does.
func (g *Group) Transfer(ctx context.Context, to uint16) error {
	before := g.Leader()
	if before != 0 && before == to {
		return nil
	}
	err := g.change(ctx, change{Op: opTransfer, Node: to})
	if refusal := (*CallError)(nil); err != nil && !(errors.As(err, &refusal) && refusal.Code == CodeInternal) {
		return err
	}
	// A transfer for which raft's time was too short may come to its end all the same.
	ctx, cancel := context.WithTimeout(ctx, transferPatient*g.heartbeat())
	defer cancel()
	for {
		if l := g.Leader(); l != 0 && l != before {
			return nil
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			if err != nil {
				return fmt.Errorf("transfer leadership: %w: no other node leads yet: %w", ErrUnknownOutcome, err)
			}
			return fmt.Errorf("transfer leadership: %w: no other node leads yet", ErrUnknownOutcome)
		}
	}
}

// change asks the leader, wherever it is, until it answers or time is up. A
// change that is asked for twice is the same as once.
func (g *Group) change(ctx context.Context, c change) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.CommandTimeout)
	defer cancel()
	body, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode change of members: %w", err)
	}
	asked := false
	for {
		err := errNoLead
		if leader := g.Leader(); leader != 0 {
			asked = true
			_, err = g.calls.call(ctx, leader, callMembers, body)
		}
		refusal := (*CallError)(nil)
		switch {
		case err == nil:
			return nil
		case g.isClosed():
			return ErrClosed
		case errors.As(err, &refusal) && refusal.Code != codeNotLeader && refusal.Code != CodeUnknownCall:
			return err
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			if asked {
				return fmt.Errorf("change members: %w: %w", ErrUnknownOutcome, err)
			}
			return fmt.Errorf("change members: %w: %w", ErrNotReady, err)
		}
	}
}

// answerMembers is the leader's side of change.
func (g *Group) answerMembers(ctx context.Context, _ uint16, body []byte) ([]byte, error) {
	var c change
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, &CallError{CodeBadMember, err.Error()}
	}
	if !g.leads() {
		return nil, &CallError{codeNotLeader, "this node does not lead"}
	}
	var err error
	switch c.Op {
	case opAdd:
		err = g.add(ctx, c)
	case opRemove:
		err = g.remove(ctx, c.Node)
	case opTransfer:
		err = g.transfer(ctx, c.Node)
	default:
		err = &CallError{CodeBadMember, "no such change: " + c.Op}
	}
	if errors.Is(err, raft.ErrNotLeader) {
		err = &CallError{codeNotLeader, err.Error()}
	}
	return nil, err
}

func (g *Group) add(ctx context.Context, c change) error {
	if g.port == nil {
		return &CallError{CodeBadMember, "this appliance has no cluster port: set cluster.listen"}
	}
	// The address first: raft dials by it as soon as the node is a member.
	if err := g.setMember(ctx, member{Node: c.Node, Address: c.Address, NonVoter: c.NonVoter}); err != nil {
		return err
	}
	if _, ok := g.server(c.Node); ok {
		return nil
	}
	return g.await(ctx, func() error {
		return g.raft.AddNonvoter(serverID(c.Node), raft.ServerAddress(c.Address), 0, tryLimit).Error()
	})
}

func (g *Group) server(node uint16) (raft.Server, bool) {
	servers := g.servers()
	i := slices.IndexFunc(servers, func(s raft.Server) bool { return nodeOf(s.ID) == node })
	if i < 0 {
		return raft.Server{}, false
	}
	return servers[i], true
}

func (g *Group) remove(ctx context.Context, node uint16) error {
	server, ok := g.server(node)
	if !ok {
		return &CallError{CodeNoMember, fmt.Sprintf("node %d is not a member", node)}
	}
	if server.Suffrage == raft.Voter {
		if voters, answer := g.votersWithout(ctx, node); 2*answer <= voters {
			return &CallError{CodeUnavailable, fmt.Sprintf("without node %d, %d voters are left and %d of them answer: no majority", node, voters, answer)}
		}
	}
	// While this node surely leads: it may be the one that goes.
	body, err := json.Marshal(member{Node: node})
	if err != nil {
		return fmt.Errorf("encode member: %w", err)
	}
	if _, err := propose[member](ctx, g, kindDropMember, body); err != nil {
		return err
	}
	return g.await(ctx, func() error { return g.raft.RemoveServer(server.ID, 0, tryLimit).Error() })
}

// votersWithout counts the voters beside node, and those of them that answer. It
// asks them: one that has died a moment ago has answered lately, and a change of
// members that no majority agrees to costs the group its leader.
func (g *Group) votersWithout(ctx context.Context, node uint16) (voters, answer int) {
	g.pingAll(context.WithoutCancel(ctx)) // that nobody waits any more says nothing of them; it is bounded by itself
	for _, s := range g.servers() {
		n := nodeOf(s.ID)
		if s.Suffrage != raft.Voter || n == node {
			continue
		}
		voters++
		if n == g.cfg.NodeID || !g.peers.get(n).away {
			answer++
		}
	}
	return voters, answer
}

// reaches reports whether a node has answered lately.
func (g *Group) reaches(node uint16) bool {
	p := g.peers.get(node)
	return !p.at.IsZero() && time.Since(p.at) < 3*g.pingLimit()
}

// transfer hands the lead only to a node that answers: raft's replication to one
// that is away waits for it (see deliver), and a second transfer to the same node
// would wait with it, for ever, with all changes refused meanwhile.
func (g *Group) transfer(ctx context.Context, to uint16) error {
	if g.voters() < 2 {
		return &CallError{CodeBadMember, "there is no other node that could lead"}
	}
	if to == 0 {
		if to = g.furthest(); to == 0 {
			return &CallError{CodeUnavailable, "no other node that could lead answers"}
		}
	}
	server, ok := g.server(to)
	switch {
	case !ok || server.Suffrage != raft.Voter:
		return &CallError{CodeNoMember, fmt.Sprintf("node %d is no member with a vote", to)}
	case !g.answers(to):
		return &CallError{CodeUnavailable, fmt.Sprintf("node %d does not answer: it cannot lead", to)}
	}
	g.transfers.Add(1)
	defer g.transfers.Add(-1)
	return g.await(ctx, func() error { return g.raft.LeadershipTransferToServer(server.ID, server.Address).Error() })
}

// furthest is the other voter that answers and has most of the log; 0: none does.
func (g *Group) furthest() (node uint16) {
	var last uint64
	for _, s := range g.servers() {
		n := nodeOf(s.ID)
		if s.Suffrage != raft.Voter || n == g.cfg.NodeID || !g.answers(n) {
			continue
		}
		if has := g.peers.get(n).Last; node == 0 || has > last {
			node, last = n, has
		}
	}
	return node
}

// handOver gives the leadership to another node, as the last act: a transfer that
// comes to nothing can leave raft refusing all commands for as long as the
// process lives (hashicorp/raft issue 696).
func (g *Group) handOver() {
	if !g.leads() {
		return
	}
	to, ok := g.server(g.furthest())
	if !ok {
		return // nobody answers
	}
	done := make(chan error, 1)
	g.transfers.Add(1)
	g.waits.Go(func() { done <- g.raft.LeadershipTransferToServer(to.ID, to.Address).Error() })
	select {
	case err := <-done:
		if err != nil {
			g.log.Info("raft: leadership was not handed over; the others will elect", "error", err)
		}
	case <-time.After(2 * g.heartbeat()):
	}
}

func (g *Group) voters() (n int) {
	for _, s := range g.servers() {
		if s.Suffrage == raft.Voter {
			n++
		}
	}
	return n
}

// answers reports whether a node does now, as far as this one knows, which leads.
func (g *Group) answers(node uint16) bool {
	seen := g.peers.get(node)
	return seen.beats || !seen.away && g.reaches(node)
}
