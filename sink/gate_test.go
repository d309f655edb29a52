package sink

import (
	"context"
	"io"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// TestGateCountsAnOutageOnce: calls that were under way together and fail
// together are one failure, so that many workers do not make the first wait
// longer; one after another they are several.
func TestGateCountsAnOutageOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const workers = 8
		g := newGate(workers, Backoff{Base: time.Second, Max: time.Minute}, func() uint64 { return math.MaxUint64 })
		var passes []pass
		for range workers {
			p, err := g.enter(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			passes = append(passes, p)
		}
		for i, p := range passes {
			if news := g.leaveDown(p, io.EOF); news != (i == 0) {
				t.Errorf("failure %d is news: %v", i, news)
			}
		}
		start := time.Now()
		for i, want := range []time.Duration{1, 3, 7, 15, 31, 63, 123} { // 1, 2, 4, 8, 16, 32, and then the cap
			p, err := g.enter(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if got := time.Since(start); got != want*time.Second {
				t.Errorf("knock %d after %v, want %v", i, got, want*time.Second)
			}
			g.leaveDown(p, io.EOF)
		}
		p, err := g.enter(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if outage := g.leave(p); outage != time.Since(start) || !g.since().IsZero() {
			t.Errorf("outage of %v, down since %v, want %v and not down", outage, g.since(), time.Since(start))
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if p, err = g.enter(ctx); err != nil {
			t.Errorf("enter an open gate: %v", err)
		}
		g.leaveDown(p, io.EOF)
		if _, err := g.enter(ctx); err == nil {
			t.Error("enter a closed gate although the context has ended: no error")
		}
	})
}
