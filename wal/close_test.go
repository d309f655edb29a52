package wal

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"forebay/wal/message"
)

// TestCloseUnderLoadOfEveryMethod: whoever is inside when the log closes gets an
// answer, and nobody reads what Badger has unmapped.
func TestCloseUnderLoadOfEveryMethod(t *testing.T) {
	t.Parallel()
	for range 3 {
		cfg := smallConfig(t)
		cfg.Capacity = 50
		registry := prometheus.NewPedanticRegistry()
		cfg.Registerer = registry
		l := openTest(t, cfg)
		first := mustAppend(t, l, keyed(1))
		var all sync.WaitGroup
		begun := make(chan struct{}, 100)
		loop := func(name string, step func(i int) error) {
			for range 2 {
				all.Go(func() {
					begun <- struct{}{}
					for i := 0; ; i++ {
						err := step(i)
						if errors.Is(err, ErrClosed) {
							return
						}
						if err != nil && !errors.Is(err, ErrInProgress) && !errors.Is(err, ErrNotFound) {
							t.Errorf("%s: %v", name, err)
							return
						}
					}
				})
			}
		}
		ctx := background()
		take := func() ([]message.Entry, error) { return l.Next(ctx, 20, time.Millisecond) }
		loop("append", func(i int) error { _, err := l.Append(ctx, bigMessage(i, 2000)); return err })
		loop("keyed", func(i int) error { _, err := l.Append(ctx, keyed(i%50)); return err })
		loop("batch", func(i int) error {
			ms := []*message.Message{testMessage(i), testMessage(i + 1)}
			return l.AppendBatch(ctx, ms, make([]Receipt, 2))
		})
		loop("complete", func(int) error {
			got, err := take()
			return errors.Join(err, l.Complete(ctx, got))
		})
		loop("park", func(int) error {
			got, err := take()
			return errors.Join(err, l.Progress(ctx, got), l.Park(ctx, time.Now(), got))
		})
		loop("lookup", func(int) error { _, err := l.Lookup(first.ID); return err })
		loop("backup", func(int) error { return l.Backup(ctx, io.Discard) })
		loop("scrub", func(int) error { return l.scrub(ctx) })
		loop("holds", func(int) error { _, err := l.Holds(ctx, []uint64{1, 2, 1 << 40}); return err })
		loop("rest", func(i int) error {
			l.Stats()
			l.Spill(i%2 == 0)
			l.LowestHeld(ctx)
			_, err := registry.Gather()
			if _, closed := l.Lookup(first.ID); errors.Is(closed, ErrClosed) {
				return closed
			}
			return err
		})
		for range 20 {
			<-begun
		}
		eventually(t, "some work is done", func() bool { return l.Stats().Commits > 50 })
		var closers sync.WaitGroup
		for range 3 {
			closers.Go(func() {
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		closers.Wait()
		all.Wait()
		if families, err := registry.Gather(); err != nil || len(families) != 0 {
			t.Errorf("%d metrics are left, %v", len(families), err)
		}
		l = openTest(t, smallConfigAt(cfg.Dir))
		closeTest(t, l)
	}
}

func smallConfigAt(dir string) Config {
	return Config{Dir: dir, Node: 7, MemTable: 1 << 20, MinFreeBytes: 1, BallastBytes: -1}
}

func TestAClosedLogAnswersEverything(t *testing.T) {
	l := openTest(t, testConfig(t))
	r := mustAppend(t, l, testMessage(0))
	got := drain(t, l)
	closeTest(t, l)
	ctx := t.Context()
	_, appendErr := l.Append(ctx, testMessage(0))
	_, keyedErr := l.Append(ctx, keyed(0))
	_, nextErr := l.Next(ctx, 1, time.Second)
	_, lookupErr := l.Lookup(r.ID)
	_, holdsErr := l.Holds(ctx, []uint64{1})
	for name, err := range map[string]error{
		"append": appendErr, "keyed append": keyedErr, "next": nextErr, "lookup": lookupErr, "holds": holdsErr,
		"batch":    l.AppendBatch(ctx, []*message.Message{testMessage(0)}, make([]Receipt, 1)),
		"complete": l.Complete(ctx, got), "progress": l.Progress(ctx, got), "park": l.Park(ctx, time.Now(), got),
		"backup": l.Backup(ctx, io.Discard),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	l.Stats()
}

func TestNextWaitsLingersAndGivesUp(t *testing.T) {
	l := openTest(t, testConfig(t))
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	waited := make(chan error, 2)
	for range 2 {
		go func() { _, err := l.Next(ctx, 1, time.Hour); waited <- err }()
	}
	cancel(gone)
	for range 2 {
		if err := <-waited; !errors.Is(err, gone) {
			t.Fatal(err)
		}
	}
	batch := make(chan int, 1)
	go func() {
		got, err := l.Next(t.Context(), 3, time.Hour)
		if err != nil {
			t.Error(err)
		}
		batch <- len(got)
	}()
	for i := range 3 {
		mustAppend(t, l, testMessage(i))
	}
	if n := <-batch; n != 3 {
		t.Fatalf("a full batch has %d", n)
	}
	mustAppend(t, l, testMessage(3))
	if got, err := l.Next(t.Context(), 3, time.Millisecond); err != nil || len(got) != 1 {
		t.Fatal(len(got), err)
	}
	closeTest(t, l)
}

func TestASecondProcessIsRefusedAndDisturbsNothing(t *testing.T) {
	cfg := smallConfig(t)
	l := openTest(t, cfg)
	for i := range 100 {
		mustAppend(t, l, testMessage(i))
	}
	for _, try := range []func() error{
		func() error { _, err := Open(cfg); return err },
		func() error { _, err := Verify(cfg.Dir, func(Finding) {}); return err },
		func() error { _, err := Salvage(cfg.Dir, cfg.Dir+".quarantine", func(Finding) {}); return err },
	} {
		if err := try(); err == nil {
			t.Fatal("a log that is in use was opened")
		} else if _, damaged := err.(*DamagedError); damaged {
			t.Fatal(err)
		}
	}
	mustAppend(t, l, testMessage(0))
	closeTest(t, l)
	other := cfg
	other.Node = 8
	if _, err := Open(other); err == nil {
		t.Fatal("another node opened the log")
	}
	l = openTest(t, cfg)
	if l.Waiting() != 101 {
		t.Fatalf("%d wait", l.Waiting())
	}
	closeTest(t, l)
}

// TestAppendBatchLargerThanOneTransaction is atomic for each message, in order.
func TestAppendBatchLargerThanOneTransaction(t *testing.T) {
	l := openTest(t, smallConfig(t))
	ms, out := make([]*message.Message, 1000), make([]Receipt, 1000)
	want := held{}
	for i := range ms {
		ms[i] = bigMessage(i, 3000)
		ms[i].Priority = 2
	}
	if err := l.AppendBatch(t.Context(), ms, out); err != nil {
		t.Fatal(err)
	}
	for i, r := range out {
		if r.Err != nil || r.Seq != uint64(i+1) {
			t.Fatalf("message %d: %+v", i, r)
		}
		want[r.ID] = ms[i].Append(nil)
	}
	if s := l.Stats(); s.Commits < 3 {
		t.Fatalf("%d commits: the batch fits a transaction, and proves nothing", s.Commits)
	}
	got := drain(t, l)
	if err := errors.Join(want.check(got), inOrder(got)); err != nil {
		t.Fatal(err)
	}
	if err := l.Complete(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	if err := l.Complete(t.Context(), got[:10]); err != nil { // again: harmless
		t.Fatal(err)
	}
	late := got[20:30]
	if err := errors.Join(l.Progress(t.Context(), late), l.Park(t.Context(), time.Now(), late)); err != nil { // too late: without effect
		t.Fatal(err)
	}
	if s := l.Stats(); s.Completed != 1000 || s.LiveBytes != 0 || s.Parked != 0 || s.Waiting != 0 {
		t.Fatalf("%+v", s)
	}
	if seq, ok := l.LowestHeld(t.Context()); ok {
		t.Fatalf("number %d is held", seq)
	}
	closeTest(t, l)
}
