package wal

import (
	"testing"

	"forebay/wal/message"
)

// TestMemTablesOfWhatWaits: a log that is opened with smaller memtables, after it
// was closed or killed, keeps those that its largest message needs to be put to
// rest, and shrinks them once nothing waits.
func TestMemTablesOfWhatWaits(t *testing.T) {
	t.Parallel()
	const large, small = 4 << 20, 1 << 20
	cfg := testConfig(t)
	cfg.MemTable, cfg.WindowBytes = large, 8<<20
	l := openTest(t, cfg)
	const body = 400 << 10
	id := mustAppend(t, l, bigMessage(1, body)).ID
	if body < MaxRecord(small) {
		t.Fatal("the message fits the small memtables, too")
	}
	copied := crashCopy(t, cfg.Dir)
	closeTest(t, l)
	for name, dir := range map[string]string{"closed": cfg.Dir, "killed": copied} {
		cfg := cfg
		cfg.Dir, cfg.MemTable = dir, small
		l := openTest(t, cfg)
		if got := l.MemTable(); got != large {
			t.Errorf("%s: memtables of %d bytes while the message waits, want %d", name, got, large)
		}
		e := drain(t, l)
		if len(e) != 1 || e[0].ID != id {
			t.Fatalf("%s: %d messages, want %s", name, len(e), id)
		}
		if err := l.Shelve(background(), 1, e); err != nil {
			t.Errorf("%s: put to rest: %v", name, err)
		}
		if n, _, err := l.Fetch(background(), 1, 10); n != 1 || err != nil {
			t.Errorf("%s: fetched %d: %v", name, n, err)
		}
		if err := l.Complete(background(), drain(t, l)); err != nil {
			t.Errorf("%s: complete: %v", name, err)
		}
		closeTest(t, l)
		l = openTest(t, cfg)
		if got := l.MemTable(); got != small {
			t.Errorf("%s: memtables of %d bytes when nothing waits, want %d", name, got, small)
		}
		closeTest(t, l)
	}
}

// TestRestInBytes: large messages go to rest all at once and come back a batch's
// bytes at a time, from a shelf as well as when they are due.
func TestRestInBytes(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.MemTable, cfg.WindowBytes = 4<<20, 4<<20
	l := openTest(t, cfg)
	defer closeTest(t, l)
	const n, body = 40, 200 << 10 // 8 MB, eight batches
	const batch = 4<<20/batchShare/body + 1
	for i := range n {
		m := bigMessage(i, body)
		m.Priority = message.Normal // of each lane one too many could come
		mustAppend(t, l, m)
	}
	var all []message.Entry
	for len(all) < n {
		some, err := l.Next(background(), n, 0)
		if err != nil || len(some) > batch {
			t.Fatalf("a batch of %d, want at most %d: %v", len(some), batch, err)
		}
		all = append(all, some...)
	}
	if err := l.Shelve(background(), 7, all); err != nil {
		t.Fatal(err)
	}
	if some, err := l.Browse(7, message.ID{}, n); len(some) == 0 || len(some) > batch || err != nil {
		t.Errorf("browsed %d, want 1 to %d: %v", len(some), batch, err)
	}
	fetched, more := 0, true
	for more {
		before := heldBytes(l)
		some, again, err := l.Fetch(background(), 7, n)
		if err != nil || some > batch || again && some == 0 {
			t.Fatalf("fetched %d, perhaps more: %v, want 1 to %d: %v", some, again, batch, err)
		}
		if grown := heldBytes(l) - before; grown > batch*(body+1000) {
			t.Errorf("one call brought %d bytes", grown)
		}
		if fetched, more = fetched+some, again; fetched > n {
			t.Fatalf("fetched %d of %d", fetched, n)
		}
	}
	if got := drain(t, l); fetched != n || len(got) != n {
		t.Errorf("fetched %d and got %d back, want %d", fetched, len(got), n)
	}
}

// heldBytes are those of records in memory.
func heldBytes(l *Log) int64 {
	l.window.mu.Lock()
	defer l.window.mu.Unlock()
	return l.window.bytes
}
