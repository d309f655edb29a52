package httpapi

import (
	"net/http"
	"sync"
	"time"
)

// readDeadline is the rolling deadline of a stream that is read: each extension
// gives the client the timeout again, until end sets a last one.
type readDeadline struct {
	control *http.ResponseController
	timeout time.Duration

	mu      sync.Mutex
	ended   bool // the deadline that is set is the last
	stopped bool // the body has been read; deadlines are net/http's again
}

// Errors of setting a deadline are not looked at: they mean that the connection
// is closed, and then the read fails anyway.

func (d *readDeadline) extend() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ended {
		_ = d.control.SetReadDeadline(time.Now().Add(d.timeout))
	}
}

// end lets the stream be read for no longer than grace.
func (d *readDeadline) end(grace time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	if !d.stopped {
		_ = d.control.SetReadDeadline(time.Now().Add(grace))
	}
}

// stop leaves deadlines to net/http, which from the end of the body on reads in
// the background to notice a client that goes: a deadline left over would end
// the request.
func (d *readDeadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	_ = d.control.SetReadDeadline(time.Time{})
}
