package webhook

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestSwitchingProtocols: a receiver that answers 101, which nobody asked for, and
// keeps the connection does not keep the attempt.
func TestSwitchingProtocols(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_ = r.Body.Close()
		}
		_, _ = conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: anything\r\n\r\n"))
		conns <- conn
	}()
	c := newChannel(t, Settings{Allow: loopback, AllowHTTP: true, Timeout: 2 * time.Second}, nil, newSecret)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, err := c.Send(ctx, delivery("http://"+l.Addr().String()+"/", "x"))
		ended <- err
	}()
	conn := <-conns
	select {
	case err := <-ended:
		if got := kind(err); got != "transient" {
			t.Errorf("it ended as %s: %v", got, err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the attempt has not ended after ten seconds")
	}
	cancel()
	_ = conn.Close()
	_ = l.Close()
}
