package embedded

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"forebay/sink"
	"forebay/wal/message"
)

// TestSlowQueries: what takes longer than SlowQuery is counted by name, and logged
// now and then, without what it was asked for; and that can change.
func TestSlowQueries(t *testing.T) {
	var log bytes.Buffer
	s, err := Open(Config{Dir: t.TempDir(), MinFreeBytes: leastFree, SlowQuery: time.Nanosecond,
		Logger: slog.New(slog.NewTextHandler(&log, nil)), Registerer: prometheus.NewPedanticRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ask := func() float64 {
		id := message.NewID(1, 1, 1, message.Normal, 1)
		if _, err := s.Get(t.Context(), "acme", id); err != sink.ErrNotFound {
			t.Fatal(err)
		}
		return testutil.ToFloat64(s.metrics.slow["get"])
	}
	if ask(); ask() != 2 {
		t.Errorf("%v slow queries are counted, want 2", testutil.ToFloat64(s.metrics.slow["get"]))
	}
	if text := log.String(); strings.Count(text, `msg="slow query" query=get duration_ms=`) != 1 || strings.Contains(text, "acme") {
		t.Errorf("logged %s", text)
	}
	n := s.Tuning()
	n.SlowQuery = time.Hour
	if err := s.Configure(n); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != 2 {
		t.Errorf("with an hour %v are counted", got)
	}
	n.SlowQuery = -1
	if s.Configure(n) == nil || s.Tuning().SlowQuery != time.Hour {
		t.Error("a negative time is taken")
	}
}
