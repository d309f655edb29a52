package wal

import "sync"

// inbox is where callers leave requests for the writer.
type inbox struct {
	mu     sync.Mutex
	reqs   []*request
	closed bool
	wake   chan struct{} // capacity 1
}

func (b *inbox) put(r *request) bool {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	b.reqs = append(b.reqs, r)
	first := len(b.reqs) == 1
	b.mu.Unlock()
	if first {
		signal(b.wake)
	}
	return true
}

// take swaps the waiting requests for an empty slice.
func (b *inbox) take(empty []*request) (reqs []*request, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	reqs, b.reqs = b.reqs, empty[:0]
	return reqs, b.closed
}

func (b *inbox) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	signal(b.wake)
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
