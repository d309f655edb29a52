package httpapi

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"forebay/wal/message"
)

// keyring has one key, which can be taken out of force.
type keyring struct {
	memoryKeys
	state atomic.Int32 // keyGood and so on
}

const (
	keyGood int32 = iota
	keyRevoked
	keySuspended
	keyUnclear // the state machine cannot say
)

func (k *keyring) Authenticate(key string) (Principal, error) {
	who, err := k.memoryKeys.Authenticate(key)
	switch k.state.Load() {
	case keyRevoked:
		return Principal{}, ErrUnauthenticated
	case keySuspended:
		who.Suspended = true
	case keyUnclear:
		return Principal{}, ErrUnavailable
	}
	return who, err
}

// TestRevokedKeyEndsItsStreams: a batch and a feed that were opened before a key
// was revoked, or its account suspended, do not outlive that. Where the key cannot
// be looked up they go on.
func TestRevokedKeyEndsItsStreams(t *testing.T) {
	for name, ends := range map[string]struct {
		state int32
		code  string
	}{"revoked": {keyRevoked, "unauthenticated"}, "suspended": {keySuspended, "suspended"}} {
		t.Run(name, func(t *testing.T) {
			keys := &keyring{}
			w := newWorld(t, func(c *Config) { c.Keys = keys })
			w.recheck = time.Millisecond
			addr := w.serve(t)

			next, _ := feedOf(t, addr, "")
			out, in := io.Pipe()
			answers := make(chan *bufio.Scanner, 1)
			go func() { answers <- bufio.NewScanner(batchRequest(t, addr, out).Body) }()
			fmt.Fprintln(in, hello)
			lines := <-answers
			read := func() string {
				if !lines.Scan() {
					return "the end"
				}
				return lines.Text()
			}
			if got := read(); !strings.Contains(got, `"id"`) {
				t.Fatalf("the first line: %s", got)
			}
			keys.state.Store(keyUnclear)
			fmt.Fprintln(in, hello)
			if got := read(); !strings.Contains(got, `"id"`) {
				t.Errorf("while the key cannot be looked up: %s, want an id", got)
			}
			w.Publish([]message.Record{changed(account, 1, message.Sent)})
			if _, event, _ := next(); event != "message.sent" {
				t.Errorf("while the key cannot be looked up the feed tells %s", event)
			}

			keys.state.Store(ends.state)
			go func() { // until nobody reads any more
				for _, err := fmt.Fprintln(in, hello); err == nil; _, err = fmt.Fprintln(in, hello) {
				}
			}()
			defer in.Close()
			for got := read(); ; got = read() {
				if strings.Contains(got, ends.code) {
					break
				}
				if !strings.Contains(got, `"id"`) { // of the last millisecond
					t.Fatalf("after that: %s, want %s", got, ends.code)
				}
			}
			if got := read(); got != "the end" {
				t.Errorf("behind the refusal: %s", got)
			}
			if _, event, _ := next(); event != "end" {
				t.Errorf("the feed goes on with %s", event)
			}
		})
	}
}

// TestHookBodiesTakeNoRoomFromClients: bodies that anybody may send, and that are
// not sent to their end, keep no client out, and no more of them are read than
// have room.
func TestHookBodiesTakeNoRoomFromClients(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Hook = &memoryHook{} })
	addr := w.serve(t)
	const sent = maxHookBytes - 1
	body := strings.Repeat("x", sent)
	send := func() net.Conn {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "POST /hooks/whatsapp HTTP/1.1\r\nHost: x\r\n%s: sha256=00\r\nContent-Length: %d\r\n\r\n", headerHubSignature, maxHookBytes)
		return conn
	}
	for range 50 { // these only announce a body
		send()
	}
	eventually(t, "announced bodies are waited for", func() bool { return w.hooks.inUse.Load() >= 50*firstBuffer })
	refused := 0
	for range 3 { // and these lack a byte of it
		held := w.hooks.inUse.Load()
		conn := send()
		go io.WriteString(conn, body)
		answer := make(chan string, 1)
		go func() {
			line, _ := bufio.NewReader(conn).ReadString('\n')
			answer <- line
		}()
		eventually(t, "it is held or refused", func() bool {
			select {
			case line := <-answer:
				if !strings.Contains(line, "503") {
					t.Fatalf("a body over the room: %q, want 503", line)
				}
				refused++
				return true
			default:
				return w.hooks.inUse.Load() >= held+sent
			}
		})
		if rec := w.do("POST", "/v1/messages", hello); rec.Code != 202 {
			t.Errorf("a client meanwhile: %d %s", rec.Code, rec.Body)
		}
	}
	if refused == 0 || w.hooks.inUse.Load() > w.hooks.budget.Load() {
		t.Errorf("%d of 3 were refused, %d bytes are held of %d", refused, w.hooks.inUse.Load(), w.hooks.budget.Load())
	}
}

