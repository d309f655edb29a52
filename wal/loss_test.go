package wal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"

	"forebay/wal/message"
)

// removeAll makes a loss: whole files.
func removeAll(t *testing.T, dir, pattern string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %v, %v", pattern, names, err)
	}
	for _, name := range names {
		if err := os.RemoveAll(name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLostAndCutFilesAreNamed: a log of which something is gone does not open,
// says what, and opens after Salvage, without the loss being counted as none.
func TestLostAndCutFilesAreNamed(t *testing.T) {
	t.Parallel()
	dir, whole, issued := damagedWorld(t)
	cut := func(name string, keep func(n int64) int64) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			path := filepath.Join(dir, name)
			n := int64(len(trimZeros(readFile(t, path))))
			if err := os.Truncate(path, keep(n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	half := func(n int64) int64 { return n / 2 }
	sst := anyTable(t, dir)
	for _, loss := range []struct {
		name string
		do   func(t *testing.T, dir string)
		says string
	}{
		{"table removed", func(t *testing.T, dir string) { removeAll(t, dir, "db/"+sst) }, sst},
		{"table cut", cut("db/"+sst, half), sst},
		{"table empty", cut("db/"+sst, func(int64) int64 { return 0 }), sst},
		{"log file removed", func(t *testing.T, dir string) { removeAll(t, dir, "db/*.mem"); raiseTide(t, dir, 1480) }, "its log file is gone"},
		{"manifest removed", func(t *testing.T, dir string) { removeAll(t, dir, "db/MANIFEST") }, "MANIFEST"},
		{"manifest cut", cut("db/MANIFEST", half), ""},
		{"manifest empty", cut("db/MANIFEST", func(int64) int64 { return 0 }), "MANIFEST"},
		{"key registry removed", func(t *testing.T, dir string) { removeAll(t, dir, "db/KEYREGISTRY") }, ""},
		{"value log removed", func(t *testing.T, dir string) { removeAll(t, dir, "db/*.vlog") }, ""},
		{"tide mark removed", func(t *testing.T, dir string) { removeAll(t, dir, tideName) }, tideName},
		{"tide mark cut", cut(tideName, half), tideName},
		{"tide mark empty", cut(tideName, func(int64) int64 { return 0 }), tideName},
		{"tide mark ahead", func(t *testing.T, dir string) {
			raiseTide(t, dir, 5000)
		}, "tide mark stands at 5000"},
		{"database removed", func(t *testing.T, dir string) {
			removeAll(t, dir, "db")
			raiseTide(t, dir, 1480)
			if err := os.Mkdir(dbDir(dir), 0o700); err != nil {
				t.Fatal(err)
			}
		}, "its log file is gone"},
	} {
		t.Run(loss.name, func(t *testing.T) {
			hurt := crashCopy(t, dir)
			loss.do(t, hurt)
			if got := openInChild(t, crashCopy(t, hurt)); !strings.Contains(got.Err, loss.says) {
				t.Errorf("the error is %q, want %q in it", got.Err, loss.says)
			}
			mustBeFoundOrHarmless(t, hurt, "", whole, issued)
		})
	}
}

// anyTable is a table of the log: one that a compaction has replaced may still be
// there, and is no loss.
func anyTable(t *testing.T, dir string) string {
	t.Helper()
	ids, err := manifestTables(dbDir(dir))
	if err != nil || len(ids) == 0 {
		t.Fatalf("%d tables, %v", len(ids), err)
	}
	return table.IDToFilename(slices.Min(slices.Collect(maps.Keys(ids))))
}

// raiseTide writes a tide mark at seq that doesn't say where records begin.
func raiseTide(t *testing.T, dir string, seq uint64) {
	t.Helper()
	mark, err := readTide(dir)
	if err != nil {
		t.Fatal(err)
	}
	mark.Seq, mark.Lowest = seq, [message.Lanes]message.ID{}
	if err := writeTide(dir, mark); err != nil {
		t.Fatal(err)
	}
}

func TestForeignKeysAreNamed(t *testing.T) {
	t.Parallel()
	id := message.NewID(1<<41, 0, 7, 1, 5)
	for name, kv := range map[string][2][]byte{
		"between ours":         {[]byte("q strange"), nil},
		"before ours":          {[]byte("\x00strange"), nil},
		"after ours":           {[]byte("zstrange"), nil},
		"a short message key":  {[]byte("a\x01short"), nil},
		"another lane's key":   {append(laneKey(nil, spanOf(id), 2), id[:]...), newRecord(message.Entry{ID: id, Seq: 1})},
		"no lane's key":        {append(laneKey(nil, spanOf(id), message.Lanes), id[:]...), newRecord(message.Entry{ID: id, Seq: 1})},
		"another span's key":   {append(laneKey(nil, spanOf(id)+1, 1), id[:]...), newRecord(message.Entry{ID: id, Seq: 1})},
		"no id":                {append(laneKey(nil, maxSpan, 2), bytes.Repeat([]byte{0xff}, 16)...), nil},
		"a key of format 1":    {append([]byte{prefixFormer, 1}, id[:]...), newRecord(message.Entry{ID: id, Seq: 1})},
		"a number of another":  {messageKey(nil, id), newRecord(message.Entry{ID: id, Seq: 1})},
		"a number never given": {messageKey(nil, id), newRecord(message.Entry{ID: id, Seq: 99})},
		"an unknown meta key":  {[]byte("xother"), nil},
		"an empty record":      {messageKey(nil, id), nil},
		"an empty progress":    {progressKey(nil, id), nil},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := smallConfig(t)
			l := openTest(t, cfg)
			mustAppend(t, l, testMessage(1))
			err := l.db.Update(func(txn *badger.Txn) error { return txn.Set(kv[0], kv[1]) })
			if err != nil {
				t.Fatal(err)
			}
			closeTest(t, l)
			var damaged *DamagedError
			if _, err := tryOpen(t, cfg); !errors.As(err, &damaged) {
				t.Fatalf("%v", err)
			}
			s, err := trySalvage(t, cfg.Dir, cfg.Dir+".quarantine", func(Finding) {})
			if err != nil || s.Waiting < 1 {
				t.Fatalf("%+v, %v", s, err)
			}
			l = openTest(t, cfg)
			closeTest(t, l)
		})
	}
}

// TestARecordThatRoseAgainIsHarmless: what the ledger calls complete is deleted.
func TestARecordThatRoseAgainIsHarmless(t *testing.T) {
	cfg := smallConfig(t)
	l := openTest(t, cfg)
	for i := range 10 {
		mustAppend(t, l, testMessage(i))
	}
	got := drain(t, l)
	if err := l.Complete(t.Context(), got[:2]); err != nil {
		t.Fatal(err)
	}
	err := l.db.Update(func(txn *badger.Txn) error {
		return errors.Join(txn.Set(messageKey(nil, got[0].ID), newRecord(got[0])), txn.Set(parkedKey(nil, 5, got[1].ID), newRecord(got[1])))
	})
	if err != nil {
		t.Fatal(err)
	}
	closeTest(t, l)
	raiseTide(t, cfg.Dir, 10)
	for range 2 {
		l = openTest(t, cfg)
		if s := l.Stats(); s.Waiting != 8 || s.Parked != 0 || s.Backlog[got[0].ID.Lane()] != l.window.lanes[got[0].ID.Lane()].waiting() {
			t.Fatalf("%+v", s)
		}
		if _, err := l.Lookup(got[0].ID); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		if again := drain(t, l); len(again) != 8 {
			t.Fatalf("%d are handed out", len(again))
		}
		closeTest(t, l)
	}
}

// TestSmallerMemtablesAfterAKill: Badger ends the process over them.
func TestSmallerMemtablesAfterAKill(t *testing.T) {
	t.Parallel()
	for _, tide := range []bool{true, false} {
		cfg := testConfig(t)
		cfg.MemTable = 8 << 20
		l := openTest(t, cfg)
		want := held{}
		for i := range 300 {
			m := bigMessage(i, 20_000)
			want[mustAppend(t, l, m).ID] = m.Append(nil)
		}
		dir := crashCopy(t, cfg.Dir)
		closeTest(t, l)
		small := smallConfigAt(dir)
		if !tide { // Verify and Salvage must not die of it either
			removeAll(t, dir, tideName)
			s, err := tryVerify(t, dir, func(Finding) {})
			if err != nil || s.Grave != 1 {
				t.Fatalf("%+v, %v", s, err)
			}
			if s, err = trySalvage(t, dir, dir+".quarantine", func(Finding) {}); err != nil || s.Node != 7 {
				t.Fatalf("%+v, %v", s, err)
			}
		}
		l = openTest(t, small)
		if err := want.check(drain(t, l)); err != nil {
			t.Fatal(err)
		}
		closeTest(t, l)
	}
}

func TestSalvageLeavesAWholeLogAlone(t *testing.T) {
	cfg := smallConfig(t)
	l := openTest(t, cfg)
	for i := range 100 {
		mustAppend(t, l, bigMessage(i, 10_000))
	}
	dir := crashCopy(t, cfg.Dir)
	closeTest(t, l)
	before := fileSums(t, dir)
	if _, err := trySalvage(t, dir, dir+".quarantine", func(f Finding) { t.Error(f) }); !errors.Is(err, ErrNothingToSalvage) {
		t.Fatal(err)
	}
	s, err := tryVerify(t, dir, func(f Finding) { t.Error(f) })
	if err != nil || s.Waiting != 100 || s.LastSeq != 100 || s.Node != 7 {
		t.Fatalf("%+v, %v", s, err)
	}
	if after := fileSums(t, dir); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Fatal("the log was changed")
	}
	if _, err := tryVerify(t, filepath.Join(dir, "nowhere"), func(Finding) {}); err == nil {
		t.Fatal("a log that is not there was verified")
	}
}

// TestSalvageToAnotherFileSystemIsUndone: the damaged log stays where it was.
func TestSalvageToAnotherFileSystemIsUndone(t *testing.T) {
	d := newLoopDisk(t, 32)
	cfg := smallConfig(t)
	l := openTest(t, cfg)
	mustAppend(t, l, testMessage(0))
	closeTest(t, l)
	removeAll(t, cfg.Dir, tideName)
	before := fileSums(t, cfg.Dir)
	if _, err := trySalvage(t, cfg.Dir, filepath.Join(d.at, "quarantine"), func(Finding) {}); err == nil || !strings.Contains(err.Error(), "file system") {
		t.Fatal(err)
	}
	if after := fileSums(t, cfg.Dir); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Fatal("the damaged log is not where it was")
	}
}

