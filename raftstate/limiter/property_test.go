package limiter

import (
	"context"
	"fmt"
	"sync"
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
				q := s.Quota("a", l, time.Minute)
				if left := map[Reason]int64{Rate: q.Rate, Burst: q.Burst}[v.Reason]; left != 0 {
					return fmt.Errorf("refused for %s, with %d of it left: %+v", v.Reason, left, q)
				}
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

// wholeGroup is a group of three nodes in this process: what one asks for counts
// for all, and all learn what others lack, as the replicated state tells them.
type wholeGroup struct {
	plans Plans
	start time.Time
	nodes [3]*Spender

	mu    sync.Mutex // guards state
	state *State
}

// Exchange implements Group.
func (g *wholeGroup) Exchange(_ context.Context, q *Request) (*Answer, error) {
	g.mu.Lock()
	answers, short := g.state.Apply(time.Since(g.start).Milliseconds(), &Command{Nodes: len(g.nodes), Requests: []Request{*q}}, g.plans)
	g.mu.Unlock()
	for _, s := range g.nodes {
		s.Reclaim(short)
	}
	return &answers[0], nil
}

// onThree runs f in a bubble of time with three nodes of one group.
func onThree(t *testing.T, rt *rapid.T, plans Plans, f func(nodes []*Spender) error) {
	var failed error
	synctest.Test(t, func(*testing.T) {
		g := &wholeGroup{plans: plans, start: time.Now(), state: NewState()}
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		for i := range g.nodes {
			g.nodes[i], failed = NewSpender(Config{Node: uint16(i + 1), Group: g}, uint64(i+1))
			if failed != nil {
				cancel()
				return
			}
		}
		for _, s := range g.nodes {
			running.Go(func() { _ = s.Run(ctx, time.Second) })
		}
		defer running.Wait()
		defer cancel()
		failed = f(g.nodes[:])
	})
	if failed != nil {
		rt.Fatal(failed)
	}
}

// TestProperty12_RetryAfterSufficesOnAnyNode: the account goes from node to node and
// uses up on each what there is; whichever refuses it, after the wait that it names
// any of them lets it in, also if what there is of the plan then is another's.
func TestProperty12_RetryAfterSufficesOnAnyNode(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := anyLimits(rt)
		pauses := rapid.SliceOfN(rapid.IntRange(0, 40_000), 1, 8).Draw(rt, "pauses")
		visits := rapid.SliceOfN(rapid.IntRange(0, 2), 2*len(pauses), 2*len(pauses)).Draw(rt, "visits")
		onThree(t, rt, func(string) (Limits, bool) { return l, true }, func(nodes []*Spender) error {
			for i, ms := range pauses {
				time.Sleep(time.Duration(ms) * time.Millisecond) // in the bubble
				_, v := spend(nodes[visits[2*i]], "a", l)
				wait := (v.Retry + time.Second - 1) / time.Second * time.Second
				if wait < time.Second || wait > 90*time.Second {
					return fmt.Errorf("visit %d: a wait of %s", i, wait)
				}
				time.Sleep(wait)
				if n, v := spend(nodes[visits[2*i+1]], "a", l); n == 0 {
					return fmt.Errorf("visit %d: refused for %s after having waited %s, with %+v", i, v.Reason, wait, l)
				}
			}
			return nil
		})
	})
}

// TestARefusalForWantOfSlotsIsSoon: where all slots are in use on another node, one
// call asks once more, for they might have been given back, and the others are told
// at once.
func TestARefusalForWantOfSlotsIsSoon(t *testing.T) {
	l := Limits{Rate: 100, Burst: 100, Concurrent: 2}
	rapid.Check(t, func(rt *rapid.T) {
		calls := rapid.IntRange(1, 20).Draw(rt, "calls")
		onThree(t, rt, func(string) (Limits, bool) { return l, true }, func(nodes []*Spender) error {
			for range l.Concurrent {
				p, v := nodes[0].Enter(context.Background(), "a", l)
				if v.Reason != Allowed {
					return fmt.Errorf("the first: %+v", v)
				}
				defer p.Leave()
			}
			began := time.Now()
			took := make(chan time.Duration, calls)
			for range calls {
				go func() {
					if _, v := nodes[1].Enter(context.Background(), "a", l); v.Reason != Concurrent {
						took <- time.Hour
					}
					took <- time.Since(began)
				}()
			}
			late := 0
			for range calls {
				switch d := <-took; {
				case d >= 2*slotRefusal:
					return fmt.Errorf("a call was refused after %v, or let in", d)
				case d >= slotRefusal:
					late++
				}
			}
			if late > 1 {
				return fmt.Errorf("%d of %d calls asked once more", late, calls)
			}
			return nil
		})
	})
}