// tokens is a limiter that has so many, for all.
type tokens struct{ left, inFlight int }

func (l *tokens) Enter(context.Context, string, Plan) (Pass, error) {
	l.inFlight++
	return l, nil
}

func (l *tokens) Take(_ context.Context, n int) (int, error) {
	if n > l.left {
		return 0, &Limited{Code: CodeBurstLimited, Retry: time.Second}
	}
	l.left -= n
	return n, nil
}

func (l *tokens) Settle(admitted, counted int)       { l.left += admitted - counted }
func (l *tokens) Leave()                             { l.inFlight-- }
func (l *tokens) Quota() Quota                       { return Quota{Minute: 1000, Burst: int64(l.left), Concurrent: 1000} }
func (l *tokens) quotaOf(string, Plan) (Quota, bool) { return l.Quota(), true }

// limiterOf is tokens as a Limiter, whose Quota takes other arguments than a Pass's.
type limiterOf struct{ *tokens }

func (l limiterOf) Quota(account string, p Plan) (Quota, bool) { return l.quotaOf(account, p) }

// TestRequeueCounts: a message that is accepted anew counts against the plan, one
// that was before, or has not failed, does not; and under pressure it gives way.
func TestRequeueCounts(t *testing.T) {
	l := &tokens{left: 5}
	var level atomic.Int32
	w, life := newLifeWorld(t, func(c *Config) {
		c.Limiter, c.Pressure = limiterOf{l}, func() Pressure { return Pressure(level.Load()) }
	})
	var ids [5]message.ID
	for i := range ids {
		ids[i] = w.submitted(t, fmt.Sprintf(`{"channel":"store","body":"%d"}`, i))
		life.late[ids[i]] = i > 0
	}
	l.left = 3
	requeue := func(target string, status, left int) {
		t.Helper()
		rec := w.do("POST", target, "")
		if rec.Code != status || l.left != left || l.inFlight != 0 {
			t.Errorf("POST %s: %d %s with %d tokens left and %d in flight, want %d, %d and none", target, rec.Code, rec.Body, l.left, l.inFlight, status, left)
		}
	}
	one := func(i int) string { return "/v1/messages/" + ids[i].String() + "/requeue" }
	requeue(one(0), 422, 3)
	requeue(one(1), 202, 2)
	requeue(one(1), 202, 2)
	requeue("/v1/messages/requeue?dry_run=true", 200, 2)
	requeue("/v1/messages/requeue", 200, 0) // two of three, and says so
	requeue(one(4), 429, 0)
	l.left = 2
	requeue("/v1/messages/requeue", 200, 1)
	if n := len(w.log.all()); n != 9 {
		t.Errorf("%d messages are in the log, want 5 and 4 anew", n)
	}
	level.Store(int32(PressureHigh))
	requeue(one(4), 503, 1)
	requeue(one(4)+"?priority=high", 202, 1)
	level.Store(int32(PressureFull))
	requeue(one(4)+"?priority=critical", 503, 1)
}

// TestCancelByReferenceLooksPastAPage: what can be canceled may be older than a
// page of those that cannot.
func TestCancelByReferenceLooksPastAPage(t *testing.T) {
	w, life := newLifeWorld(t)
	oldest := w.submitted(t, `{"channel":"store","body":"x","client_ref":"r"}`)
	for range byRefAtOnce {
		life.late[w.submitted(t, `{"channel":"store","body":"x","client_ref":"r"}`)] = true
	}
	rec := w.do("POST", "/v1/messages/cancel?client_ref=r", "")
	if rec.Code != 200 || !strings.Contains(rec.Body.String(), `"canceled":1`) || !strings.Contains(rec.Body.String(), `"has_more":false`) || !life.canceled[oldest] {
		t.Errorf("%d %s, want the oldest canceled", rec.Code, rec.Body)
	}
}
