package httpapi

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The markers that net/http is given come out as the limits in force, also when
// these change, and a handler's own deadline is left alone.
func TestTimeoutsInForce(t *testing.T) {
	var limits timeouts
	limits.read.Store(int64(10 * time.Second))
	limits.idle.Store(int64(75 * time.Second))
	near := func(what string, got time.Time, want time.Duration) {
		t.Helper()
		if left := time.Until(got); left < want-time.Minute/2 || left > want+time.Minute/2 {
			t.Errorf("%s: in %v, want %v", what, left, want)
		}
	}
	for _, read := range []time.Duration{10 * time.Second, 10 * time.Minute} {
		limits.read.Store(int64(read))
		near("read", limits.readDeadline(time.Now().Add(meansRead)), read)
		near("write", limits.writeDeadline(time.Now().Add(meansRead)), read+maxWait+writeMargin)
	}
	for _, idle := range []time.Duration{time.Second, time.Hour} {
		limits.idle.Store(int64(idle))
		near("idle", limits.readDeadline(time.Now().Add(meansIdle)), idle)
	}
	near("a handler's", limits.readDeadline(time.Now().Add(3*time.Minute)), 3*time.Minute)
	near("a handler's", limits.writeDeadline(time.Now().Add(3*time.Minute)), 3*time.Minute)
	past := time.Unix(1, 0)
	if !limits.readDeadline(past).Equal(past) || !limits.readDeadline(time.Time{}).IsZero() || !limits.writeDeadline(time.Time{}).IsZero() {
		t.Error("no deadline, or one that is over, was changed")
	}
}

// A connection that is open already takes the new idle time at its next request,
// and a slow head is ended by the new read time.
func TestConfigureTimeoutsOnOpenConnection(t *testing.T) {
	w := newWorld(t)
	api, addr := w.API, strings.TrimPrefix(w.serve(t), "http://")
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reader := bufio.NewReader(conn)
	get := func() {
		t.Helper()
		if _, err := conn.Write([]byte("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(reader, nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v, %v", resp, err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	get()
	limits := api.Limits()
	limits.IdleTimeout, limits.ReadTimeout = 50*time.Millisecond, 50*time.Millisecond
	if err := api.Configure(limits); err != nil {
		t.Fatal(err)
	}
	get() // from its end on the new idle time counts
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := reader.ReadByte(); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the idle connection was not closed: %v", err)
	}

	slow, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if _, err := slow.Write([]byte("GET /healthz HTTP/1.1\r\nHo")); err != nil {
		t.Fatal(err)
	}
	_ = slow.SetReadDeadline(time.Now().Add(20 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(slow), nil)
	if err != nil || resp.StatusCode != http.StatusRequestTimeout {
		t.Errorf("a slow head: %v, %v", resp, err)
	}

	limits.MaxBodyBytes = 1
	if err := api.Configure(limits); err == nil || api.Limits().MaxBodyBytes == 1 {
		t.Errorf("limits that are not valid: %v, %+v", err, api.Limits())
	}
}
