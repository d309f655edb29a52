package limiter

import "sync/atomic"

// stats counts what a Spender decides.
type stats struct {
	outcomes [Unavailable + 1]atomic.Uint64
	shadow   atomic.Uint64
	answered atomic.Uint64
	failed   atomic.Uint64
}

// refused counts a request that was; one that was let in is counted by its messages.
func (s *stats) refused(r Reason) {
	if r != Allowed {
		s.outcomes[r].Add(1)
	}
}

func (s *stats) take(got, n int64, r Reason) {
	s.outcomes[Allowed].Add(uint64(got))
	if got < n {
		s.outcomes[r].Add(uint64(n - got))
	}
}

// shadowed counts n messages of a plan that refuses nothing; over of them are
// over it.
func (s *stats) shadowed(n, over int64) {
	s.outcomes[Allowed].Add(uint64(n))
	s.shadow.Add(uint64(over))
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
	Shadow   uint64            // messages admitted only because the plan does not refuse, each once
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
