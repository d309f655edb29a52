package limiter

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func anyLimits(t *rapid.T) Limits {
	return Limits{Rate: rapid.Int64Range(1, 300).Draw(t, "rate"), Burst: rapid.Int64Range(1, 300).Draw(t, "burst"),
		Concurrent: rapid.Int64Range(1, 20).Draw(t, "concurrent")}
}

// spend asks for messages one after the other until one is refused.
func spend(s *Spender, account string, l Limits) (n int64, v Verdict) {
	for {
		p, v := s.Enter(context.Background(), account, l)
		if v.Reason != Allowed {
			return n, v
		}
		got, v := p.Take(context.Background(), 1)
		p.Settle(got, got)
		p.Leave()
		if v.Reason != Allowed {
			return n, v
		}
		n += got
	}
}

// inTime runs f in a bubble of time with a spender before a group of its own. It
// has a goroutine of its own there, so its error fails the property outside.
func inTime(t *testing.T, rt *rapid.T, window time.Duration, plans Plans, f func(s *Spender) error) {
	var failed error
	synctest.Test(t, func(*testing.T) {
		s, err := NewSpender(Config{Node: 1, Group: NewLocal(window, plans)}, 1)
		if err != nil {
			failed = err
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx, time.Second) }()
		defer func() { cancel(); <-done }()
		failed = f(s)
	})
	if failed != nil {
		rt.Fatal(failed)
	}
}

func TestProperty11_TheLimitIsThePlans(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		plans := map[string]Limits{"a": anyLimits(rt), "b": anyLimits(rt)}
		inTime(t, rt, time.Hour, func(a string) (Limits, bool) { l, ok := plans[a]; return l, ok }, func(s *Spender) error {
			for account, l := range plans {
				n, v := spend(s, account, l)
				if want := min(l.Rate, l.Burst); n != want {
					return fmt.Errorf("%s: got %d at once, want %d of %+v", account, n, want, l)
				}
				// Of two that are used up, the burst is looked at first.
				want := Burst
				if l.Rate < l.Burst {
					want = Rate
				}
				if v.Reason != want {
					return fmt.Errorf("%s: refused for %s, want %s, with %+v", account, v.Reason, want, l)
				}
			}
			return nil
		})
	})
}

func TestProperty12_RetryAfterSuffices(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := anyLimits(rt)
		pauses := rapid.SliceOfN(rapid.IntRange(0, 40_000), 1, 8).Draw(rt, "pauses")
		inTime(t, rt, time.Minute, func(string) (Limits, bool) { return l, true }, func(s *Spender) error {
			for _, ms := range pauses {
				time.Sleep(time.Duration(ms) * time.Millisecond) // in the bubble
				_, v := spend(s, "a", l)
				wait := (v.Retry + time.Second - 1) / time.Second * time.Second
				if wait < time.Second || wait > 90*time.Second {
					return fmt.Errorf("a wait of %s", wait)
				}
				time.Sleep(wait)
				if n, v := spend(s, "a", l); n == 0 {
					return fmt.Errorf("refused for %s after having waited %s, with %+v", v.Reason, wait, l)
				}
			}
			return nil
		})
	})
}
