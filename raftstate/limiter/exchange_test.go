package limiter

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// runAlone runs the node's side of a group of one, in which every account has the
// same limits, and the window is an hour.
func runAlone(t *testing.T, l Limits) (s *Spender, stop func()) {
	t.Helper()
	return runWith(t, NewLocal(time.Hour, func(string) (Limits, bool) { return l, true }))
}

func runWith(t *testing.T, group Group) (s *Spender, stop func()) {
	t.Helper()
	s, err := NewSpender(Config{Node: 1, Group: group}, 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, time.Second) }()
	return s, func() { cancel(); <-done }
}

// TestWhoWaitsIsNotKeptWaiting: what a call waits for goes off at once, and what is
// only to be reported gathers first.
func TestWhoWaitsIsNotKeptWaiting(t *testing.T) {
	l := Limits{Rate: 16, Burst: 16, Concurrent: 4} // each message is to be reported
	synctest.Test(t, func(t *testing.T) {
		s, stop := runAlone(t, l)
		defer stop()
		began := time.Now()
		p, v := s.Enter(t.Context(), "cold", l)
		got, _ := p.Take(t.Context(), 1)
		if took := time.Since(began); got != 1 || took >= gatherFor {
			t.Fatalf("a cold account: %d tokens after %v, %+v", got, took, v)
		}
		time.Sleep(sendEvery)
		synctest.Wait()
		before := s.Stats().Answered
		p.Settle(1, 1)
		p.Leave()
		time.Sleep(gatherFor - time.Millisecond)
		synctest.Wait()
		if n := s.Stats().Answered; n != before {
			t.Errorf("%d exchanges before the report has gathered", n-before)
		}
		time.Sleep(sendEvery)
		synctest.Wait()
		if n := s.Stats().Answered; n != before+1 {
			t.Errorf("%d exchanges, want one with the report", n-before)
		}
	})
}

// TestReportsGatherFromTheFirstThatIsSpent: far from the limit what is spent is
// reported lazyReport after the first of it, with what came meanwhile, however long
// the account had been quiet before.
func TestReportsGatherFromTheFirstThatIsSpent(t *testing.T) {
	l := Limits{Rate: 1600, Burst: 1600, Concurrent: 4}
	synctest.Test(t, func(t *testing.T) {
		s, stop := runAlone(t, l)
		defer stop()
		group := s.cfg.Group.(*Local)
		spendOne := func() {
			t.Helper()
			p, v := s.Enter(t.Context(), "calm", l)
			got, _ := p.Take(t.Context(), 1)
			if p.Settle(got, got); got != 1 {
				t.Fatalf("%d tokens, %+v", got, v)
			}
			p.Leave()
		}
		reported := func(after time.Duration, want int64) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := group.Use("calm", l).Spent; got != want {
				t.Errorf("%d messages reported, want %d", got, want)
			}
		}
		const looked = calmLook + looks*lookEvery + gatherFor + time.Millisecond
		spendOne()
		reported(lazyReport-time.Millisecond, 0)
		reported(looked, 1)
		time.Sleep(lazyReport / 3) // quiet
		spendOne()
		reported(lazyReport/2, 1)
		spendOne()
		reported(lazyReport/2-time.Millisecond, 1)
		reported(looked, 3)
	})
}

// TestAReportThatIsAskedForIsMadeAtOnce, and where there is nothing to report nobody
// waits.
func TestAReportThatIsAskedForIsMadeAtOnce(t *testing.T) {
	l := Limits{Rate: 1600, Burst: 1600, Concurrent: 4}
	synctest.Test(t, func(t *testing.T) {
		s, stop := runAlone(t, l)
		defer stop()
		group := s.cfg.Group.(*Local)
		p, _ := s.Enter(t.Context(), "calm", l)
		got, _ := p.Take(t.Context(), 3)
		p.Settle(got, got)
		p.Leave()
		if n := group.Use("calm", l).Spent; n != 0 {
			t.Fatalf("%d messages are reported already", n)
		}
		began := time.Now()
		s.Report(t.Context(), "calm")
		if n, took := group.Use("calm", l).Spent, time.Since(began); n != 3 || took >= gatherFor {
			t.Errorf("%d messages reported after %v, want 3 at once", n, took)
		}
		before := s.Stats().Answered
		s.Report(t.Context(), "calm")
		s.Report(t.Context(), "nobody")
		synctest.Wait()
		if n := s.Stats().Answered; n != before {
			t.Errorf("%d exchanges with nothing to report", n-before)
		}
	})
}

// slowGroup answers as a Local does, after a while.
type slowGroup struct {
	*Local
	after time.Duration
}

// Exchange implements Group.
func (g slowGroup) Exchange(ctx context.Context, q *Request) (*Answer, error) {
	time.Sleep(g.after) // in the bubble
	return g.Local.Exchange(ctx, q)
}

// TestAReportTakesAlongWhatCameDuringAnother: the answer to an exchange that was
// under way before is not the one that is waited for.
func TestAReportTakesAlongWhatCameDuringAnother(t *testing.T) {
	l := Limits{Rate: 1600, Burst: 1600, Concurrent: 4}
	synctest.Test(t, func(t *testing.T) {
		group := slowGroup{NewLocal(time.Hour, func(string) (Limits, bool) { return l, true }), 50 * time.Millisecond}
		s, stop := runWith(t, group)
		defer stop()
		spendSome := func(n int64) {
			t.Helper()
			p, v := s.Enter(t.Context(), "a", l)
			got, _ := p.Take(t.Context(), n)
			if p.Settle(got, got); got != n {
				t.Fatalf("%d tokens, %+v", got, v)
			}
			p.Leave()
		}
		spendSome(1)
		earlier := make(chan struct{})
		go func() { s.Report(t.Context(), "a"); close(earlier) }()
		synctest.Wait()
		spendSome(2)
		s.Report(t.Context(), "a")
		if n := group.Use("a", l).Spent; n != 3 {
			t.Errorf("%d messages reported, want 3", n)
		}
		<-earlier
	})
}
