package httpapi

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"forebay/wal/message"
)

// TestAdmission is the ladder as clients meet it: what each level takes, what it
// answers, and which header goes with it.
func TestAdmission(t *testing.T) {
	var level atomic.Uint32
	w := newWorld(t, func(c *Config) { c.Pressure = func() Pressure { return Pressure(level.Load()) } })
	body := func(p message.Priority) string {
		return `{"channel":"store","body":"b","priority":"` + p.String() + `"}`
	}
	for _, c := range []struct {
		level    Pressure
		header   string
		accepted string // priorities, first letters
		listed   bool
		code     Code
	}{
		{PressureNormal, "", "chnl", true, ""},
		{PressureElevated, "elevated", "chnl", true, ""},
		{PressureHigh, "high", "chn", false, CodeOverloaded},
		{PressureCritical, "critical", "c", false, CodeOverloaded},
		{PressureFull, "critical", "", false, CodeOverloaded},
		{PressureStorage, "critical", "", false, CodeStorageFull},
	} {
		level.Store(uint32(c.level))
		var batch, want strings.Builder
		for p := message.Critical; p <= message.Low; p++ {
			rec := w.do(http.MethodPost, "/v1/messages", body(p))
			if got := rec.Header().Get("Forebay-Pressure"); got != c.header {
				t.Errorf("level %d: header %q, want %q", c.level, got, c.header)
			}
			status := http.StatusServiceUnavailable
			if strings.Contains(c.accepted, p.String()[:1]) {
				status = http.StatusAccepted
			} else {
				checkProblem(t, rec, string(c.code))
				if rec.Header().Get("Retry-After") == "" {
					t.Errorf("level %d, %s: no Retry-After", c.level, p)
				}
			}
			if rec.Code != status {
				t.Errorf("level %d, %s: got %d, want %d", c.level, p, rec.Code, status)
			}
			batch.WriteString(body(p) + "\n")
			if status == http.StatusAccepted {
				want.WriteByte('a')
			} else {
				want.WriteByte('o')
			}
		}
		if rec := w.do(http.MethodGet, "/v1/messages", ""); (rec.Code == http.StatusOK) != c.listed {
			t.Errorf("level %d: a list is answered %d, listed %v", c.level, rec.Code, c.listed)
		}
		if c.level >= PressureFull {
			continue // no stream is opened
		}
		resp := batchRequest(t, w.serve(t), strings.NewReader(batch.String()))
		var got strings.Builder
		for _, line := range batchLines(t, resp.Body) {
			if line.Error == nil {
				got.WriteByte('a')
			} else {
				got.WriteByte('o')
			}
		}
		if got.String() != want.String() {
			t.Errorf("level %d: the batch got %s, want %s", c.level, &got, &want)
		}
	}
}

// unread is a body that fails the test when it is read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body is read")
	return 0, http.ErrBodyReadAfterClose
}

// TestFullReadsNoBody: at a hard limit a request costs no memory for its body.
func TestFullReadsNoBody(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Pressure = func() Pressure { return PressureFull } })
	r := request(http.MethodPost, "/v1/messages", "")
	r.Body = io.NopCloser(unread{t})
	rec := httptest.NewRecorder()
	w.Handler().ServeHTTP(rec, r)
	if rec.Code != http.StatusServiceUnavailable || rec.Header().Get("Connection") != "close" {
		t.Errorf("got %d %v, want 503 and close", rec.Code, rec.Header())
	}
}

// TestSmallBodiesFindRoom: whatever large bodies hold of the budget, the last
// quarter is not for them, and the last eighth for small ones alone. A large body
// that is announced counts as one before it has arrived.
func TestSmallBodiesFindRoom(t *testing.T) {
	const budget = 2 << 20
	w := newWorld(t, func(c *Config) { c.MaxBodyBytes, c.MaxBuffered = 256<<10, budget })
	body := func(size int) string {
		return `{"channel":"store","priority":"critical","body":"` + strings.Repeat("x", size) + `"}`
	}
	for _, c := range []struct {
		held                 int64
		small, middle, large int
	}{
		{0, 202, 202, 202},
		{budget*3/4 - 8<<10, 202, 202, 503},
		{budget*7/8 - 8<<10, 202, 503, 503},
		{budget - 1<<10, 503, 503, 503}, // control: the budget binds small ones, too
	} {
		w.bodies.inUse.Add(c.held)
		for size, want := range map[int]int{100: c.small, 20 << 10: c.middle, 200 << 10: c.large} {
			rec := w.do(http.MethodPost, "/v1/messages", body(size))
			if rec.Code != want {
				t.Errorf("with %d of %d bytes held, a body of %d: got %d, want %d", c.held, budget, size, rec.Code, want)
			}
			if want == http.StatusServiceUnavailable {
				checkProblem(t, rec, string(CodeOverloaded))
			}
		}
		w.bodies.inUse.Add(-c.held)
	}
	if n := w.bodies.inUse.Load(); n != 0 {
		t.Errorf("%d bytes are counted and not in use", n)
	}
}

// TestFeedGivesWay: while pressure is high a feed that is open stays open and
// gets nothing, none is opened, and afterwards each reader is told that it has
// missed something before it gets more. So is one who comes back.
func TestFeedGivesWay(t *testing.T) {
	var level atomic.Uint32
	w := newWorld(t, func(c *Config) { c.Pressure = func() Pressure { return Pressure(level.Load()) } })
	address := w.serve(t)
	next, leave := feedOf(t, address, "")
	w.Publish([]message.Record{changed(account, 1, message.Queued)})
	seen, event, _ := next()
	if event != "message.queued" {
		t.Fatalf("got %s, want message.queued", event)
	}
	level.Store(uint32(PressureElevated)) // gathered, and nothing is lost
	w.Publish([]message.Record{changed(account, 2, message.Sending), changed(account, 3, message.Sent)})
	for _, want := range []string{"message.sending", "message.sent"} {
		if seen, event, _ = next(); event != want {
			t.Errorf("under elevated pressure: %s, want %s", event, want)
		}
	}
	level.Store(uint32(PressureHigh))
	w.Publish([]message.Record{changed(account, 4, message.Delivered)})
	for _, path := range []string{"/v1/events", "/v1/usage?month=2026-11", "/v1/messages"} {
		rec := w.do(http.MethodGet, path, "")
		checkProblem(t, rec, string(CodeOverloaded))
		if rec.Header().Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", path)
		}
	}
	level.Store(uint32(PressureNormal))
	back, leaveBack := feedOf(t, address, seen)
	w.Publish([]message.Record{changed(account, 5, message.Read)})
	for name, next := range map[string]func() (string, string, string){"that stayed": next, "that came back": back} {
		for _, want := range []string{"gap", "message.read"} {
			if _, event, data := next(); event != want {
				t.Errorf("the reader %s: %s %s, want %s", name, event, data, want)
			}
		}
	}
	leave()
	leaveBack()
}
