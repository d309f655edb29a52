package wal

import (
	"bytes"
	"errors"
	"math"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forebay/wal/message"
)

// TestProperty02_OverCapacityNothingIsLostOrChanged appends more than the window
// holds, from several goroutines, while another takes and completes.
func TestProperty02_OverCapacityNothingIsLostOrChanged(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		cfg := testConfig(t)
		cfg.Capacity = rapid.IntRange(1, 200).Draw(r, "capacity")
		cfg.Threshold = cfg.Capacity
		cfg.WindowBytes = rapid.Int64Range(1, 1<<20).Draw(r, "window bytes")
		count, writers := rapid.IntRange(1, 1500).Draw(r, "messages"), rapid.IntRange(1, 8).Draw(r, "writers")
		size, batch := rapid.IntRange(0, 2000).Draw(r, "size"), rapid.IntRange(1, 700).Draw(r, "batch")
		l := openTest(t, cfg)
		var mu sync.Mutex
		want, appended := held{}, sync.WaitGroup{}
		for w := range writers {
			appended.Go(func() {
				for i := w; i < count; i += writers {
					m := bigMessage(i, size)
					receipt, err := l.Append(background(), m)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					want[receipt.ID] = m.Append(nil)
					mu.Unlock()
				}
			})
		}
		var got []message.Entry
		for len(got) < count && !t.Failed() {
			some, err := l.Next(background(), batch, 0)
			if err != nil {
				r.Fatal(err)
			}
			if got = append(got, some...); rapid.Bool().Draw(r, "complete") {
				if err := l.Complete(background(), some); err != nil {
					r.Fatal(err)
				}
			}
		}
		appended.Wait()
		if err := errors.Join(want.check(got), l.Close()); err != nil {
			r.Fatal(err)
		}
	})
}

// TestProperty05_TheWindowTellsItsFill holds Backpressure and the counts against
// the fill, whatever is appended, taken and completed.
func TestProperty05_TheWindowTellsItsFill(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		cfg := testConfig(t)
		cfg.Capacity = rapid.IntRange(10, 500).Draw(r, "capacity")
		l := openTest(t, cfg)
		threshold := cfg.Capacity * 8 / 10
		var taken []message.Entry
		backlog, on := 0, false
		r.Repeat(map[string]func(*rapid.T){
			"append": func(r *rapid.T) {
				n := rapid.IntRange(1, 200).Draw(r, "n")
				ms, out := make([]*message.Message, n), make([]Receipt, n)
				for i := range ms {
					ms[i] = testMessage(i)
				}
				if err := l.AppendBatch(background(), ms, out); err != nil {
					r.Fatal(err)
				}
				backlog += n
			},
			"next": func(r *rapid.T) {
				if l.Waiting() == 0 {
					r.Skip("nothing waits")
				}
				got, err := l.Next(background(), rapid.IntRange(1, 300).Draw(r, "max"), 0)
				if err != nil {
					r.Fatal(err)
				}
				taken = append(taken, got...)
			},
			"complete": func(r *rapid.T) {
				if len(taken) == 0 {
					r.Skip("nothing is taken")
				}
				n := rapid.IntRange(1, len(taken)).Draw(r, "n")
				if err := l.Complete(background(), taken[:n]); err != nil {
					r.Fatal(err)
				}
				backlog -= n
				taken = taken[n:]
			},
			"spill": func(r *rapid.T) { l.Spill(rapid.Bool().Draw(r, "on")) },
			"": func(r *rapid.T) {
				on = backlog >= threshold || on && backlog >= threshold-threshold/relief
				s := l.Stats()
				if s.Backpressure != on || l.Backpressure() != on {
					r.Fatalf("backpressure is %v at a backlog of %d, threshold %d; want %v", s.Backpressure, backlog, threshold, on)
				}
				if s.Waiting != backlog-len(taken) || s.Taken != len(taken) || l.Waiting() != s.Waiting {
					r.Fatalf("%d waiting and %d taken, want %d and %d", s.Waiting, s.Taken, backlog-len(taken), len(taken))
				}
			},
		})
		if err := l.Close(); err != nil {
			r.Fatal(err)
		}
	})
}

func TestSpillKeepsNewRecordsOutOfMemory(t *testing.T) {
	l := openTest(t, testConfig(t))
	mustAppend(t, l, testMessage(0))
	l.Spill(true)
	for i := range 100 {
		mustAppend(t, l, testMessage(i))
	}
	if s := l.Stats(); s.InMemory != 1 || s.Waiting != 101 {
		t.Fatalf("%d of %d in memory while spilling", s.InMemory, s.Waiting)
	}
	l.Spill(false)
	if got := drain(t, l); len(got) != 101 {
		t.Fatalf("%d come back", len(got))
	}
	mustAppend(t, l, testMessage(0))
	if s := l.Stats(); s.InMemory != 1 {
		t.Fatalf("%d in memory after spilling", s.InMemory)
	}
	closeTest(t, l)
}

