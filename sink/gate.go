package sink

import (
	"context"
	"sync"
	"time"
)

// gate stands between the workers and a store that may be down. While the
// store is up, all pass. When a call finds it down, the gate lets one caller in
// at a time, each after a delay that grows with the failures in a row; as soon
// as one gets through, it admits twice as many with every success, so that a
// store that has just come back meets no stampede.
type gate struct {
	workers int
	backoff Backoff
	random  func() uint64

	mu        sync.Mutex // guards what follows
	inside    int
	admitted  int           // how many may be inside, 1 to workers
	failures  int           // in a row; 0: the store is up as far as we know
	round     uint64        // counts the times the gate closed
	notBefore time.Time     // nobody enters earlier
	downSince time.Time     // zero: up
	changed   chan struct{} // closed, and replaced, when waiting may be over
}

func newGate(workers int, backoff Backoff, random func() uint64) *gate {
	return &gate{workers: workers, backoff: backoff, random: random, admitted: workers, changed: make(chan struct{})}
}

// pass is the leave to make one call.
type pass struct{ round uint64 }

// enter waits until a call may be made, or ctx ends. It looks for room first:
// whoever may pass at once does so even when ctx has ended.
func (g *gate) enter(ctx context.Context) (pass, error) {
	for {
		g.mu.Lock()
		wait := time.Until(g.notBefore)
		room := g.inside < g.admitted
		if room && wait <= 0 {
			g.inside++
			p := pass{g.round}
			g.mu.Unlock()
			return p, nil
		}
		changed := g.changed
		g.mu.Unlock()

		var due <-chan time.Time // nil: only a change can help
		if room {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			due = timer.C
		}
		select {
		case <-ctx.Done():
			return pass{}, context.Cause(ctx)
		case <-changed:
		case <-due:
		}
	}
}

// leave ends a call that the store answered, be it with an error. It returns
// for how long the store was down until now; 0: it was not.
func (g *gate) leave(pass) (outage time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.downSince.IsZero() {
		outage = max(time.Since(g.downSince), 1)
	}
	g.downSince, g.notBefore, g.failures = time.Time{}, time.Time{}, 0
	g.admitted = min(g.admitted+1, g.workers)
	g.exitLocked()
	return outage
}

// leaveDown ends a call that found the store down. It reports whether that is
// news.
func (g *gate) leaveDown(p pass) (news bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	news = g.downSince.IsZero()
	if news {
		g.downSince = time.Now()
	}
	// Calls that were under way together fail together: that is one failure,
	// not as many as there are workers.
	if p.round == g.round {
		g.round++
		g.failures++
		g.admitted = 1
		g.notBefore = time.Now().Add(g.backoff.Delay(g.failures, g.random()))
	}
	g.exitLocked()
	return news
}

// abandon ends a call that says nothing about the store.
func (g *gate) abandon(pass) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.exitLocked()
}

func (g *gate) exitLocked() {
	g.inside--
	close(g.changed)
	g.changed = make(chan struct{})
}

// since returns when the store was first found down; zero: it is up.
func (g *gate) since() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.downSince
}
