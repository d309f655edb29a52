package sinktest

import (
	"sync"
	"time"
)

// pause lets a stand-in keep its callers waiting for as long as a test likes: so
// that all of a load is accepted before the first of it is delivered.
type pause struct {
	mu   sync.Mutex
	shut chan struct{} // nil: open
	slow time.Duration
}

// Slow makes every call from now on take d longer, as the way to a real service
// and its own work do.
func (p *pause) Slow(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slow = d
}

// Pause makes whoever calls from now on wait, until resume is called, once.
func (p *pause) Pause() (resume func()) {
	shut := make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = shut
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.shut = nil
		close(shut)
	}
}

// wait returns when the stand-in may answer, or has ended.
func (p *pause) wait(done <-chan struct{}) {
	p.mu.Lock()
	shut, slow := p.shut, p.slow
	p.mu.Unlock()
	if shut != nil {
		select {
		case <-shut:
		case <-done:
		}
	}
	if slow == 0 {
		return
	}
	timer := time.NewTimer(slow)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-done:
	}
}