// TestProperty06_FullMeansOnDiskOrRefused fills the log to its disk limit: every
// append is either refused with ErrFull or there after a restart.
func TestProperty06_FullMeansOnDiskOrRefused(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		cfg := smallConfig(t)
		cfg.Capacity = rapid.IntRange(1, 50).Draw(r, "capacity")
		cfg.MaxDiskBytes = rapid.Int64Range(2<<20, 5<<20).Draw(r, "limit")
		size := rapid.IntRange(100, 50_000).Draw(r, "size")
		l := openTest(t, cfg)
		want, refused := held{}, 0
		for i := 0; refused < 3; i++ {
			m := bigMessage(i, size)
			receipt, err := l.Append(background(), m)
			switch {
			case err == nil:
				want[receipt.ID] = m.Append(nil)
			case errors.Is(err, ErrFull):
				refused++
			default:
				r.Fatal(err)
			}
			if int64(len(want)*size) > 2*cfg.MaxDiskBytes {
				r.Fatalf("%d messages of %d bytes within a limit of %d", len(want), size, cfg.MaxDiskBytes)
			}
		}
		if err := l.Close(); err != nil {
			r.Fatal(err)
		}
		l = openTest(t, cfg)
		if err := errors.Join(want.check(drain(t, l)), l.Close()); err != nil {
			r.Fatal(err)
		}
	})
}

// TestProperty17_IDsAreUniqueValidAndAscending issues ids by a clock that jumps
// as it likes, over restarts.
func TestProperty17_IDsAreUniqueValidAndAscending(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := writer{node: uint16(rapid.IntRange(1, 65535).Draw(r, "node")), random: newRandom()}
		for range rapid.IntRange(1, 50).Draw(r, "moments") {
			now := rapid.Uint64Range(1, 1<<41).Draw(r, "now")
			for i := range rapid.SampledFrom([]int{1, 3, 5000}).Draw(r, "count") {
				before, lane := w.last, message.Priority(i%message.Lanes)
				id := w.issue(now, lane)
				if id.Compare(before) <= 0 || !id.Valid() || id.Node() != w.node || id.Lane() != lane {
					r.Fatalf("%s (node %d, lane %s) after %s", id, id.Node(), id.Lane(), before)
				}
				if back, err := message.ParseID(id.String()); err != nil || back != id {
					r.Fatalf("%s does not parse: %v", id, err)
				}
			}
			if rapid.Bool().Draw(r, "restart") {
				w = writer{node: w.node, random: newRandom(), last: w.last}
			}
		}
	})
}

func TestProperty17_IDsAscendOverRestartsWithTheClockSetBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		cfg := testConfig(t)
		var last Receipt
		for range rapid.IntRange(1, 5).Draw(r, "restarts") {
			at := time.UnixMilli(rapid.Int64Range(1, math.MaxInt32).Draw(r, "ms"))
			cfg.now = func() time.Time { return at }
			l := openTest(t, cfg)
			for i := range rapid.IntRange(0, 20).Draw(r, "appends") {
				receipt, err := l.Append(background(), testMessage(i))
				if err != nil {
					r.Fatal(err)
				}
				if receipt.ID.Compare(last.ID) <= 0 || receipt.Seq != last.Seq+1 {
					r.Fatalf("%+v after %+v", receipt, last)
				}
				last = receipt
			}
			if err := l.Close(); err != nil {
				r.Fatal(err)
			}
		}
	})
}

// TestProperty21_HigherLanesFirstThenOrderOfAcceptance takes batches while more
// is appended, with little memory, so that lanes spill and are read back.
func TestProperty21_HigherLanesFirstThenOrderOfAcceptance(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		cfg := testConfig(t)
		cfg.Capacity, cfg.Threshold = rapid.IntRange(1, 60).Draw(r, "capacity"), 1
		l := openTest(t, cfg)
		var waiting [message.Lanes][]message.ID
		r.Repeat(map[string]func(*rapid.T){
			"append": func(r *rapid.T) {
				n := rapid.IntRange(1, 100).Draw(r, "n")
				ms, out := make([]*message.Message, n), make([]Receipt, n)
				for i := range ms {
					ms[i] = testMessage(i)
					ms[i].Priority = message.Priority(rapid.IntRange(0, 3).Draw(r, "lane"))
				}
				if err := l.AppendBatch(background(), ms, out); err != nil {
					r.Fatal(err)
				}
				for i, receipt := range out {
					waiting[ms[i].Priority] = append(waiting[ms[i].Priority], receipt.ID)
				}
			},
			"spill": func(r *rapid.T) { l.Spill(rapid.Bool().Draw(r, "on")) },
			"next": func(r *rapid.T) {
				if l.Waiting() == 0 {
					r.Skip("nothing waits")
				}
				got, err := l.Next(background(), rapid.IntRange(1, 150).Draw(r, "max"), 0)
				if err != nil {
					r.Fatal(err)
				}
				for _, e := range got {
					lane := e.ID.Lane()
					for higher := range lane {
						if len(waiting[higher]) > 0 {
							r.Fatalf("lane %s before lane %s", lane, higher)
						}
					}
					if waiting[lane][0] != e.ID {
						r.Fatalf("lane %s: %s before %s", lane, e.ID, waiting[lane][0])
					}
					waiting[lane] = waiting[lane][1:]
				}
			},
		})
		if err := l.Close(); err != nil {
			r.Fatal(err)
		}
	})
}

