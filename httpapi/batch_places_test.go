package httpapi

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/wal/message"
)

// places is a Limiter of concurrent requests alone, with no token limits. It counts
// what is admitted, settled and left.
type places struct {
	limit int

	mu       sync.Mutex // guards all below
	flying   int
	entered  int
	admitted int // messages that are not settled
}

func (s *places) Enter(context.Context, string, Plan) (Pass, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flying == s.limit {
		return &place{of: s}, &Limited{Code: CodeTooManyConcurrent, Retry: time.Second}
	}
	s.flying++
	s.entered++
	return &place{of: s}, nil
}

func (s *places) Quota(string, Plan) (Quota, bool) { return Quota{}, false }

func (s *places) count() (flying, entered, admitted int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flying, s.entered, s.admitted
}

type place struct{ of *places }

func (p *place) Take(_ context.Context, n int) (int, error) {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.of.admitted += n
	return n, nil
}

func (p *place) Settle(admitted, _ int) {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.of.admitted -= admitted
}

func (p *place) Quota() Quota { return Quota{Window: time.Minute, Refill: time.Minute} }

func (p *place) Leave() {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.of.flying--
}

// TestBatchGivesItsSlotBack: however a stream ends, its place among the account's
// concurrent requests is free again, once, and its messages are settled.
func TestBatchGivesItsSlotBack(t *testing.T) {
	begin := func(t *testing.T, w *world, addr string) net.Conn {
		conn, _ := openBatch(t, addr)
		_ = sendChunk(conn, hello+"\n"+hello)
		eventually(t, "the first line is in the log", func() bool { return len(w.log.all()) > 0 })
		return conn
	}
	for name, end := range map[string]func(t *testing.T, w *world, addr string){
		"client gone between lines": func(t *testing.T, w *world, addr string) { begin(t, w, addr).Close() },
		"client reset the connection": func(t *testing.T, w *world, addr string) {
			conn := begin(t, w, addr)
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		},
		"client gone while the log writes": func(t *testing.T, w *world, addr string) {
			gone := make(chan struct{})
			w.log.before = func([]*message.Message) { <-gone }
			conn, _ := openBatch(t, addr)
			_ = sendChunk(conn, hello+"\n")
			eventually(t, "the line is being written", func() bool { _, _, admitted := w.places().count(); return admitted > 0 })
			conn.Close()
			close(gone)
		},
		"client stands still": func(t *testing.T, w *world, addr string) { begin(t, w, addr) },
		"framing broken": func(t *testing.T, w *world, addr string) {
			_, _ = io.WriteString(begin(t, w, addr), "zz\r\n")
		},
		"log panics": func(t *testing.T, w *world, addr string) {
			w.log.before = func([]*message.Message) { panic("boom") }
			conn, _ := openBatch(t, addr)
			_ = sendChunk(conn, hello+"\n")
		},
		"refused for its media type": func(t *testing.T, _ *world, addr string) {
			resp := batchRequest(t, addr, strings.NewReader(hello), "Content-Type", "text/plain")
			if resp.StatusCode != http.StatusUnsupportedMediaType {
				t.Errorf("got %d", resp.StatusCode)
			}
		},
		"complete": func(t *testing.T, _ *world, addr string) { // the control
			batchLines(t, batchRequest(t, addr, strings.NewReader(hello)).Body)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *Config) {
				c.Limiter, c.StreamTimeout = &places{limit: 1}, 300*time.Millisecond
			})
			addr := w.serve(t)
			end(t, w, addr)
			eventually(t, "the place is free, and all is settled", func() bool {
				flying, entered, admitted := w.places().count()
				return flying == 0 && admitted == 0 && (entered == 1 || strings.HasPrefix(name, "refused"))
			})
			w.log.before = nil
			resp := batchRequest(t, addr, strings.NewReader(hello))
			if lines := batchLines(t, resp.Body); resp.StatusCode != http.StatusOK || len(lines) != 1 || lines[0].Status != "accepted" {
				t.Errorf("the next batch: %d %+v", resp.StatusCode, lines)
			}
		})
	}
	t.Run("while it streams", func(t *testing.T) { // the limit is one
		w := newWorld(t, func(c *Config) { c.Limiter = &places{limit: 1} })
		addr := w.serve(t)
		begin(t, w, addr)
		if resp := batchRequest(t, addr, strings.NewReader(hello)); resp.StatusCode != http.StatusTooManyRequests {
			t.Errorf("a second batch: got %d, want 429", resp.StatusCode)
		}
	})
}

func (w *world) places() *places { return w.cfg.Limiter.(*places) }

// TestPlacesAfterAPanic: a single message whose append panics counts as spent, and
// the request is over.
func TestPlacesAfterAPanic(t *testing.T) {
	for name, panics := range map[string]bool{"log panics": true, "complete": false} {
		t.Run(name, func(t *testing.T) {
			limits := &places{limit: 1}
			w, life := newLifeWorld(t, func(c *Config) { c.Limiter = limits })
			id := w.submitted(t, hello)
			life.late[id] = true
			reached := 0
			w.log.before = func([]*message.Message) {
				if _, _, admitted := limits.count(); admitted == 1 {
					reached++
				}
				if panics {
					panic("boom")
				}
			}
			for i, target := range []string{"/v1/messages", "/v1/messages/" + id.String() + "/requeue"} {
				rec := w.do("POST", target, hello)
				flying, _, admitted := limits.count()
				if flying != 0 || admitted != 0 || reached != i+1 || (rec.Code == http.StatusServiceUnavailable) != panics {
					t.Errorf("POST %s: %d with %d requests in flight and %d messages not settled, want none; the log was reached %d times", target, rec.Code, flying, admitted, reached)
				}
			}
		})
	}
}
