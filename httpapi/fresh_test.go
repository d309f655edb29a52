package httpapi

import (
	"context"
	"net"
	"testing"
	"time"
)

// TestShutdownDoesNotWaitForReserve: a connection that has asked nothing does
// not hold up a stop for the five seconds that net/http gives it.
func TestShutdownDoesNotWaitForReserve(t *testing.T) {
	w := newWorld(t)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, s := w.Listener(inner, nil), w.Server()
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	conn, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	eventually(t, "the connection is there", func() bool { return l.Active() == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("shut down: %v", err)
	}
	s.Close()
	<-served
}
