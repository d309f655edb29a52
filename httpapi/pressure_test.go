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
