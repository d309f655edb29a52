package sink

import (
	"context"
	"sync"
	"time"
)

// DatabaseService is the name of the store's breaker.
const DatabaseService = "database"

// breakerPoll is how long a caller that the breaker holds back waits at most
// before it asks again, should no change be told.
const breakerPoll = time.Second

// gate stands between the workers and a store that may be down. While the
// store is up, all pass. When a call finds it down, the gate lets one caller in
// at a time, each after a delay that grows with the failures in a row; as soon
// as one gets through, it admits twice as many with every success, so that a
// store that has just come back meets no stampede.
//
// The store's breaker, if there is one, is told of each call, and each call asks
// it first: what it holds back waits here. It is shared by the cluster, so the
// one caller that tries again is then the only one of all nodes.
type gate struct {
	workers  int
	backoff  Backoff
	random   func() uint64
	breakers Breakers // nil: none

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
type pass struct {
	round  uint64
	permit Permit // of the breaker; nil: none was asked for
}

// tell tells the breaker how the call went, and of a failure why.
func (p pass) tell(v Verdict, why string) {
	if p.permit != nil {
		p.permit.Done(v, why)
	}
}

// enter waits until a call may be made, or ctx ends. It looks for room first:
// whoever may pass at once does so even when ctx has ended.
func (g *gate) enter(ctx context.Context) (pass, error) {
	for {
		g.mu.Lock()
		wait := time.Until(g.notBefore)
		room := g.inside < g.admitted
		if room && wait <= 0 {
			p, ok := g.admitLocked()
			if ok {
				g.mu.Unlock()
				return p, nil
			}
			wait = breakerPoll
		}
		changed := g.changed
		g.mu.Unlock()

		var due <-chan time.Time // nil: only a change can help
		stop := func() bool { return true }
		if room {
			timer := time.NewTimer(wait)
			due, stop = timer.C, timer.Stop
		}
		select {
		case <-ctx.Done():
			stop()
			return pass{}, context.Cause(ctx)
		case <-changed:
		case <-due:
		}
		stop()
	}
}

func (g *gate) admitLocked() (pass, bool) {
	p := pass{round: g.round}
	if g.breakers != nil {
		var ok bool
		if p.permit, ok = g.breakers.Acquire(DatabaseService); !ok {
			return pass{}, false
		}
	}
	g.inside++
	return p, true
}

// watch has those who wait ask again when the breaker lets calls through.
func (g *gate) watch() (cancel func()) {
	if g.breakers == nil {
		return func() {}
	}
	return g.breakers.Subscribe(func(service string, callable bool) {
		if service != DatabaseService || !callable {
			return
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.changeLocked()
	})
}

// leave ends a call that the store answered, be it with an error. It returns
// for how long the store was down until now; 0: it was not.
func (g *gate) leave(p pass) (outage time.Duration) {
	p.tell(Success, "")
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

// leaveDown ends a call that found the store down, with that error. It reports
// whether that is news.
func (g *gate) leaveDown(p pass, err error) (news bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	news = g.downSince.IsZero()
	if news {
		g.downSince = time.Now()
	}
	// Calls that were under way together fail together: that is one failure,
	// not as many as there are workers.
	if p.round != g.round {
		p.tell(Neutral, "")
	} else {
		p.tell(Failure, whyOf(err))
		g.round++
		g.failures++
		g.admitted = 1
		g.notBefore = time.Now().Add(g.backoff.Delay(g.failures, g.random()))
	}
	g.exitLocked()
	return news
}

// abandon ends a call that says nothing about the store.
func (g *gate) abandon(p pass) {
	p.tell(Neutral, "")
	g.mu.Lock()
	defer g.mu.Unlock()
	g.exitLocked()
}

func (g *gate) exitLocked() {
	g.inside--
	g.changeLocked()
}

func (g *gate) changeLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// since returns when the store was first found down; zero: it is up.
func (g *gate) since() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.downSince
}
