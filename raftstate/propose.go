package raftstate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/hashicorp/raft"
)

// How long one try of a command may take before another is made, perhaps with
// another leader; and the pause between two tries.
const (
	tryLimit   = 3 * time.Second
	retryPause = 50 * time.Millisecond
	// followLimit bounds the wait of a follower for its own state to reach a
	// command that the leader has applied for it.
	followLimit = 2 * time.Second
)

// The ways a try ends, beside having been applied.
var (
	// errNotTaken: surely not applied, and not by anyone later.
	errNotTaken = errors.New("not taken")
	// errUnsure: it may be applied already, or later.
	errUnsure = errors.New("it is not known whether it was applied")
	errNoLead = fmt.Errorf("%w: the group has no leader that this node can reach", errNotTaken)
)

// propose has the group carry out a command of any part, and returns the part's
// answer, which must be an A. Any node may propose: a follower hands the command
// to the leader, and returns when its own state has it too. It tries until the
// command is applied or time is up: Config.CommandTimeout, or ctx if that ends
// earlier. All tries carry the same request id, so that only one of them counts.
// Whoever calls it may first wait with WaitLeader.
func propose[A any](ctx context.Context, g *Group, kind uint8, body []byte) (A, error) {
	answer, err := g.proposeNow(ctx, kind, body)
	if err != nil {
		var none A
		return none, fmt.Errorf("%s: %w", g.machine.byKind[kind].kinds()[kind], err)
	}
	return answer.(A), nil
}

func (g *Group) proposeNow(ctx context.Context, kind uint8, body []byte) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.CommandTimeout)
	defer cancel()
	c := command{kind: kind, body: body}
	rand.Read(c.request[:])

	start := time.Now()
	unsure := false
	for {
		answer, err := g.try(ctx, c)
		switch {
		case err == nil:
			g.metrics.apply.Observe(time.Since(start).Seconds())
			return answer, nil
		case errors.Is(err, errUnsure):
			unsure = true
		case errors.Is(err, ErrClosed):
			if unsure {
				return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, ErrClosed)
			}
			return nil, ErrClosed
		case !errors.Is(err, errNotTaken):
			return nil, err
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			if unsure {
				return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
			}
			return nil, fmt.Errorf("%w: %w", ErrNotReady, err)
		}
	}
}

// try hands the command to the leader once, here or elsewhere.
func (g *Group) try(ctx context.Context, c command) (any, error) {
	if g.isClosed() {
		return nil, ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	switch leader := g.Leader(); leader {
	case 0:
		return nil, errNoLead
	case g.cfg.NodeID:
		answer, _, err := g.tryHere(ctx, c)
		return answer, err
	default:
		return g.tryThere(ctx, leader, c)
	}
}

// tryHere is for the leader, and stamps the command. index is the entry's.
func (g *Group) tryHere(ctx context.Context, c command) (answer any, index uint64, err error) {
	term := g.raft.CurrentTerm()
	var ok bool
	if c.stamp, ok = g.clock.now(term); !ok || g.raft.CurrentTerm() != term {
		return nil, 0, fmt.Errorf("%w: this node does not lead, or not yet", errNotTaken)
	}
	out, index, err := g.submit(ctx, c.encode())
	switch {
	case err == nil:
		return out.answer, index, out.err
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return nil, 0, fmt.Errorf("%w: %w", errNotTaken, err)
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, errDeadline):
		return nil, 0, fmt.Errorf("%w: %w", errUnsure, err)
	case errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, ErrClosed):
		return nil, 0, ErrClosed
	}
	// The log could not be written, say: raft does not tell which side of the
	// write it was.
	return nil, 0, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
}

