package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forebay/wal/message"
)

func TestDiskGuardHasHysteresis(t *testing.T) {
	const mib = 1 << 20
	g := diskGuard{maxUsed: 100 * mib, minFree: 200 * mib}
	for i, step := range []struct {
		used, free int64
		full       bool
	}{
		{0, 1000 * mib, false}, {99 * mib, 201 * mib, false}, {100 * mib, 1000 * mib, true}, {96 * mib, 1000 * mib, true},
		{95 * mib, 1000 * mib, false}, {0, 199 * mib, true}, {0, 205 * mib, true}, {0, 210 * mib, false},
	} {
		if got := g.measured(step.used, step.free); got != step.full {
			t.Errorf("step %d: used %d MiB, free %d MiB: full is %v", i, step.used/mib, step.free/mib, got)
		}
	}
}

// TestTheReserveFitsTogether: what opening needs must be there once the default
// ballast is gone, and appends must stop before that.
func TestTheReserveFitsTogether(t *testing.T) {
	for _, memTable := range []int64{1 << 20, 16 << 20, 64 << 20} {
		cfg := Config{Dir: "x", Node: 1, MemTable: memTable}.withDefaults()
		if cfg.MinFreeBytes < reserve(memTable) || cfg.BallastBytes < reserve(memTable) {
			t.Errorf("memtable %d MiB: min free %d MiB, ballast %d MiB, reserve %d MiB", memTable>>20, cfg.MinFreeBytes>>20, cfg.BallastBytes>>20, reserve(memTable)>>20)
		}
	}
}

