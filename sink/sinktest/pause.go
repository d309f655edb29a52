package sinktest

import "sync"

// pause lets a stand-in keep its callers waiting for as long as a test likes: so
// that all of a load is accepted before the first of it is delivered.
type pause struct {
	mu   sync.Mutex
	shut chan struct{} // nil: open
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

// wait returns when the stand-in is open or has ended.
func (p *pause) wait(done <-chan struct{}) {
	p.mu.Lock()
	shut := p.shut
	p.mu.Unlock()
	if shut == nil {
		return
	}
	select {
	case <-shut:
	case <-done:
	}
}
