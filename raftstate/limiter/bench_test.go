package limiter

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"
)

// generous is a plan that nothing here uses up.
var generous = Limits{Rate: 100_000_000, Burst: 1_000_000, Concurrent: 100_000}

func running(tb testing.TB, l Limits) *Spender {
	tb.Helper()
	s, err := NewSpender(Config{Node: 1, Group: NewLocal(time.Minute, func(string) (Limits, bool) { return l, true })}, 1)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, time.Second) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return s
}

func decide(s *Spender, account string) Verdict {
	p, v := s.Enter(context.Background(), account, generous)
	if v.Reason != Allowed {
		return v
	}
	got, v := p.Take(context.Background(), 1)
	p.Settle(got, got)
	p.Leave()
	return v
}

// BenchmarkDecision is a whole decision on a warm account: enter, take, settle,
// leave. Its baseline is the look at the clock that each half of it needs.
func BenchmarkDecision(b *testing.B) {
	b.Run("of=baseline", func(b *testing.B) {
		start := time.Now()
		for b.Loop() {
			_ = time.Since(start)
		}
	})
	for _, accounts := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("accounts=%d", accounts), func(b *testing.B) {
			s := running(b, generous)
			names := make([]string, accounts)
			for i := range names {
				names[i] = fmt.Sprintf("account-%d", i)
				decide(s, names[i])
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if v := decide(s, names[i%accounts]); v.Reason != Allowed {
					b.Fatal(v)
				}
				i++
			}
		})
	}
}

func TestWarmDecisionAllocatesNothing(t *testing.T) {
	s := running(t, generous)
	decide(s, "a")
	if n := testing.AllocsPerRun(1000, func() { decide(s, "a") }); n >= 1 {
		t.Errorf("got %v allocations a decision, want none", n)
	}
}

func TestMemoryOfAnIdleAccount(t *testing.T) {
	const accounts = 20_000
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	names := make([]string, accounts)
	for i := range names {
		names[i] = fmt.Sprintf("account-%d", i)
	}
	plans := func(string) (Limits, bool) { return Limits{Rate: 1000, Burst: 200, Concurrent: 100}, true }
	before := heap()
	s := NewState()
	s.Apply(1, &Command{Nodes: 1, Requests: []Request{{Node: 1, Session: 1}}}, plans)
	for i, name := range names {
		s.Apply(1, &Command{Nodes: 1, Requests: []Request{{Node: 1, Session: 1, Seq: uint64(i) + 1, Entries: []Entry{{Account: name, Want: 1, Slots: 1}}}}}, plans)
	}
	each := (heap() - before) / accounts
	t.Logf("%d bytes an account", each)
	if each > 400 {
		t.Errorf("got %d bytes an account, want under 400", each)
	}
	s.Apply((LeaseTime + time.Hour).Milliseconds(), &Command{Nodes: 1}, plans)
	if s.Known() != 0 {
		t.Errorf("%d accounts are still known when nothing of them counts", s.Known())
	}
	runtime.KeepAlive(names)
}
