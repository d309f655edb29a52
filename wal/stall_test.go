package wal

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// TestHungDisk lets a commit hang: who waits for it is told that the outcome is
// unknown, who comes meanwhile is refused and leaves nothing behind, and when the
// disk answers the log goes on, with what was written and nothing else.
func TestHungDisk(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.CommitLimit = 50 * time.Millisecond
	hang := make(chan chan struct{}, 1)
	cfg.commit = func(txn *badger.Txn) error {
		select {
		case until := <-hang:
			<-until
		default:
		}
		return txn.Commit()
	}
	l := openTest(t, cfg)
	defer closeTest(t, l)
	first := mustAppend(t, l, testMessage(0))

	// A log without a limit would wait for as long as its callers.
	patience, cancel := context.WithTimeout(background(), time.Minute)
	defer cancel()
	for _, way := range []string{"one", "a batch"} {
		until := make(chan struct{})
		hang <- until
		var err error
		if way == "one" {
			_, err = l.Append(patience, keyed(1))
		} else {
			out := make([]Receipt, 2)
			err = l.AppendBatch(patience, []*message.Message{testMessage(2), testMessage(3)}, out)
			for _, r := range out {
				if !errors.Is(r.Err, ErrUnanswered) || !r.ID.IsZero() {
					t.Errorf("a batch, of one message: %+v", r)
				}
			}
		}
		if !errors.Is(err, ErrUnanswered) || !l.Stalled() {
			t.Fatalf("%s, of a disk that hangs: %v, stalled %v", way, err, l.Stalled())
		}
		for range 100 {
			if _, err := l.Append(patience, testMessage(4)); !errors.Is(err, ErrStalled) {
				t.Fatalf("%s, meanwhile: %v", way, err)
			}
		}
		close(until)
		eventually(t, "the log goes on", func() bool { return !l.Stalled() })
	}
	again, err := l.Append(patience, keyed(1))
	if err != nil || !again.Replayed {
		t.Errorf("the same again: %+v, %v; want the first, which was written after all", again, err)
	}
	got := drain(t, l)
	if len(got) != 4 || got[0].ID != first.ID || got[1].ID != again.ID {
		t.Errorf("%d messages are in the log, want the first and the three of unknown outcome", len(got))
	}
}

// TestSlowDiskIsNoHungOne: work that goes on from commit to commit, each within
// the limit, is left alone, and a timer that comes late condemns no later work.
func TestSlowDiskIsNoHungOne(t *testing.T) {
	t.Parallel()
	l := openTest(t, testConfig(t))
	defer closeTest(t, l)
	s := &stall{}
	s.init(l.cfg)
	s.begin()
	s.end()
	s.fire() // while the writer rests
	s.begin()
	s.fire() // of the work before
	if s.late.Load() {
		t.Error("the writer is late before its time")
	}
	s.limit = 0
	s.fire()
	if !s.late.Load() {
		t.Error("the writer is not late after its time")
	}
	s.end()
	if s.late.Load() {
		t.Error("the writer is late after its end")
	}
}
