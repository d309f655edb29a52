package sink

import (
	"sync"
	"time"
)

// sizer decides how many entries the next batch may have. Without a backlog
// that is the base. While more waits than a batch holds, batches grow by half
// towards the limit, for as long as the store takes each in less than half the
// target time; when it takes longer than the target they shrink, at most by
// half at once, never under the floor: many tiny batches are what a slow store
// needs least.
type sizer struct {
	target time.Duration

	mu                 sync.Mutex // guards what follows
	floor, base, limit int        // they change by configure
	size               int        // floor ≤ size ≤ limit
}

func newSizer(base, limit int, target time.Duration) *sizer {
	return &sizer{floor: max(base/10, 1), base: base, limit: limit, target: target, size: base}
}

// next returns the size of the next batch, given how many entries wait.
func (s *sizer) next(waiting int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if waiting <= s.base {
		return min(s.size, s.base)
	}
	return s.size
}

// observe learns from an insert of n entries that took so long while waiting
// more were there.
func (s *sizer) observe(n, waiting int, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case took > s.target:
		// From what was sent, not from size: a small batch that was slow says
		// that size is far too large.
		fit := int(float64(n) * float64(s.target) / float64(took))
		s.size = max(s.floor, min(s.size, max(fit, s.size/2)))
	case s.size < s.base:
		if took < s.target/2 {
			s.size = min(s.base, s.size+s.size/2+1)
		}
	case waiting > s.size && n >= s.size && took < s.target/2:
		s.size = min(s.limit, s.size+s.size/2+1)
	case waiting <= s.base:
		s.size = s.base
	}
}
