package sink_test

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"forebay/wal/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// failer is what *testing.T and *rapid.T have in common.
type failer interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// source is a log in memory that keeps account of who owns each entry: what is
// completed must have been taken, and is completed once.
type source struct {
	t failer

	mu       sync.Mutex // guards what follows
	seq      uint64
	lanes    [message.Lanes][]message.Entry
	taken    map[message.ID]message.Entry
	done     map[message.ID]bool
	takes    []take
	wake     chan struct{} // closed, and replaced, when an entry comes
	failNext error
	failDone error
	inNext   atomic.Int64 // callers of Next: workers that take at once would share out a batch
}

// take is one answer of Next.
type take struct {
	asked, got int
	left       int           // how many waited still
	waited     time.Duration // since Next saw the first of them
	linger     time.Duration
}

func newSource(t failer) *source {
	return &source{t: t, taken: make(map[message.ID]message.Entry), done: make(map[message.ID]bool), wake: make(chan struct{})}
}

// put accepts n messages of the lane and returns them.
func (s *source) put(lane message.Priority, n int) []message.Entry {
	var entries []message.Entry
	for range n {
		m := message.Message{Account: "a", Channel: message.ChannelStore, Priority: lane, Body: "hello"}
		entries = append(entries, s.putMessage(m))
	}
	return entries
}

func (s *source) putMessage(m message.Message) message.Entry {
	return s.putPayload(m.Priority, m.Append(nil))
}

func (s *source) putPayload(lane message.Priority, payload []byte) message.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	ms := uint64(time.Now().UnixMilli()) + s.seq/4096
	e := message.Entry{ID: message.NewID(ms, uint16(s.seq%4096), 1, lane, s.seq), Seq: s.seq, Payload: payload}
	s.lanes[lane] = append(s.lanes[lane], e)
	close(s.wake)
	s.wake = make(chan struct{})
	return e
}

// Next implements sink.Source.
func (s *source) Next(ctx context.Context, limit int, linger time.Duration) ([]message.Entry, error) {
	if limit < 1 {
		s.t.Errorf("next asks for %d entries", limit)
	}
	if s.inNext.Add(1) > 1 {
		s.t.Errorf("two workers take from the log at once")
	}
	defer s.inNext.Add(-1)
	var first time.Time
	for {
		s.mu.Lock()
		if s.failNext != nil {
			defer s.mu.Unlock()
			return nil, s.failNext
		}
		n, wake := s.waitingLocked(), s.wake
		if n > 0 && first.IsZero() {
			first = time.Now()
		}
		if n >= limit || n > 0 && time.Since(first) >= linger {
			defer s.mu.Unlock()
			return s.takeLocked(limit, time.Since(first), linger), nil
		}
		s.mu.Unlock()
		var expired <-chan time.Time
		if n > 0 {
			expired = time.After(linger - time.Since(first))
		}
		select {
		case <-wake:
		case <-expired:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (s *source) takeLocked(limit int, waited, linger time.Duration) (out []message.Entry) {
	for lane := range s.lanes {
		n := min(limit-len(out), len(s.lanes[lane]))
		out = append(out, s.lanes[lane][:n]...)
		s.lanes[lane] = s.lanes[lane][n:]
	}
	for _, e := range out {
		s.taken[e.ID] = e
	}
	s.takes = append(s.takes, take{asked: limit, got: len(out), left: s.waitingLocked(), waited: waited, linger: linger})
	return out
}

// Complete implements sink.Source.
func (s *source) Complete(ctx context.Context, entries []message.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failDone != nil {
		return s.failDone
	}
	if len(entries) == 0 {
		s.t.Errorf("complete of nothing")
	}
	for _, e := range entries {
		if _, ok := s.taken[e.ID]; !ok || s.done[e.ID] {
			s.t.Errorf("entry %d is completed without having been taken, or again", e.Seq)
		}
		delete(s.taken, e.ID)
		s.done[e.ID] = true
	}
	return nil
}

// Waiting implements sink.Source.
func (s *source) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waitingLocked()
}

func (s *source) waitingLocked() (n int) {
	for _, lane := range s.lanes {
		n += len(lane)
	}
	return n
}

// restart does what a restart of the log does: what was taken waits again.
func (s *source) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.taken {
		s.lanes[e.ID.Lane()] = append(s.lanes[e.ID.Lane()], e)
	}
	clear(s.taken)
	for _, lane := range s.lanes {
		slices.SortFunc(lane, func(a, b message.Entry) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	}
}

// counts returns how many entries were accepted, are taken and are completed.
func (s *source) counts() (accepted, taken, done int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.seq), len(s.taken), len(s.done)
}
