package raftstate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// propose has the group carry out a command of any part, and returns the part's
// answer, which must be an A. It tries until the command is applied or time is
// up: Config.CommandTimeout, or ctx if that ends earlier. All tries carry the
// same request id, so that only one of them counts. Whoever calls it may first
// wait with WaitLeader.
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
	unknown := false
	for {
		c.stamp = g.clock.now()
		out, err := g.submit(ctx, c.encode())
		switch {
		case err == nil && out.err != nil:
			return nil, out.err
		case err == nil:
			g.metrics.apply.Observe(time.Since(start).Seconds())
			return out.answer, nil
		case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
			// surely not applied
		case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, errDeadline):
			unknown = true
		case errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, ErrClosed):
			if unknown {
				return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, ErrClosed)
			}
			return nil, ErrClosed
		default: // the log could not be written, say: raft does not tell which side of the write it was
			return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			if unknown {
				return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
			}
			return nil, fmt.Errorf("%w: %w", ErrNotReady, err)
		}
	}
}

func (g *Group) submit(ctx context.Context, encoded []byte) (out outcome, err error) {
	answer := make(chan outcome, 1)
	err = g.await(ctx, func() error {
		future := g.raft.Apply(encoded, g.cfg.CommandTimeout)
		if err := future.Error(); err != nil {
			return err
		}
		answer <- future.Response().(outcome)
		return nil
	})
	if err == nil {
		out = <-answer
	}
	return out, err
}

// clock is cluster time in ms as a leader tells it: it goes on from the last
// stamp that was applied, by the monotonic clock, and never by the wall's.
type clock struct {
	mu    sync.Mutex // guards both
	base  uint64
	since time.Time
}

func (c *clock) reset(stamp uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.since = stamp, time.Now()
}

func (c *clock) now() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base + uint64(time.Since(c.since).Milliseconds())
}