// hog fills the disk but for some bytes, as another program would.
func hog(t *testing.T, at string, leave int64) (free func()) {
	t.Helper()
	path := filepath.Join(at, "hog")
	avail, err := freeBytes(at)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	taken := int64(0)
	for step := avail; step >= 4096; { // the file's own map needs some blocks
		if step = min(step, avail-leave-taken); step <= 0 || unix.Fallocate(int(f.Fd()), 0, taken, step) != nil {
			step /= 2
			continue
		}
		taken += step
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAFullDiskIsRefusedBeforeItIsFull runs on a small disk of its own: appends
// until ErrFull, completes everything while it is full, is filled further from
// outside, resumes by itself, and opens on a disk with nothing left by giving up
// its ballast.
func TestAFullDiskIsRefusedBeforeItIsFull(t *testing.T) {
	t.Parallel()
	d := newLoopDisk(t, 80)
	cfg := Config{Dir: filepath.Join(d.at, "wal"), Node: 7, MemTable: 1 << 20, MinFreeBytes: 1, Capacity: 1000, often: time.Second}
	l := openTest(t, cfg)
	want := held{}
	fill := func() {
		t.Helper()
		var mu sync.Mutex
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for i := w; ; i += 8 {
					m := bigMessage(i, 20_000)
					r, err := l.Append(t.Context(), m)
					if errors.Is(err, ErrFull) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					want[r.ID] = m.Append(nil)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
	}
	fill()
	var free int64
	var err error
	eventually(t, "half of the reserve is free, whatever compactions need for a while", func() bool {
		free, err = freeBytes(d.at)
		return err != nil || free >= reserve(cfg.MemTable)/2
	})
	t.Logf("full at %d messages, %d MiB free", len(want), free>>20)
	if err != nil || len(want) < 500 {
		t.Fatalf("full at %d messages, %d MiB free, %v", len(want), free>>20, err)
	}
	// Another program takes more; the drain goes on all the same.
	release := hog(t, d.at, reserve(cfg.MemTable)/2)
	got := drain(t, l)
	if err := want.check(got); err != nil {
		t.Fatal(err)
	}
	for len(got) > 0 {
		n := min(len(got), 100)
		if err := l.Complete(t.Context(), got[:n]); err != nil {
			t.Fatal(err)
		}
		for _, e := range got[:n] {
			delete(want, e.ID)
		}
		got = got[n:]
	}
	release()
	eventually(t, "appends resume by themselves", func() bool { return !l.Full() })
	for i := range 100 {
		m := bigMessage(i, 20_000)
		eventually(t, "room for one more", func() bool { // it may be full again in between
			r, err := l.Append(t.Context(), m)
			if err == nil {
				want[r.ID] = m.Append(nil)
			} else if !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
			return err == nil
		})
	}
	// Killed, and the disk filled to the last block.
	eventually(t, "the ballast is back", func() bool {
		info, err := os.Stat(filepath.Join(cfg.Dir, ballastName))
		return err == nil && info.Size() == reserve(cfg.MemTable)
	})
	if err := l.scrub(t.Context()); err != nil {
		t.Fatal(err)
	}
	closeTest(t, l)
	release = hog(t, d.at, 0)
	if free, err = freeBytes(d.at); err != nil || free > 1<<20 {
		t.Fatal(free, err)
	}
	l = openTest(t, cfg)
	if err := want.check(drain(t, l)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), testMessage(0)); err != nil && !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	eventually(t, "a full disk is found full", func() bool { return l.Full() })
	release()
	eventually(t, "appends resume by themselves", func() bool {
		_, err := l.Append(t.Context(), testMessage(0))
		return err == nil
	})
	closeTest(t, l)
}

func TestOpenOnAFullDiskWithoutBallastSaysSo(t *testing.T) {
	d := newLoopDisk(t, 64)
	cfg := Config{Dir: filepath.Join(d.at, "wal"), Node: 7, MemTable: 1 << 20, MinFreeBytes: 1, BallastBytes: -1}
	l := openTest(t, cfg)
	mustAppend(t, l, testMessage(0))
	closeTest(t, l)
	release := hog(t, d.at, 0)
	if _, err := tryOpen(t, cfg); err == nil || !strings.Contains(err.Error(), "is full") {
		t.Fatal(err)
	}
	release()
	l = openTest(t, cfg)
	if l.Waiting() != 1 {
		t.Fatalf("%d wait", l.Waiting())
	}
	closeTest(t, l)
}

// TestDiskAndMemoryComeBack runs a queue at a small backlog for a long way: many
// times the limit goes through it, and neither disk nor memory grows.
func TestDiskAndMemoryComeBack(t *testing.T) {
	t.Parallel()
	cfg := smallConfig(t)
	cfg.often = 100 * time.Millisecond
	l := openTest(t, cfg)
	const rounds, batch, size = 60, 100, 12_000 // 72 MB
	bound := 3 * reclaimSlack * cfg.MemTable
	most := int64(0)
	for range rounds {
		for i := range batch {
			mustAppend(t, l, bigMessage(i, size))
		}
		if err := l.Complete(t.Context(), drain(t, l)); err != nil {
			t.Fatal(err)
		}
		used, err := usedBytes(cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, used)
	}
	if most > bound {
		t.Errorf("%d MiB on disk at the most, the bound is %d", most>>20, bound>>20)
	}
	t.Logf("%d MiB went through, %d MiB on disk at the most", rounds*batch*size>>20, most>>20)
	closeTest(t, l)
}

// TestABacklogThatWasDrainedGivesItsSpaceBack, without another append.
func TestABacklogThatWasDrainedGivesItsSpaceBack(t *testing.T) {
	t.Parallel()
	cfg := smallConfig(t)
	cfg.often = time.Second
	l := openTest(t, cfg)
	for i := range 250 {
		ms, out := make([]*message.Message, 20), make([]Receipt, 20)
		for j := range ms {
			ms[j] = bigMessage(i*20+j, 12_000)
		}
		if err := l.AppendBatch(t.Context(), ms, out); err != nil {
			t.Fatal(err)
		}
	}
	// Less than the slack is not worth a compaction, and where one comes amid the drain
	// as much may be left; and there are the memtables' files.
	bound := (reclaimSlack + 4) * cfg.MemTable
	full, err := usedBytes(cfg.Dir)
	if err != nil || full < 2*bound {
		t.Fatalf("%d MiB with the backlog, %v: nothing is proved below %d", full>>20, err, 2*bound>>20)
	}
	for l.Waiting() > 0 {
		got, err := l.Next(t.Context(), 500, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Complete(t.Context(), got); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, fmt.Sprintf("less than %d MiB on disk", bound>>20), func() bool {
		used, err := usedBytes(cfg.Dir)
		return err == nil && used < bound
	})
	used, _ := usedBytes(cfg.Dir)
	t.Logf("%d MiB with the backlog, %d MiB after", full>>20, used>>20)
	closeTest(t, l)
}

// TestALogThatReachedItsLimitResumesOnceDrained, though nothing is written then
// that would flush the deletions: few, for the messages are large.
func TestALogThatReachedItsLimitResumesOnceDrained(t *testing.T) {
	t.Parallel()
	cfg := smallConfig(t)
	cfg.MaxDiskBytes = 12 << 20
	cfg.often = 100 * time.Millisecond
	l := openTest(t, cfg)
	for i := 0; !l.Full(); i++ {
		if _, err := l.Append(t.Context(), bigMessage(i, 50_000)); err != nil && !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
	}
	if err := l.Complete(t.Context(), drain(t, l)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "appends resume by themselves", func() bool {
		_, err := l.Append(t.Context(), testMessage(0))
		return err == nil
	})
	closeTest(t, l)
	l = openTest(t, cfg) // pads are no foreign keys
	if l.Waiting() != 1 {
		t.Fatalf("%d wait", l.Waiting())
	}
	closeTest(t, l)
}

func TestReclaimingIsWorthIt(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		tables, live, other int64
		full, want          bool
	}{
		{300 * mib, 0, 0, false, true}, {250 * mib, 0, 0, false, false}, {2000 * mib, 500 * mib, 0, false, false},
		{2400 * mib, 500 * mib, 0, false, true}, {2400 * mib, 500 * mib, 1800 * mib, false, false},
		{100 * mib, 60 * mib, 0, true, true}, {100 * mib, 90 * mib, 0, true, false}, {30 * mib, 0, 0, true, false},
	} {
		r := reclaimer{other: c.other}
		if got := r.worth(c.tables, c.live, 16*mib, c.full); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// TestMemoryIsBoundedAtAnyBacklog holds 80 MB of messages with a window of a few.
// Badger's own memory, for memtables and the tables it builds, is most of the
// heap: some 100 MiB, whatever it holds.
func TestMemoryIsBoundedAtAnyBacklog(t *testing.T) {
	cfg := smallConfig(t)
	cfg.Capacity = 1000
	l := openTest(t, cfg)
	ms, out := make([]*message.Message, 100), make([]Receipt, 100)
	for j := range ms {
		ms[j] = bigMessage(j, 4000)
	}
	const n = 20_000
	for range n / len(ms) {
		if err := l.AppendBatch(t.Context(), ms, out); err != nil {
			t.Fatal(err)
		}
	}
	heap, s := heapBytes(), l.Stats()
	t.Logf("heap %d MiB with %d MiB waiting, %d of %d messages in memory", heap>>20, s.LiveBytes>>20, s.InMemory, s.Waiting)
	if heap > 120<<20 || s.InMemory > cfg.Capacity || s.Waiting != n {
		t.Error("the backlog is in memory")
	}
	closeTest(t, l)
	l = openTest(t, cfg)
	if heap := heapBytes(); heap > 60<<20 {
		t.Errorf("the heap is %d MiB after opening the backlog", heap>>20)
	}
	closeTest(t, l)
}

// TestAFullLogTakesCallbacks: what must be told before a message can go is taken by a
// log that is full, as long as the disk has room for what the log does itself.
func TestAFullLogTakesCallbacks(t *testing.T) {
	t.Parallel()
	cfg := smallConfig(t)
	cfg.MaxDiskBytes, cfg.often = 4<<20, time.Hour
	l := openTest(t, cfg)
	n := 0
	refused := func(m *message.Message) bool {
		_, err := l.Append(t.Context(), m)
		if err != nil && !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
		n++
		return err != nil
	}
	for !refused(bigMessage(n, 20_000)) {
	}
	told := testMessage(2)
	told.Callback = true
	// The log may have space again for a moment, when a memtable becomes a table.
	eventually(t, "the log is full before it takes a callback, and after it", func() bool {
		if !refused(bigMessage(n, 20_000)) {
			return false
		}
		mustAppend(t, l, told)
		return refused(bigMessage(n, 20_000))
	})
	eventually(t, "a callback is refused on a disk that is all but full", func() bool {
		l.free.Store(reserve(cfg.MemTable)/2 - 1) // until it is measured again
		return refused(told)
	})
	eventually(t, "a callback is taken on a disk with room", func() bool { return !refused(told) })
	closeTest(t, l)
}
