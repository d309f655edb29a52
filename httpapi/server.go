package httpapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Server returns a server for the API's handler, with every time limit set. It
// is to serve a Listener of the same API; TLS is the listener's affair.
func (a *API) Server() *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	fresh := &freshConns{conns: map[net.Conn]struct{}{}}
	s := &http.Server{
		Handler:        a.Handler(),
		MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:       log.New(serverLog{a.cfg.Logger}, "", 0),
		ConnContext:    withGuard,
		ConnState:      fresh.track,
		Protocols:      &protocols,

		DisableGeneralOptionsHandler: true, // OPTIONS * is answered and counted as all else
	}
	serverTimeouts(s)
	s.RegisterOnShutdown(fresh.hurry)
	return s
}

// serverLog takes what net/http logs. Most of it is what clients do wrong, and
// no news; that connections cannot be accepted is.
type serverLog struct{ logger *slog.Logger }

func (l serverLog) Write(p []byte) (int, error) {
	level := slog.LevelDebug
	text := strings.TrimSuffix(string(p), "\n")
	if strings.HasPrefix(text, "http: Accept error") {
		level = slog.LevelError
	}
	l.logger.Log(context.Background(), level, "http server", "text", text)
	return len(p), nil
}

// Listener accepts connections for the API: at most Config.MaxConnections at a
// time. One more is answered 503 overloaded at once and closed; it does not wait
// in a queue that nobody sees.
type Listener struct {
	inner net.Listener
	wire  *wire
	tls   atomic.Pointer[tls.Config] // nil: plain

	handedOver atomic.Bool
	active     atomic.Int64
	goodbyes   chan struct{} // bounds how many connections are being turned away
	goodbying  sync.WaitGroup
}

// maxGoodbyes is how many connections are turned away politely at a time.
// Beyond it they get their answer, too, but may lose it to a reset.
const maxGoodbyes = 64

// Listener puts the API's limits around inner. tlsConfig nil: plain HTTP;
// otherwise it must have a certificate, and HTTP/1.1 is spoken inside.
func (a *API) Listener(inner net.Listener, tlsConfig *tls.Config) *Listener {
	l := &Listener{inner: inner, wire: a.wire, goodbyes: make(chan struct{}, maxGoodbyes)}
	l.SetTLS(tlsConfig)
	return l
}

// Addr is the address that is listened on.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Active is the number of connections that are open.
func (l *Listener) Active() int { return int(l.active.Load()) }

// Close stops accepting and waits, for about a second at most, until connections
// that are being turned away are closed. Accepted ones stay open.
func (l *Listener) Close() error {
	err := l.inner.Close()
	l.goodbying.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close listener: %w", err)
	}
	return err
}

// ErrHandedOver is what Accept returns after HandOver.
var ErrHandedOver = errors.New("the listener was handed over")

// HandOver stops accepting. A listening socket that another process holds as
// well (systemd's) stays open there: connections wait in its queue for whoever
// accepts next.
func (l *Listener) HandOver() error {
	l.handedOver.Store(true)
	return l.inner.Close()
}

// Accept returns the next connection that there is room for.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.inner.Accept()
		if err != nil {
			if l.handedOver.Load() {
				return nil, ErrHandedOver
			}
			return nil, err
		}
		if l.active.Add(1) > l.wire.max.Load() {
			l.active.Add(-1)
			l.turnAway(conn)
			continue
		}
		g := &guard{Conn: conn, wire: l.wire, gone: func() { l.active.Add(-1) }}
		if c := l.tls.Load(); c != nil {
			g.Conn = tls.Server(conn, c) // shakes hands at the first read, under its deadline
		} else if socket, ok := conn.(syscall.Conn); ok {
			g.raw, _ = socket.SyscallConn()
		}
		return g, nil
	}
}

// turnAway answers 503 without holding up Accept.
func (l *Listener) turnAway(conn net.Conn) {
	answer := l.wire.answer(overloaded("The appliance has as many connections as it can serve."))
	select {
	case l.goodbyes <- struct{}{}:
	default:
		if l.tls.Load() == nil {
			// A new connection has room for this much, so it does not block.
			_ = conn.SetWriteDeadline(time.Now().Add(lingerTime))
			_, _ = conn.Write(answer)
		}
		_ = conn.Close()
		return
	}
	l.goodbying.Go(func() {
		defer func() { <-l.goodbyes }()
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(lingerTime))
		if c := l.tls.Load(); c != nil {
			conn = tls.Server(conn, c)
		}
		if _, err := conn.Write(answer); err == nil {
			linger(conn)
		}
	})
}

// refusedOnWire counts refusals that no route has seen.
func (a *API) refusedOnWire(m routeMetrics) func(Code) {
	return func(code Code) { m.byStatus[kindOf(code).status].Inc() }
}
