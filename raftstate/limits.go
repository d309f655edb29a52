package raftstate

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"forebay/raftstate/limiter"
)

// leaseEvery is the least time from one command of leases to the next: what
// nodes need meanwhile travels together. It bounds the commands a second,
// whatever the number of accounts, requests and nodes. What no call waits for
// gathers for longer: a command costs every node a write to its disk.
const (
	leaseEvery  = 8 * time.Millisecond
	leaseGather = 20 * time.Millisecond
)

// maxLeases bounds the requests of one command.
const maxLeases = 64

// leases gathers the nodes' requests on the leader.
type leases struct {
	calls chan *leaseCall
}

type leaseCall struct {
	request *limiter.Request
	answer  *limiter.Answer
	err     error
	done    chan struct{}
}

func newLeases() leases { return leases{calls: make(chan *leaseCall, maxLeases)} }

// Exchange implements limiter.Group: it brings a node's request for tokens and
// slots before the replicated state, over the leader. An error means that it is
// not known whether it was carried out: the same request must be repeated.
func (g *Group) Exchange(ctx context.Context, q *limiter.Request) (*limiter.Answer, error) {
	switch leader := g.Leader(); leader {
	case 0:
		return nil, errNoLead
	case g.cfg.NodeID:
		return g.exchangeHere(ctx, q)
	default:
		body, err := g.calls.call(ctx, leader, callLease, q.Append(nil))
		if err != nil {
			return nil, fmt.Errorf("ask the leader: %w", err)
		}
		return limiter.DecodeAnswer(body)
	}
}

const callLease = "raft/lease"

// answerLease is the leader's side of Exchange.
func (g *Group) answerLease(ctx context.Context, from uint16, body []byte) ([]byte, error) {
	q, err := limiter.DecodeRequest(body)
	if err != nil {
		return nil, err
	}
	if q.Node != from {
		return nil, fmt.Errorf("node %d asks in the name of node %d", from, q.Node)
	}
	answer, err := g.exchangeHere(ctx, q)
	if err != nil {
		return nil, err
	}
	return answer.Append(nil), nil
}

func (g *Group) exchangeHere(ctx context.Context, q *limiter.Request) (*limiter.Answer, error) {
	call := &leaseCall{request: q, done: make(chan struct{})}
	select {
	case g.leases.calls <- call:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case <-call.done:
		return call.answer, call.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// runLeases proposes what Lease has gathered, until ctx ends.
func (g *Group) runLeases(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case first := <-g.leases.calls:
			began := time.Now()
			g.lease(ctx, g.gather(ctx, first))
			if rest := leaseEvery - time.Since(began); rest > 0 {
				pause := time.NewTimer(rest)
				select {
				case <-pause.C:
				case <-ctx.Done():
				}
				pause.Stop()
			}
		}
	}
}

// gather takes what is there, and waits for more as long as no call waits.
func (g *Group) gather(ctx context.Context, first *leaseCall) []*leaseCall {
	calls := []*leaseCall{first}
	patience := time.NewTimer(leaseGather)
	defer patience.Stop()
	for waits := first.request.Waits(); !waits && len(calls) < maxLeases; {
		select {
		case c := <-g.leases.calls:
			calls = append(calls, c)
			waits = c.request.Waits()
		case <-patience.C:
			waits = true
		case <-ctx.Done():
			return calls
		}
	}
	for len(calls) < maxLeases {
		select {
		case c := <-g.leases.calls:
			calls = append(calls, c)
		default:
			return calls
		}
	}
	return calls
}

// leaseTimeout bounds one command; nodes repeat their requests.
const leaseTimeout = 2 * time.Second

func (g *Group) lease(ctx context.Context, calls []*leaseCall) {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	cmd := limiter.Command{Nodes: g.nodes()}
	for _, c := range calls {
		cmd.Requests = append(cmd.Requests, *c.request)
	}
	c := command{kind: kindLease, body: cmd.Append(nil)}
	rand.Read(c.request[:])
	start := time.Now()
	var answers []limiter.Answer
	answer, _, err := g.tryHere(ctx, c)
	if err == nil {
		g.metrics.apply.Observe(time.Since(start).Seconds())
		answers = answer.([]limiter.Answer)
	}
	for i, c := range calls {
		if c.err = err; err == nil {
			c.answer = &answers[i]
		}
		close(c.done)
	}
}

// nodes is how many members the group has.
func (g *Group) nodes() int {
	future := g.raft.GetConfiguration() // is answered before it is returned
	if future.Error() != nil {
		return 1
	}
	return len(future.Configuration().Servers)
}

// Follow has s told when plans change and when others lack what it holds.
func (g *Group) Follow(s *limiter.Spender) { g.machine.limits.spender.Store(s) }

// SetWindow makes d, in whole milliseconds, the window of all limits.
func (g *Group) SetWindow(ctx context.Context, d time.Duration) error {
	if g.Window() == d.Truncate(time.Millisecond) || d < time.Millisecond {
		return nil
	}
	_, err := g.proposeNow(ctx, kindWindow, binary.BigEndian.AppendUint64(nil, uint64(d.Milliseconds())))
	if err != nil {
		return fmt.Errorf("set window: %w", err)
	}
	return nil
}

// Window is the window of all limits.
func (g *Group) Window() time.Duration {
	return time.Duration(g.machine.limits.window.Load()) * time.Millisecond
}

// Use is what counts against an account in the whole group, as this node knows
// it: a follower may be a command behind. Errors as Account.
func (g *Group) Use(id string) (limiter.Limits, limiter.Use, error) {
	g.machine.mu.RLock()
	defer g.machine.mu.RUnlock()
	l, ok := g.machine.limits.limitsOf(id)
	if !ok {
		return l, limiter.Use{}, notFound(id)
	}
	return l, g.machine.limits.Use(id, l), nil
}

// Busiest lists the n accounts with the most messages in the window, the
// busiest first.
func (g *Group) Busiest(n int) []limiter.Busy {
	g.machine.mu.RLock()
	defer g.machine.mu.RUnlock()
	return g.machine.limits.Busiest(n)
}

// Held is how many accounts this node holds something of.
func (g *Group) Held() int {
	g.machine.mu.RLock()
	defer g.machine.mu.RUnlock()
	return g.machine.limits.Held(g.cfg.NodeID)
}

// Limits are those of an account's plan; false: there is no such account.
func (g *Group) Limits(id string) (limiter.Limits, bool) {
	g.machine.mu.RLock()
	defer g.machine.mu.RUnlock()
	return g.machine.limits.limitsOf(id)
}
