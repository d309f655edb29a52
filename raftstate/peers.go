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

const callPing = "raft/ping"

// ping is what nodes tell each other once a heartbeat. It carries addresses, so
// that one that has moved is found again: it pings the others, and the one that
// leads writes the new address down for all.
type ping struct {
	Address string `json:"address"` // of the sender
}

// pong is the answer.
type pong struct {
	Node    uint16 `json:"node"`
	Leader  uint16 `json:"leader"` // that it knows; 0: none
	Term    uint64 `json:"term"`
	Last    uint64 `json:"last"`    // its last log index
	Commit  uint64 `json:"commit"`  // and how much of it is committed
	Applied uint64 `json:"applied"` // and applied
	Command uint64 `json:"command"` // the last command in its state
	// Member: the one that asked is a member, as the answering node has it.
	Member bool `json:"member"`
	// Led: the answering node leads.
	Led bool `json:"led"`
}

// peer is what this node has last heard of another.
type peer struct {
	pong
	at     time.Time // when; zero: never
	steady int       // answers in a row that were close behind the leader
	away   bool      // the last ping got no answer
	beats  bool      // raft's last heartbeat to it did
}

// peers is what this node hears of the others.
type peers struct {
	hurry chan struct{} // capacity 1: do not wait for the next heartbeat

	mu    sync.Mutex // guards all below
	seen  map[uint16]peer
	moved map[uint16]string // where nodes say they are, and the group does not know yet
}

func newPeers() *peers {
	return &peers{hurry: make(chan struct{}, 1), seen: map[uint16]peer{}, moved: map[uint16]string{}}
}

// isAway reports whether neither the last ping to a node nor raft's last heartbeat
// got an answer. A node that is only too busy for pings is not away.
func (p *peers) isAway(node uint16) bool {
	seen := p.get(node)
	return seen.away && !seen.beats
}

// beat notes what became of a heartbeat.
func (p *peers) beat(node uint16, answered bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.seen[node]
	seen.beats = answered
	p.seen[node] = seen
}

// pingNow has the others pinged at once: one may have come back, or gone.
func (p *peers) pingNow() {
	select {
	case p.hurry <- struct{}{}:
	default:
	}
}

func (p *peers) get(node uint16) peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[node]
}

// closeBehind is how many entries behind the leader a node may be and count as
// caught up; steadyPongs, for how many heartbeats before it gets a vote.
const (
	closeBehind = 64
	steadyPongs = 3
	maxVoters   = 5
)

func (g *Group) heartbeat() time.Duration {
	if g.port == nil {
		return aloneTimeout
	}
	return g.cfg.Cluster.Heartbeat
}

// pingLimit is how long the others get to answer a ping.
func (g *Group) pingLimit() time.Duration { return max(g.heartbeat(), 250*time.Millisecond) }

// keepInTouch pings the other nodes each heartbeat until ctx ends, makes this
// node ready once it has caught up, and looks after the members while it leads.
func (g *Group) keepInTouch(ctx context.Context) {
	tick := time.NewTicker(g.heartbeat())
	defer tick.Stop()
	for {
		g.pingAll(ctx)
		g.judge()
		if g.leads() {
			g.tendMembers(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-g.peers.hurry:
		}
	}
}

// others lists the nodes that there are as far as this node knows, without it.
func (g *Group) others() []uint16 {
	nodes := map[uint16]bool{}
	for _, s := range g.servers() {
		nodes[nodeOf(s.ID)] = true
	}
	for n := range *g.machine.members.known.Load() {
		nodes[n] = true
	}
	for n := range g.cfg.Cluster.Peers {
		nodes[n] = true
	}
	delete(nodes, g.cfg.NodeID)
	var list []uint16
	for n := range nodes {
		list = append(list, n)
	}
	slices.Sort(list)
	return list
}

func (g *Group) servers() []raft.Server {
	future := g.raft.GetConfiguration() // is answered before it is returned
	if future.Error() != nil {
		return nil
	}
	return future.Configuration().Servers
}

func (g *Group) pingAll(ctx context.Context) {
	body, _ := json.Marshal(ping{Address: g.cfg.Cluster.Advertise})
	ctx, cancel := context.WithTimeout(ctx, g.pingLimit())
	defer cancel()
	var all sync.WaitGroup
	for _, node := range g.others() {
		all.Go(func() {
			text, err := g.calls.call(ctx, node, callPing, body)
			var answer pong
			if err == nil {
				err = json.Unmarshal(text, &answer)
			}
			if err == nil {
				g.heard(node, answer)
			}
			g.sayReach(ctx, node, err)
		})
	}
	all.Wait()
}

// sayReach logs when a node goes away or comes back, once each.
func (g *Group) sayReach(ctx context.Context, node uint16, err error) {
	g.peers.mu.Lock()
	seen := g.peers.seen[node]
	wasAway := seen.away
	seen.away = err != nil
	g.peers.seen[node] = seen
	g.peers.mu.Unlock()
	switch {
	case wasAway && err == nil:
		g.log.Info("raft: a node answers again", "node", node)
	case !wasAway && err != nil && errors.Is(context.Cause(ctx), context.Canceled): // this node stops
	case !wasAway && err != nil:
		g.log.Warn("raft: a node does not answer", "node", node, "error", err)
	}
}

func (g *Group) heard(node uint16, answer pong) {
	last := g.raft.LastIndex()
	g.peers.mu.Lock()
	defer g.peers.mu.Unlock()
	seen := g.peers.seen[node]
	seen.pong, seen.at = answer, time.Now()
	if answer.Applied+closeBehind >= last {
		seen.steady++
	} else {
		seen.steady = 0
	}
	g.peers.seen[node] = seen
}

// answerPing implements Handler.
func (g *Group) answerPing(_ context.Context, from uint16, body []byte) ([]byte, error) {
	var p ping
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, fmt.Errorf("read ping: %w", err)
	}
	if g.leads() && p.Address != "" {
		g.moved(from, p.Address)
	}
	if g.peers.isAway(from) {
		g.peers.pingNow()
	}
	return json.Marshal(g.pong(from))
}

