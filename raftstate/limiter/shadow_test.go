package limiter

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestScenario27 sends over every limit of a plan in shadow: nothing is refused or
// waits, and each message that an enforced plan would have refused counts once.
func TestScenario27(t *testing.T) {
	l := Limits{Rate: 20, Burst: 8, Concurrent: 2, Shadow: true}
	var waited time.Duration
	submit := func(s *Spender, n int64) Pass {
		began := time.Now()
		p, _ := s.Enter(context.Background(), "a", l)
		got, _ := p.Take(context.Background(), n)
		p.Settle(got, got)
		waited += time.Since(began)
		return p
	}
	for name, test := range map[string]struct {
		send func(t *testing.T, s *Spender)
		over uint64
	}{
		"within": {func(_ *testing.T, s *Spender) {
			for range 8 {
				p := submit(s, 1)
				p.Leave()
			}
		}, 0},
		"burst, all at once": {func(_ *testing.T, s *Spender) {
			for range 13 {
				p := submit(s, 1)
				p.Leave()
			}
		}, 5},
		"burst, in a batch": {func(_ *testing.T, s *Spender) {
			p := submit(s, 13)
			p.Leave()
		}, 5},
		"rate, when the bucket is full again": {func(t *testing.T, s *Spender) {
			for range 3 { // 24 in an hour, the window
				for range 8 {
					p := submit(s, 1)
					p.Leave()
				}
				time.Sleep(25 * time.Minute)
			}
			p := submit(s, 1) // the first eight have aged out
			p.Leave()
		}, 4},
		"concurrent": {func(t *testing.T, s *Spender) {
			var passes []Pass
			for range 4 {
				p := submit(s, 1)
				passes = append(passes, p)
				time.Sleep(time.Second) // so that it is known how many there may be
			}
			for _, p := range passes {
				p.Leave()
			}
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, stop := runAlone(t, l)
				defer stop()
				test.send(t, s)
				time.Sleep(time.Second)
				st := s.Stats()
				if st.Shadow != test.over || waited > 0 {
					t.Errorf("%d counted as over the limit, and they waited %v; want %d and no wait", st.Shadow, waited, test.over)
				}
				for _, r := range []Reason{Concurrent, Burst, Rate, Unavailable} {
					if st.Decided[r] > 0 {
						t.Errorf("%d refused: %v", st.Decided[r], r)
					}
				}
			})
		})
	}
}