// TestALedgerOfALongHistoryIsSmall: numbers in the billions, a few of them open.
func TestALedgerOfALongHistoryIsSmall(t *testing.T) {
	const last = 40_000_000_005
	c, old := newCensus(), new(bitmap)
	c.add(7)
	for i := range uint64(chunkSeqs) {
		if i != 6 {
			old.set(i)
		}
	}
	c.add(last)
	chunk, bit := place(last)
	end := new(bitmap)
	for i := range bit {
		end.set(i)
	}
	start := time.Now()
	l, err := adopt(head{seq: last, done: last - 2}, map[uint64]*bitmap{0: old, chunk: end}, c)
	if err != nil {
		t.Fatal(err)
	}
	l.compare(c, func(seq uint64) { t.Errorf("%d is missing", seq) }, func(seq uint64) { t.Errorf("%d is risen", seq) })
	if l.isDone(7) || !l.isDone(8) || !l.isDone(9_000_000_000) || l.isDone(last) || l.lowest() != 7 || len(l.open) != 2 {
		t.Fatalf("%d chunks open, lowest %d", len(l.open), l.lowest())
	}
	t.Logf("%v", time.Since(start))
	if _, err := adopt(head{seq: last, done: last - 3}, map[uint64]*bitmap{0: old, chunk: end}, c); err == nil {
		t.Fatal("a wrong total is believed")
	}
	if n := l.issue(); n != last+1 || l.isDone(n) {
		t.Fatal(n)
	}
	if _, fresh := l.complete(last); !fresh || l.done != last-1 {
		t.Fatal(l.done)
	}
}

