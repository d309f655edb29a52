package httpapi

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// freshConns are the connections that have not asked anything yet. Clients open
// them in reserve, and Shutdown gives each five seconds to begin: a stop would
// always take that long.
type freshConns struct {
	mu    sync.Mutex // guards conns
	conns map[net.Conn]struct{}
}

// freshGrace is how long a fresh connection has for its first byte once the
// server shuts down: a request that is on its way still gets its answer.
const freshGrace = 250 * time.Millisecond

// track is for http.Server.ConnState.
func (f *freshConns) track(c net.Conn, state http.ConnState) {
	if g, ok := c.(*guard); ok && state != http.StateNew {
		if g.asked { // as nearly always: two changes a request, on every connection
			return
		}
		g.asked = true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if state == http.StateNew {
		f.conns[c] = struct{}{}
	} else {
		delete(f.conns, c)
	}
}

// hurry is for http.Server.RegisterOnShutdown.
func (f *freshConns) hurry() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		// What fails here is closed already.
		_ = c.SetReadDeadline(time.Now().Add(freshGrace))
	}
}
