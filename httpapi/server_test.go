package httpapi

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"forebay/wal/message"
)

func waitFor(entered, release chan struct{}) func(context.Context, message.ID) (message.State, error) {
	return func(ctx context.Context, _ message.ID) (message.State, error) {
		close(entered)
		select {
		case <-release:
			return message.State{Status: message.Stored}, nil
		case <-ctx.Done():
			return message.State{}, ctx.Err()
		}
	}
}

func TestConnectionsAreCapped(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxConnections = 3 })
	addr := w.serve(t)
	var open []net.Conn
	for range 3 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		open = append(open, conn)
		if got := get(t, conn); got != 200 {
			t.Fatalf("got %d", got)
		}
	}
	answers, bodies, closed := talk(t, addr, post(hello))
	if len(answers) != 1 || answers[0].StatusCode != 503 || answers[0].Header.Get("Retry-After") == "" || !strings.Contains(bodies[0], `"overloaded"`) || !closed {
		t.Fatalf("got %v %q, closed %v", answers, bodies, closed)
	}
	open[0].Close()
	eventually(t, "a place becomes free", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		defer conn.Close()
		return get(t, conn) == 200
	})
	if got := get(t, open[1]); got != 200 {
		t.Errorf("an old connection: got %d", got)
	}
}

func get(t *testing.T, conn net.Conn) int {
	t.Helper()
	fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func TestTLS(t *testing.T) {
	w := newWorld(t)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, listener := w.Server(), w.Listener(inner, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	resp, err := (&http.Client{Transport: transport}).Get("https://" + inner.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.ProtoMajor != 1 {
		t.Errorf("got %s %s", resp.Proto, resp.Status)
	}
	transport.CloseIdleConnections()
	if err := server.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := <-done; err != http.ErrServerClosed {
		t.Error(err)
	}
}

func certificate(t *testing.T) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