// TestARecordWhoseKeyHasATurnedBit is found by its sum, which is of its id, too.
func TestARecordWhoseKeyHasATurnedBit(t *testing.T) {
	id := message.NewID(1<<41, 5, 7, 1, 5)
	value := newRecord(message.Entry{ID: id, Seq: 9, Payload: []byte("hello")})
	parked := parkedKey(nil, 77, id)
	former := append([]byte{prefixFormer, 1}, id[:]...)
	for _, key := range [][]byte{messageKey(nil, id), former, parked} {
		turned := 0
		until := 8 * idSize
		if key[0] != prefixParked {
			until = 8 * (len(key) - 1) // all but its kind follows from the id
		}
		for bit := range until {
			hurt := bytes.Clone(key)
			hurt[len(key)-1-bit/8] ^= 1 << (bit % 8)
			turned++
			if got := mended(rawEntry{key: hurt, value: value}); !bytes.Equal(got.key, key) {
				t.Errorf("bit %d of %x: got %x", bit, key, got.key)
			}
		}
		if turned < 100 {
			t.Errorf("only %d bits of %x can turn", turned, key)
		}
		if got := mended(rawEntry{key: key, value: value}); !bytes.Equal(got.key, key) {
			t.Errorf("the key of a whole record became %x", got.key)
		}
		hurt := bytes.Clone(value)
		hurt[len(hurt)-1] ^= 1
		if got := mended(rawEntry{key: key, value: hurt}); !bytes.Equal(got.key, key) {
			t.Errorf("the key of a damaged record became %x", got.key)
		}
	}
}

