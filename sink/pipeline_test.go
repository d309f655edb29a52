package sink_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"forebay/sink"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// errFault is a store's refusal of a whole batch.
var errFault = errors.New("relation does not exist")

// call is what a store does at one call.
type call struct {
	latency time.Duration
	err     error // instead of the insert
	lost    bool  // the insert takes effect, and its answer is lost
}

// scripted is a store that goes through calls, and does nothing special after
// them.
type scripted struct {
	*sinktest.Memory
	calls []call
	n     atomic.Int64
}

func newScripted(calls []call) *scripted { return &scripted{Memory: &sinktest.Memory{}, calls: calls} }

func (s *scripted) Insert(ctx context.Context, batch []message.Record) ([]sink.Result, error) {
	var c call
	if i := s.n.Add(1); i <= int64(len(s.calls)) {
		c = s.calls[i-1]
	}
	if !pause(ctx, c.latency) {
		return nil, context.Cause(ctx)
	}
	if c.err != nil {
		return nil, c.err
	}
	results, err := s.Memory.Insert(ctx, batch)
	if c.lost {
		return nil, &sink.Down{Err: errors.New("connection reset")}
	}
	return results, err
}

// pause waits on the bubble's clock and reports whether ctx allowed it.
func pause(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return true
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// calls generates what a bad day does to a store.
func calls() *rapid.Generator[[]call] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) call {
		c := call{latency: time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond}
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0:
			c.err = &sink.Down{Err: errors.New("connection refused")}
		case 1:
			c.err = errFault
		case 2:
			c.lost = true
		}
		return c
	}), 0, 20)
}

// start runs a pipeline and returns what stops it and waits for its end.
func start(t failer, cfg sink.Config) (stop func() error) {
	t.Helper()
	p, err := sink.NewPipeline(cfg)
	if err != nil {
		t.Fatalf("new pipeline: %v", err)
	}
	return run(p)
}

func run(p *sink.Pipeline) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	return func() error {
		cancel()
		return <-ended
	}
}

// drain waits until nothing waits and nothing is taken, for a week at most.
func drain(t failer, src *source) {
	t.Helper()
	for range 7 * 24 * 60 {
		synctest.Wait()
		if _, taken, _ := src.counts(); taken == 0 && src.Waiting() == 0 {
			return
		}
		pause(context.Background(), time.Minute)
	}
	accepted, taken, done := src.counts()
	t.Fatalf("after a week %d of %d entries are done, %d are taken, %d wait", done, accepted, taken, src.Waiting())
}

// checkStored holds the store to having each accepted message once, finally.
func checkStored(t failer, src *source, store interface{ Records() []message.Record }) {
	t.Helper()
	accepted, taken, done := src.counts()
	records := store.Records()
	if taken != 0 || done != accepted || len(records) != accepted {
		t.Errorf("of %d messages %d are completed, %d still taken and %d stored", accepted, done, taken, len(records))
	}
	for _, r := range records {
		if r.Status != message.Stored {
			t.Errorf("message %d is %v, want stored", r.Seq, r.Status)
		}
	}
}

// TestProperty07_BatchesAreFullOrTimedOut: whatever arrives when, and however
// slow the store is, every batch is as large as was right for the backlog, or
// has waited for its time.
func TestProperty07_BatchesAreFullOrTimedOut(t *testing.T) {
	type arrival struct {
		after time.Duration
		n     int
	}
	rapid.Check(t, func(t *rapid.T) {
		arrivals := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) arrival {
			return arrival{time.Duration(rapid.IntRange(0, 300).Draw(t, "ms")) * time.Millisecond, rapid.IntRange(1, 120).Draw(t, "n")}
		}), 1, 30).Draw(t, "arrivals")
		bad := calls().Draw(t, "calls")
		size := rapid.IntRange(1, 40).Draw(t, "batch size")
		cfg := sink.Config{BatchSize: size, MaxBatch: size * rapid.IntRange(1, 5).Draw(t, "growth"), Workers: rapid.IntRange(1, 4).Draw(t, "workers")}
		rapid.SyncTest(t, func(t *rapid.T) {
			src, store := newSource(t), newScripted(bad)
			cfg.Source, cfg.Store = src, store
			stop := start(t, cfg)
			for _, a := range arrivals {
				pause(context.Background(), a.after)
				src.put(message.Normal, a.n)
			}
			drain(t, src)
			if err := stop(); err != nil {
				t.Errorf("run: %v", err)
			}
			checkStored(t, src, store)
			floor := max(cfg.BatchSize/10, 1)
			for i, b := range src.takes {
				if b.asked < floor || b.asked > cfg.MaxBatch || b.linger != 100*time.Millisecond {
					t.Errorf("take %d asked for %d within %v, want %d to %d within 100ms", i, b.asked, b.linger, floor, cfg.MaxBatch)
				}
				if b.got < b.asked && (b.left > 0 || b.waited < b.linger) {
					t.Errorf("take %d has %d of %d entries after %v, with %d left: a trickle", i, b.got, b.asked, b.waited, b.left)
				}
			}
		})
	})
}