func (g *Group) pong(from uint16) pong {
	member := slices.ContainsFunc(g.servers(), func(s raft.Server) bool { return nodeOf(s.ID) == from })
	return pong{Node: g.cfg.NodeID, Leader: g.Leader(), Term: g.raft.CurrentTerm(), Last: g.raft.LastIndex(),
		Commit: g.raft.CommitIndex(), Applied: g.raft.AppliedIndex(), Command: g.machine.index.Load(),
		Member: member, Led: g.leads()}
}

// moved notes that a node says of itself where it is. tendMembers writes it down.
func (g *Group) moved(node uint16, address string) {
	known, ok := (*g.machine.members.known.Load())[node]
	if ok && known.Address == address {
		return
	}
	g.peers.mu.Lock()
	defer g.peers.mu.Unlock()
	if len(g.peers.moved) < maxMoved {
		g.peers.moved[node] = address
	}
}

const maxMoved = 64

// judge decides whether this node may serve, by what the leader has said of it.
// Without a leader it stays as it is. A leader is judged by lead.
func (g *Group) judge() {
	if g.leads() {
		return
	}
	leader, ok := g.peers.leader(3 * g.pingLimit())
	switch {
	case !ok:
	case !leader.Member:
		if g.expelled.CompareAndSwap(false, true) {
			g.isReady.Store(false)
			g.log.Warn("raft: this node is not a member of the group: forebay cluster add",
				"node", g.cfg.NodeID, "address", g.cfg.Cluster.Advertise, "leader", leader.Node)
		}
	case g.raft.AppliedIndex() >= leader.Commit && g.machine.caughtUp(leader.Command):
		g.expelled.Store(false)
		g.becomeReady()
	}
}

// leader returns what the node that leads in the highest term has said within
// the last while.
func (p *peers) leader(while time.Duration) (best pong, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, seen := range p.seen {
		if seen.Led && time.Since(seen.at) < while && (!ok || seen.Term > best.Term) {
			best, ok = seen.pong, true
		}
	}
	return best, ok
}

func (g *Group) leads() bool { return g.raft.State() == raft.Leader }

// tendMembers is the leader's: it writes down where nodes are, and gives those a
// vote that are to have one and have caught up. Errors come again with the next
// heartbeat.
func (g *Group) tendMembers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	known := *g.machine.members.known.Load()
	if own := g.cfg.Cluster.Advertise; own != "" && known[g.cfg.NodeID].Address != own {
		g.moved(g.cfg.NodeID, own)
	}
	servers := g.servers()
	g.peers.mu.Lock()
	moved := g.peers.moved
	g.peers.moved = map[uint16]string{}
	g.peers.mu.Unlock()
	for node, address := range moved {
		if !slices.ContainsFunc(servers, func(s raft.Server) bool { return nodeOf(s.ID) == node }) {
			continue // not of this group, or not any more
		}
		m := known[node]
		m.Node, m.Address = node, address
		if err := g.setMember(ctx, m); err != nil {
			g.log.Warn("raft: a node's address could not be written down", "node", node, "error", err)
		}
	}
	g.promote(ctx, servers, known)
}

func (g *Group) promote(ctx context.Context, servers []raft.Server, known map[uint16]member) {
	voters := 0
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	for _, s := range servers {
		node := nodeOf(s.ID)
		if s.Suffrage == raft.Voter || known[node].NonVoter || voters >= maxVoters {
			continue
		}
		if p := g.peers.get(node); p.steady < steadyPongs || time.Since(p.at) > 3*g.pingLimit() {
			continue
		}
		err := g.await(ctx, func() error { return g.raft.AddVoter(s.ID, s.Address, 0, tryLimit).Error() })
		if err != nil {
			g.log.Warn("raft: a node that has caught up could not be given a vote", "node", node, "error", err)
			return
		}
		g.log.Info("raft: a node has caught up and votes from now on", "node", node)
		return // one change at a time
	}
}

func (g *Group) setMember(ctx context.Context, m member) error {
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode member: %w", err)
	}
	_, err = propose[member](ctx, g, kindSetMember, body)
	return err
}