// TestARecordThatWasHurtAtRestIsRescued: of a message at rest whose record is damaged
// there is still the one from before; it comes back with its progress, and one that is
// complete does not.
func TestARecordThatWasHurtAtRestIsRescued(t *testing.T) {
	cfg := smallConfig(t)
	l := openTest(t, cfg)
	for i := range 3 {
		mustAppend(t, l, testMessage(4*i)) // of one lane
	}
	taken := drain(t, l)
	resting, done := taken[0], taken[1]
	resting.Progress = []byte("tried twice")
	const shelf = 7
	if err := errors.Join(l.Shelve(t.Context(), shelf, []message.Entry{resting}), l.Complete(t.Context(), []message.Entry{done})); err != nil {
		t.Fatal(err)
	}
	hurt := newRecord(resting)
	hurt[len(hurt)-1] ^= 1
	err := l.db.Update(func(txn *badger.Txn) error { return txn.Set(parkedKey(nil, shelfBase+shelf, resting.ID), hurt) })
	if err != nil {
		t.Fatal(err)
	}
	dir := crashCopy(t, cfg.Dir)
	closeTest(t, l)
	cfg.Dir = dir
	var damaged *DamagedError
	if _, err := tryOpen(t, cfg); !errors.As(err, &damaged) {
		t.Fatal(err)
	}
	s, err := trySalvage(t, cfg.Dir, cfg.Dir+".quarantine", func(f Finding) {
		if f.Kind == FindMissing {
			t.Error(f)
		}
	})
	if err != nil || s.Lost != 0 || s.Waiting != 2 || s.Parked != 0 || s.Complete != 1 {
		t.Fatalf("%+v, %v", s, err)
	}
	l = openTest(t, cfg)
	back := drain(t, l)
	if len(back) != 2 || back[0].ID != resting.ID || !bytes.Equal(back[0].Payload, resting.Payload) || !bytes.Equal(back[0].Progress, resting.Progress) || back[1].ID != taken[2].ID {
		t.Errorf("%+v are handed out", back)
	}
	closeTest(t, l)
}
