package httpapi

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"
)

// Limits are what of an API changes while it serves. Zero fields take the
// defaults of Config.
type Limits struct {
	MaxBodyBytes   int           // see Config.MaxBodyBytes; of bodies that begin from now on
	MaxBuffered    int64         // see Config.MaxBuffered; zero: as it was, or as MaxBodyBytes has it
	MaxConnections int           // see Config.MaxConnections; those that are open stay
	ReadTimeout    time.Duration // see Config.ReadTimeout; of requests that begin from now on
	IdleTimeout    time.Duration // see Config.IdleTimeout; from the end of the next answer on
	DefaultTTL     time.Duration // see Config.DefaultTTL
}

// Configure changes the limits without touching a request under way. With an
// error nothing has changed.
func (a *API) Configure(n Limits) error {
	cfg := a.cfg
	cfg.MaxBodyBytes, cfg.MaxConnections, cfg.ReadTimeout, cfg.IdleTimeout, cfg.DefaultTTL =
		n.MaxBodyBytes, n.MaxConnections, n.ReadTimeout, n.IdleTimeout, n.DefaultTTL
	if n.MaxBuffered != 0 || a.followsBody {
		cfg.MaxBuffered = n.MaxBuffered
	}
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("http configuration: %w", err)
	}
	cfg.setDefaults()
	a.apply(cfg)
	return nil
}

// apply puts limits in force that are valid.
func (a *API) apply(cfg Config) {
	a.bodies.limit.Store(int64(cfg.MaxBodyBytes))
	a.bodies.budget.Store(cfg.MaxBuffered)
	a.hooks.limit.Store(maxHookBytes)
	a.hooks.budget.Store(max(cfg.MaxBuffered/hookShare, 2*maxHookBytes))
	a.defaultTTL.Store(int64(cfg.DefaultTTL))
	a.wire.max.Store(int64(cfg.MaxConnections))
	a.wire.timeouts.read.Store(int64(cfg.ReadTimeout))
	a.wire.timeouts.idle.Store(int64(cfg.IdleTimeout))
}

// net/http reads the time limits of a Server without a lock, so they cannot
// change in it. It is given these instead, which no one ever waits for: they say
// which limit is meant, and the connection (timeouts.of) puts the one in force
// into its place.
const (
	meansRead   = 1000 * time.Hour // and so for the answer
	meansIdle   = 2000 * time.Hour
	meansEither = meansIdle - meansRead/2 // between the two
)

// timeouts are the time limits of connections, in ns.
type timeouts struct{ read, idle atomic.Int64 }

func serverTimeouts(s *http.Server) {
	s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout, s.IdleTimeout = meansRead, meansRead, meansRead, meansIdle
}

// readDeadline is the deadline in force for one that net/http asks for.
func (t *timeouts) readDeadline(asked time.Time) time.Time {
	switch left := time.Until(asked); {
	case asked.IsZero() || left < meansRead/2:
		return asked // a handler's own
	case left > meansEither:
		return asked.Add(time.Duration(t.idle.Load()) - meansIdle)
	}
	return asked.Add(time.Duration(t.read.Load()) - meansRead)
}

// writeDeadline counts from the head of the request on.
func (t *timeouts) writeDeadline(asked time.Time) time.Time {
	if asked.IsZero() || time.Until(asked) < meansRead/2 {
		return asked
	}
	return asked.Add(time.Duration(t.read.Load()) + maxWait + writeMargin - meansRead)
}

// SetReadDeadline implements net.Conn, with the limits in force.
func (g *guard) SetReadDeadline(t time.Time) error {
	return g.Conn.SetReadDeadline(g.wire.timeouts.readDeadline(t))
}

// SetWriteDeadline implements net.Conn, with the limits in force.
func (g *guard) SetWriteDeadline(t time.Time) error {
	return g.Conn.SetWriteDeadline(g.wire.timeouts.writeDeadline(t))
}

// SetTLS changes what new connections are served with: another certificate, or
// from plain to TLS and back (nil). Open ones stay as they are.
func (l *Listener) SetTLS(c *tls.Config) {
	if c != nil {
		c = c.Clone()
		c.NextProtos = []string{"http/1.1"}
	}
	l.tls.Store(c)
}

// Limits returns those in force.
func (a *API) Limits() Limits {
	return Limits{int(a.bodies.limit.Load()), a.bodies.budget.Load(), int(a.wire.max.Load()), time.Duration(a.wire.timeouts.read.Load()),
		time.Duration(a.wire.timeouts.idle.Load()), time.Duration(a.defaultTTL.Load())}
}