// TestProperty21_AStarvingLaneGetsATenth: a lane whose oldest message has waited
// 30 s gets a tenth of each batch, wherever its messages are.
func TestProperty21_AStarvingLaneGetsATenth(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		cfg := testConfig(t)
		cfg.Capacity = rapid.IntRange(1, 500).Draw(r, "capacity")
		cfg.Threshold = cfg.Capacity
		var mu sync.Mutex
		now := time.Now()
		cfg.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
		l := openTest(t, cfg)
		l.Spill(rapid.Bool().Draw(r, "spill"))
		fill := func(n int, p message.Priority) {
			ms := make([]*message.Message, n)
			for i := range ms {
				ms[i] = testMessage(i)
				ms[i].Priority = p
			}
			if err := l.AppendBatch(background(), ms, make([]Receipt, n)); err != nil {
				r.Fatal(err)
			}
		}
		low := message.Priority(rapid.IntRange(1, 3).Draw(r, "low"))
		fill(100, low)
		mu.Lock()
		now = now.Add(rapid.SampledFrom([]time.Duration{29 * time.Second, 31 * time.Second}).Draw(r, "age"))
		starved := l.clock.base+30_000 < l.clock.base+uint64(now.Sub(l.clock.since).Milliseconds())
		mu.Unlock()
		fill(400, 0)
		fill(1, low) // a new one does not make the lane any younger
		n := rapid.IntRange(10, 300).Draw(r, "max")
		got, err := l.Next(background(), n, 0)
		if err != nil || len(got) != n {
			r.Fatal(len(got), err)
		}
		lows := 0
		for _, e := range got {
			if e.ID.Lane() == low {
				lows++
			}
		}
		want := 0
		if starved {
			want = (n + starvingShare - 1) / starvingShare
		}
		if lows != want {
			r.Fatalf("%d of %d from lane %s, want %d", lows, n, low, want)
		}
		if err := l.Close(); err != nil {
			r.Fatal(err)
		}
	})
}

func TestABatchOfLargeMessagesEndsByBytes(t *testing.T) {
	cfg := testConfig(t)
	cfg.WindowBytes = 4 << 20
	l := openTest(t, cfg)
	want := held{}
	for i := range 60 {
		m := bigMessage(i, 200_000)
		want[mustAppend(t, l, m).ID] = m.Append(nil)
	}
	var all []message.Entry
	for l.Waiting() > 0 {
		got, err := l.Next(t.Context(), 1000, 0)
		if err != nil {
			t.Fatal(err)
		}
		total := 0
		for _, e := range got {
			total += len(e.Payload)
		}
		if total > 1<<20+message.Lanes*210_000 {
			t.Fatalf("a batch of %d bytes", total)
		}
		all = append(all, got...)
	}
	if err := want.check(all); err != nil {
		t.Fatal(err)
	}
	closeTest(t, l)
}

func TestRecordsAtTheLimitAreTakenAndAbovePolitelyRefused(t *testing.T) {
	for _, memTable := range []int64{1 << 20, 4 << 20, 16 << 20} {
		cfg := testConfig(t)
		cfg.MemTable = memTable
		l := openTest(t, cfg)
		m := testMessage(2)
		m.IdempotencyKey = string(bytes.Repeat([]byte("k"), 1900))
		m.Body = ""
		m.Body = string(bytes.Repeat([]byte("b"), MaxRecord(memTable)-recordHead-len(m.Append(nil))-4))
		r := mustAppend(t, l, m)
		m.IdempotencyKey, m.Body = "", m.Body+string(make([]byte, 2000))
		if _, err := l.Append(t.Context(), m); !errors.Is(err, ErrTooLarge) {
			t.Fatalf("a message above the limit: %v", err)
		}
		got := drain(t, l)
		got[0].Progress = bytes.Repeat([]byte("s"), MaxState(memTable)+1)
		if err := l.Progress(t.Context(), got); !errors.Is(err, ErrTooLarge) {
			t.Fatalf("a state above the limit: %v", err)
		}
		got[0].Progress = got[0].Progress[1:]
		if err := l.Park(t.Context(), time.Now().Add(time.Hour), got); err != nil {
			t.Fatalf("park record and state at their limits: %v", err)
		}
		if e, err := l.Lookup(r.ID); err != nil || len(e.Progress) != MaxState(memTable) {
			t.Fatal(len(e.Progress), err)
		}
		closeTest(t, l)
	}
}
