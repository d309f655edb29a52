package limiter

import (
	"context"
	"sync"
	"time"
)

// Local is a group in this process alone, for nodes that count by themselves. It
// begins anew with each process: what was spent before a restart is not known
// to it.
type Local struct {
	plans Plans
	start time.Time

	mu    sync.Mutex // guards state
	state *State
}

// NewLocal makes one that takes the accounts' limits from plans.
func NewLocal(window time.Duration, plans Plans) *Local {
	l := &Local{plans: plans, start: time.Now(), state: NewState()}
	l.state.SetWindow(0, window.Milliseconds())
	return l
}

// SetWindow is as State's.
func (l *Local) SetWindow(window time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.SetWindow(time.Since(l.start).Milliseconds(), window.Milliseconds())
}

// Window is the window of all limits.
func (l *Local) Window() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Duration(l.state.Window()) * time.Millisecond
}

// Exchange implements Group.
func (l *Local) Exchange(_ context.Context, q *Request) (*Answer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	answers, _ := l.state.Apply(time.Since(l.start).Milliseconds(), &Command{Nodes: 1, Requests: []Request{*q}}, l.plans)
	return &answers[0], nil
}

// Use is as State's.
func (l *Local) Use(account string, limits Limits) Use {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.Use(account, limits)
}

// Busiest is as State's.
func (l *Local) Busiest(n int) []Busy {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.Busiest(n)
}
