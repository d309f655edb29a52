package wal

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// A disk that fails says so; one that hangs says nothing, and neither does the
// commit that waits for it. Nothing can be taken back from a kernel, so the
// commit goes on waiting, but those who wait for it need not: once the writer has
// been at its work for longer than Config.CommitLimit they are told that the
// outcome is unknown, and who comes meanwhile is refused at the door, so that
// what waits does not grow. When the disk answers after all, the log goes on.

// stall watches the writer.
type stall struct {
	limit time.Duration
	log   *slog.Logger
	late  atomic.Bool
	// over is closed when the writer is late, and replaced when it is late no
	// longer: one that is open stays the one that will be closed.
	over atomic.Pointer[chan struct{}]

	timer *time.Timer // the writer's

	mu    sync.Mutex // guards since, and changes of late and over
	since time.Time  // when the writer began; zero: it rests
}

func (s *stall) init(cfg Config) {
	s.limit, s.log = cfg.CommitLimit, cfg.Logger
	s.renew()
	s.timer = time.AfterFunc(s.limit, s.fire)
	s.timer.Stop()
}

func (s *stall) renew() {
	over := make(chan struct{})
	s.over.Store(&over)
}

// begin and end are around what the writer took from the inbox at once.
func (s *stall) begin() {
	s.mu.Lock()
	s.since = time.Now()
	s.mu.Unlock()
	s.timer.Reset(s.limit)
}

func (s *stall) end() {
	s.timer.Stop()
	s.mu.Lock()
	took, was := time.Since(s.since), s.late.Load()
	s.since = time.Time{}
	if was {
		s.renew()
		s.late.Store(false)
	}
	s.mu.Unlock()
	if was {
		s.log.Warn("the log's disk answers again: accepting", "took", took)
	}
}

// fire is the timer's. It may come when the writer is at its next work already.
func (s *stall) fire() {
	s.mu.Lock()
	late := !s.since.IsZero() && time.Since(s.since) >= s.limit && !s.late.Swap(true)
	if late {
		close(*s.over.Load())
	}
	s.mu.Unlock()
	if late {
		s.log.Error("the log's disk does not answer: nothing is accepted until it does", "waited", s.limit)
	}
}

// Stalled reports whether the disk keeps a commit waiting for longer than
// Config.CommitLimit: appends are refused.
func (l *Log) Stalled() bool { return l.stall.late.Load() }