func (g *Group) submit(ctx context.Context, encoded []byte) (out outcome, index uint64, err error) {
	type applied struct {
		outcome
		index uint64
	}
	answer := make(chan applied, 1)
	err = g.await(ctx, func() error {
		future := g.raft.Apply(encoded, tryLimit)
		if err := future.Error(); err != nil {
			return err
		}
		answer <- applied{future.Response().(outcome), future.Index()}
		return nil
	})
	if err == nil {
		a := <-answer
		out, index = a.outcome, a.index
	}
	return out, index, err
}

// Codes of a forwarded command.
const (
	callPropose    = "raft/propose"
	codeNotTaken   = "not_taken"
	codeUnsure     = "unsure"
	codeUnknownEnd = "unknown_outcome"
)

type forwarded struct {
	Index  uint64         `json:"index"`
	Answer jsontext.Value `json:"answer"`
}

// tryThere forwards the command. The leader never forwards it again, so it makes
// one hop.
//
// The body is kind (1 byte), request id (16), and the command's body.
func (g *Group) tryThere(ctx context.Context, leader uint16, c command) (any, error) {
	body := append([]byte{c.kind}, c.request[:]...)
	text, err := g.calls.call(ctx, leader, callPropose, append(body, c.body...))
	refusal := (*CallError)(nil)
	switch {
	case errors.As(err, &refusal) && (refusal.Code == codeNotTaken || refusal.Code == CodeUnknownCall):
		return nil, fmt.Errorf("%w: %w", errNotTaken, err)
	case errors.As(err, &refusal) && refusal.Code == codeUnknownEnd:
		return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errUnsure, err)
	}
	var f forwarded
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("%w: read answer of node %d: %w", ErrUnknownOutcome, leader, err)
	}
	answer, err := g.machine.byKind[c.kind].decodeAnswer(c.kind, f.Answer)
	if err != nil {
		return nil, fmt.Errorf("%w: read answer of node %d: %w", ErrUnknownOutcome, leader, err)
	}
	g.follow(ctx, f.Index)
	return answer, nil
}

// follow waits until this node's own state has a command, so that who made a
// change here finds it here. It gives up: the change is made all the same.
func (g *Group) follow(ctx context.Context, index uint64) {
	ctx, cancel := context.WithTimeout(ctx, followLimit)
	defer cancel()
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for g.machine.index.Load() < index {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

// answerPropose is the leader's side of tryThere.
func (g *Group) answerPropose(ctx context.Context, _ uint16, body []byte) ([]byte, error) {
	const head = 1 + len(requestID{})
	if len(body) < head || g.machine.byKind[body[0]] == nil {
		return nil, &CallError{codeNotTaken, "no command that this node knows"}
	}
	c := command{kind: body[0], request: requestID(body[1:head]), body: body[head:]}
	answer, index, err := g.tryHere(ctx, c)
	switch {
	case errors.Is(err, errNotTaken), errors.Is(err, ErrClosed):
		return nil, &CallError{codeNotTaken, err.Error()}
	case errors.Is(err, errUnsure):
		return nil, &CallError{codeUnsure, err.Error()}
	case err != nil:
		return nil, &CallError{codeUnknownEnd, err.Error()}
	}
	text, err := json.Marshal(answer)
	if err == nil {
		text, err = json.Marshal(forwarded{index, text})
	}
	if err != nil {
		return nil, &CallError{codeUnknownEnd, err.Error()}
	}
	return text, nil
}

// clock is cluster time in ms as a leader tells it: it goes on from the last
// stamp that was applied, by the monotonic clock, and never by the wall's.
//
// It is good for one term. Led again, a node must set it anew: what has passed
// between is lost. A clock that had run through would be ahead of the others',
// and to it their leases would seem to end early.
type clock struct {
	mu    sync.Mutex // guards all
	term  uint64
	base  uint64
	since time.Time
}

func (c *clock) reset(stamp, term uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.since, c.term = stamp, time.Now(), term
}

func (c *clock) now(term uint64) (stamp uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base + uint64(time.Since(c.since).Milliseconds()), term != 0 && c.term == term
}