// TestProperty08_StopAtAnyMomentLosesNothing: however the store behaves and
// whenever the pipeline is stopped, each entry is in the log, or in the store
// and completed; Run returns within the grace; and after the next start
// everything is stored, once.
func TestProperty08_StopAtAnyMomentLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bad := calls().Draw(t, "calls")
		n := rapid.IntRange(0, 200).Draw(t, "messages")
		stops := rapid.SliceOfN(rapid.IntRange(0, 8000), 1, 4).Draw(t, "stop after ms")
		cfg := sink.Config{BatchSize: rapid.IntRange(1, 50).Draw(t, "batch size"), Workers: rapid.IntRange(1, 4).Draw(t, "workers"),
			Grace: time.Duration(rapid.IntRange(1, 4000).Draw(t, "grace ms")) * time.Millisecond}
		rapid.SyncTest(t, func(t *rapid.T) {
			src, store := newSource(t), newScripted(bad)
			cfg.Source, cfg.Store = src, store
			for i, ms := range stops {
				src.put(message.Priority(i%message.Lanes), n/len(stops))
				stop := start(t, cfg)
				pause(context.Background(), time.Duration(ms)*time.Millisecond)
				before := time.Now()
				if err := stop(); err != nil {
					t.Errorf("run: %v", err)
				}
				if took := time.Since(before); took > cfg.Grace {
					t.Errorf("stop took %v, want at most %v", took, cfg.Grace)
				}
				accepted, taken, done := src.counts()
				if src.Waiting()+taken+done != accepted || len(store.Records()) < done {
					t.Errorf("of %d messages %d wait, %d are taken, %d done and %d stored", accepted, src.Waiting(), taken, done, len(store.Records()))
				}
				src.restart()
			}
			stop := start(t, cfg)
			drain(t, src)
			if err := stop(); err != nil {
				t.Errorf("run: %v", err)
			}
			checkStored(t, src, store)
		})
	})
}

// TestProperty16_StoreNeverBlocksTheLog: while the store hangs, entries are
// accepted without any time passing, and what the pipeline holds is bounded.
func TestProperty16_StoreNeverBlocksTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		puts := rapid.SliceOfN(rapid.IntRange(1, 100), 1, 20).Draw(t, "puts")
		cfg := sink.Config{BatchSize: rapid.IntRange(1, 20).Draw(t, "batch size"), Workers: rapid.IntRange(1, 4).Draw(t, "workers")}
		rapid.SyncTest(t, func(t *rapid.T) {
			src, store := newSource(t), &sinktest.Memory{}
			release := make(chan struct{})
			store.Intercept = func(ctx context.Context, _ string) error {
				select {
				case <-release:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			cfg.Source, cfg.Store = src, store
			stop := start(t, cfg)
			for _, n := range puts {
				pause(context.Background(), time.Minute)
				before := time.Now()
				src.put(message.Normal, n)
				if took := time.Since(before); took != 0 {
					t.Errorf("accepting took %v while the store hung", took)
				}
			}
			pause(context.Background(), time.Minute)
			if _, taken, done := src.counts(); taken > cfg.Workers*5*cfg.BatchSize || done != 0 {
				t.Errorf("%d entries taken and %d done while the store hung", taken, done)
			}
			close(release)
			drain(t, src)
			if err := stop(); err != nil {
				t.Errorf("run: %v", err)
			}
			checkStored(t, src, store)
		})
	})
}

// TestProperty21_OrderOfTheLogIsKept: one worker stores in just the order in
// which the log hands out, and so higher lanes first and each in order of
// acceptance; of several, each stores its batches in that order.
func TestProperty21_OrderOfTheLogIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lanes := rapid.SliceOfN(rapid.IntRange(0, message.Lanes-1), 1, 300).Draw(t, "lanes")
		workers := rapid.IntRange(1, 4).Draw(t, "workers")
		bad := calls().Draw(t, "calls")
		rapid.SyncTest(t, func(t *rapid.T) {
			src, store := newSource(t), newScripted(bad)
			for _, lane := range lanes {
				src.put(message.Priority(lane), 1)
			}
			var batches [][]message.Record
			var mu sync.Mutex
			stop := start(t, sink.Config{Source: src, Store: store, Workers: workers, BatchSize: 20, OnStored: func(b []message.Record) {
				mu.Lock()
				defer mu.Unlock()
				batches = append(batches, slices.Clone(b))
			}})
			drain(t, src)
			if err := stop(); err != nil {
				t.Errorf("run: %v", err)
			}
			order := func(a, b message.Record) int {
				if a.Priority != b.Priority {
					return int(a.Priority) - int(b.Priority)
				}
				return int(a.Seq) - int(b.Seq)
			}
			for _, b := range batches {
				if !slices.IsSortedFunc(b, order) {
					t.Errorf("a batch is out of order")
				}
			}
			if workers == 1 && !slices.IsSortedFunc(store.Records(), order) {
				t.Errorf("records were not stored in order")
			}
			checkStored(t, src, store)
		})
	})
}

// TestNthCallFails: whichever call fails, and how, all is stored once in the end.
func TestNthCallFails(t *testing.T) {
	faults := map[string]call{"down": {err: &sink.Down{Err: errors.New("connection refused")}}, "refused": {err: errFault}, "answer lost": {lost: true}}
	for name, fault := range faults {
		for n := range 6 {
			t.Run(fmt.Sprintf("%s/%d", name, n+1), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					src, store := newSource(t), newScripted(append(make([]call, n), fault))
					src.put(message.Normal, 50)
					stop := start(t, sink.Config{Source: src, Store: store, BatchSize: 10, MaxBatch: 10, Workers: 2})
					drain(t, src)
					if err := stop(); err != nil {
						t.Errorf("run: %v", err)
					}
					checkStored(t, src, store)
				})
			})
		}
	}
}
