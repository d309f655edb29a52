package limiter

import "sync/atomic"

// stats counts what a Spender decides.
type stats struct {
	outcomes [Unavailable + 1]atomic.Uint64
	shadow   atomic.Uint64
	answered atomic.Uint64
	failed   atomic.Uint64
}

// count counts a refused request; an admitted one is counted by its messages.
func (s *stats) count(v Verdict) {
	switch {
	case v.Shadow:
		s.shadow.Add(1)
	case v.Reason != Allowed:
		s.outcomes[v.Reason].Add(1)
	}
}

func (s *stats) take(got, n int64, v Verdict) {
	if v.Shadow {
		s.shadow.Add(uint64(n - got))
		got = n
	}
	s.outcomes[Allowed].Add(uint64(got))
	if got < n {
		s.outcomes[v.Reason].Add(uint64(n - got))
	}
}

func (s *stats) exchanged(err error) {
	if err != nil {
		s.failed.Add(1)
	} else {
		s.answered.Add(1)
	}
}

// Stats are counts since the start.
type Stats struct {
	Decided  map[Reason]uint64 // messages, and requests that were over Concurrent
	Shadow   uint64            // admitted only because the plan does not refuse
	Answered uint64            // requests that the group answered
	Failed   uint64            // tries that it did not
	Accounts int               // that this node serves
}

// Stats returns them.
func (s *Spender) Stats() Stats {
	out := Stats{Decided: map[Reason]uint64{}, Shadow: s.stats.shadow.Load(),
		Answered: s.stats.answered.Load(), Failed: s.stats.failed.Load()}
	for r := range s.stats.outcomes {
		out.Decided[Reason(r)] = s.stats.outcomes[r].Load()
	}
	for i := range s.shards {
		s.shards[i].mu.RLock()
		out.Accounts += len(s.shards[i].entries)
		s.shards[i].mu.RUnlock()
	}
	return out
}
