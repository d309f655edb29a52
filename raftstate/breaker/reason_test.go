package breaker

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// TestReasonOfAnOpening: why a breaker opened is known at once where it did, then on
// all nodes, over a snapshot, and is gone when it closes.
func TestReasonOfAnOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(short)
		defer c.close()
		one, two := c.start(t, 1), c.start(t, 2)
		settle(time.Second)
		reason := func(w *Watch) string {
			for _, s := range w.Services() {
				if s.Service == "email" {
					return s.Reason
				}
			}
			return "no such breaker"
		}
		fail := func(w *Watch, why string) {
			p, ok := w.Acquire("email")
			if !ok {
				t.Fatal("no permit")
			}
			p.Failed(why)
		}
		for range 4 {
			fail(one, "no answer in time")
		}
		fail(one, "channel_unavailable (421): closing\r\nnow")
		const want = "channel_unavailable (421): closing  now"
		if got := reason(one); got != want {
			t.Errorf("where it opened: got %q, want %q", got, want)
		}
		settle(time.Second)
		for n, w := range map[string]*Watch{"one": one, "two": two} {
			if got := reason(w); got != want {
				t.Errorf("node %s: got %q, want %q", n, got, want)
			}
		}
		if back, err := restored(c.state); err != nil || back.View("email", 2).Reason != want {
			t.Errorf("from a snapshot: %v, %+v", err, back.View("email", 2))
		}
		// A probe that fails says why anew; one that succeeds has nothing to say.
		for i, v := range []Verdict{Failure, Success} {
			settle(short.Recovery * time.Duration(i+1))
			two.Acquire("email")    // asks
			settle(time.Second / 2) // an unused permit goes back after a second
			p, ok := two.Acquire("email")
			if !ok {
				t.Fatalf("probe %d: no permit", i)
			}
			if v == Failure {
				p.Failed(strings.Repeat("ä", MaxReason))
			} else {
				p.Done(v)
			}
			settle(time.Second)
			got := reason(one)
			if v == Failure && (len(got) > MaxReason || !utf8.ValidString(got) || !strings.HasPrefix(got, "ää")) || v == Success && got != "" {
				t.Errorf("after probe %d: %q", i, got)
			}
		}
	})
}
