package limiter

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// served is the entry of an account, as a look finds it.
func served(s *Spender, account string, l Limits, now time.Duration) *entry {
	e := s.lookup(account, l)
	defer e.mu.Unlock()
	e.used = now
	return e
}

// lookAll has every shard's turn come.
func lookAll(s *Spender, now time.Duration) {
	for i := range s.shards {
		s.lookAt(&s.shards[i], now)
	}
}

// TestALookForgetsTheIdleAlone: of any accounts, those that nobody has used for
// long are forgotten, and each of the others keeps its one visit.
func TestALookForgetsTheIdleAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := NewSpender(Config{Node: 1, Group: noGroup{}}, 1)
		if err != nil {
			t.Fatal(err)
		}
		idle := rapid.SliceOfN(rapid.Bool(), 1, 400).Draw(t, "idle")
		now := idleAfter + time.Hour
		left := map[*entry]bool{}
		for i, is := range idle {
			if is {
				served(s, fmt.Sprint(i), generous, now-idleAfter)
			} else {
				left[served(s, fmt.Sprint(i), generous, now-idleAfter+1)] = true
			}
		}
		lookAll(s, now)
		for i := range s.shards {
			sh := &s.shards[i]
			if len(sh.visits) != len(sh.entries) {
				t.Fatalf("%d visits for %d accounts", len(sh.visits), len(sh.entries))
			}
			for _, v := range sh.visits {
				if !left[v.entry] || sh.entries[v.entry.account] != v.entry {
					t.Fatalf("account %s is still visited", v.entry.account)
				}
				delete(left, v.entry)
			}
		}
		if len(left) > 0 {
			t.Fatalf("%d accounts that are in use are not visited any more", len(left))
		}
	})
}

// TestWhoIsCalmIsLookedAtSeldom: and who is near the limit, or holds more than
// stands ready, at every turn.
func TestWhoIsCalmIsLookedAtSeldom(t *testing.T) {
	l := Limits{Rate: 1000, Burst: 1000, Concurrent: 10}
	for name, test := range map[string]struct {
		busy func(e *entry)
		next time.Duration
	}{
		"calm":           {func(*entry) {}, calmLook},
		"near its limit": {func(e *entry) { e.remaining = l.Rate/2 - 1 }, 0},
		"many at once":   {func(e *entry) { e.inFlight = 2 }, 0},
		"holds much":     {func(e *entry) { e.left, e.until, e.rate = 300, time.Hour, 1000 }, 0},
		"gives back":     {func(e *entry) { e.left, e.until, e.used = 1, time.Hour, -idleAfter }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := NewSpender(Config{Node: 1, Group: noGroup{}}, 1)
			if err != nil {
				t.Fatal(err)
			}
			const now = 10 * time.Second
			e := served(s, "a", l, now)
			test.busy(e)
			lookAll(s, now)
			for i := range s.shards {
				for _, v := range s.shards[i].visits {
					if got := v.at - now; got != test.next {
						t.Errorf("looked at again after %v, want %v", got, test.next)
					}
				}
			}
		})
	}
}

// TestWhatIsForgottenAsksForNothing: who held on to an entry while it was forgotten,
// to give back what it holds or to void it, must not report that it holds nothing:
// that would be taken as said of the account's new entry, and be lent a second time.
func TestWhatIsForgottenAsksForNothing(t *testing.T) {
	l := Limits{Rate: 1000, Burst: 1000, Concurrent: 10}
	group := NewLocal(time.Minute, func(string) (Limits, bool) { return l, true })
	s, err := NewSpender(Config{Node: 1, Group: group}, 1)
	if err != nil {
		t.Fatal(err)
	}
	forgotten := served(s, "a", l, -idleAfter)
	lookAll(s, 0)
	ask := func(e *entry) (left int64) {
		e.mu.Lock()
		s.enqueueLocked(e)
		e.mu.Unlock()
		s.round(t.Context())
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.left
	}
	fresh := served(s, "a", l, 0)
	left := ask(fresh)
	if fresh == forgotten || left == 0 {
		t.Fatalf("the account has %d tokens in its old entry: nothing is proved", left)
	}
	left += ask(forgotten)
	if held := group.Use("a", l).Held; held != left {
		t.Errorf("the node holds %d tokens, and the group knows of %d", left, held)
	}
}

// TestWhoIsBeingAskedForIsNotForgotten: what the answer brings must find its entry.
func TestWhoIsBeingAskedForIsNotForgotten(t *testing.T) {
	s, err := NewSpender(Config{Node: 1, Group: noGroup{}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	e := served(s, "a", generous, -idleAfter)
	for i, under := range []bool{true, false} {
		e.mu.Lock()
		e.under = under
		e.mu.Unlock()
		lookAll(s, time.Duration(i)*calmLook)
		if e.gone == under {
			t.Errorf("a request under way: %v; forgotten: %v", under, e.gone)
		}
	}
}
