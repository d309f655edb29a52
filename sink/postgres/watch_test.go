package postgres

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"forebay/sink"
	"forebay/sink/sinktest"
)

// TestHysteresis: one failed look is no outage, and one success no recovery.
func TestHysteresis(t *testing.T) {
	s := newStore(t, "postgres://u@h/d", &journal{}, nil)
	s.setHealth(true, "")
	w := &watch{store: s}
	for i, step := range []struct {
		good bool
		up   bool
	}{{false, true}, {true, true}, {false, true}, {false, false}, {true, false}, {false, false}, {true, false}, {true, true}, {false, true}} {
		err := errors.New("no answer")
		if step.good {
			err = nil
		}
		w.step(err)
		if h := s.Health(); h.Up != step.up || h.Kind != "postgres" || h.Up != (h.Detail == "") {
			t.Errorf("health after look %d = %+v, want up %v", i+1, h, step.up)
		}
	}
}

// TestForgiveness: looks that fail while calls get through are forgiven, a few in
// a row and no more; without any call, none is.
func TestForgiveness(t *testing.T) {
	s := newStore(t, "postgres://u@h/d", &journal{}, nil)
	no := errors.New("no answer")
	for _, c := range []struct {
		name    string
		through func(i int) bool
		down    int // the look that the health follows; 0: none
	}{
		{"no call gets through", func(int) bool { return false }, downAfter},
		{"calls get through", func(int) bool { return true }, forgive + downAfter},
		{"one call gets through", func(i int) bool { return i == 2 }, 1 + downAfter},
	} {
		s.setHealth(true, "")
		w := &watch{store: s}
		for i := 1; i <= 2*(forgive+downAfter); i++ {
			w.weigh(no, c.through(i))
			if up := s.Health().Up; up != (i < c.down) {
				t.Errorf("%s: after look %d up is %v, want down from look %d", c.name, i, up, c.down)
			}
		}
	}
	s.setHealth(true, "")
	w := &watch{store: s}
	for range 5 {
		for range forgive {
			w.weigh(no, true)
		}
		w.weigh(nil, true)
	}
	if !s.Health().Up {
		t.Error("down, though each look that failed was forgiven")
	}
}

// TestNeverUp: without Run, or without a server, every call says that the store
// is down, and Run ends when it is told to.
func TestNeverUp(t *testing.T) {
	s := newStore(t, "postgres://u:hunter2@127.0.0.1:1/d", &journal{}, nil)
	n := &node{number: 1, at: time.Now()}
	ctx := context.Background()
	check := func() {
		t.Helper()
		for kind := range 5 {
			var down *sink.Down
			if err := operate(ctx, s, kind, n.records(1)); !errors.As(err, &down) {
				t.Errorf("operation %d: error %v, want down", kind, err)
			}
		}
	}
	check()
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(running) }()
	eventually(t, "health", func() error {
		if h := s.Health(); !strings.Contains(h.Detail, "127.0.0.1") || strings.Contains(h.Detail, "hunter2") {
			return errors.New(h.Detail)
		}
		return nil
	})
	check()
	cancel()
	if err := errors.Join(<-ended, s.Close()); err != nil {
		t.Errorf("end: %v", err)
	}
	check()
}

func testMetrics(t *testing.T, pg *sinktest.Postgres) {
	registry := prometheus.NewPedanticRegistry()
	w := newWorldOn(t, pg, func(c *Config) { c.Registerer, c.SlowQuery = registry, time.Nanosecond })
	batch := w.n.records(10)
	batch[0].IdempotencyKey, batch[0].Body = "a key that is private", "a body that is private"
	w.insert(t, batch...)
	w.insert(t, batch...)
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, error %v", problems, err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatalf("gather: %v", err)
	}
	seen := make(map[string]bool)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				seen[f.GetName()+" "+l.GetValue()] = true
			}
		}
	}
	for _, want := range []string{"forebay_store_query_duration_seconds insert", "forebay_store_query_duration_seconds copy",
		"forebay_store_query_duration_seconds claim", "forebay_store_query_duration_seconds states", "forebay_store_slow_queries_total copy",
		"forebay_store_pool_connections acquired", "forebay_store_pool_connections idle", "forebay_store_pool_connections opening"} {
		if !seen[want] {
			t.Errorf("no %s among %v", want, seen)
		}
	}
	if log := w.log.String(); !strings.Contains(log, "slow statement") || strings.Contains(log, "private") {
		t.Errorf("log:\n%s", log)
	}
}
