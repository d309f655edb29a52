package wal

import (
	"bytes"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// downgrade makes of an open log what format 1 would have written, leaving out the
// first few records, and closes it.
func downgrade(t *testing.T, l *Log, but int) {
	t.Helper()
	putFormerKeys(t, l, but)
	dir := l.cfg.Dir
	closeTest(t, l)
	mark, err := readTide(dir)
	if err != nil {
		t.Fatal(err)
	}
	mark.Format = 1
	if err := writeTide(dir, mark); err != nil {
		t.Fatal(err)
	}
}

// putFormerKeys moves all records of an open log but the first few to the keys of
// format 1.
func putFormerKeys(t *testing.T, l *Log, but int) {
	t.Helper()
	batch := l.db.NewWriteBatch()
	defer batch.Cancel()
	err := l.db.View(func(txn *badger.Txn) error {
		return each(txn, []byte{prefixMessage}, nil, func(item *badger.Item, v []byte) error {
			if but--; but >= 0 {
				return nil
			}
			id, err := recordID(item.Key())
			if err != nil {
				return err
			}
			former := append([]byte{prefixFormer, byte(id.Lane())}, id[:]...)
			return errors.Join(batch.Set(former, bytes.Clone(v)), batch.Delete(item.KeyCopy(nil)))
		})
	})
	value := append(make([]byte, sealSize), 1)
	seal(value, keyFormat)
	if err := errors.Join(err, batch.Set(keyFormat, value), batch.Flush()); err != nil {
		t.Fatal(err)
	}
}

// TestALogOfFormat1IsBroughtUpToDate with all that is in it: what waits, in its
// order, what is at rest and what is complete; also one that was left half done.
func TestALogOfFormat1IsBroughtUpToDate(t *testing.T) {
	t.Parallel()
	for name, but := range map[string]int{"whole": 0, "half done": 150} {
		t.Run(name, func(t *testing.T) {
			cfg := smallConfig(t)
			l := openTest(t, cfg)
			for i := range 300 {
				mustAppend(t, l, testMessage(i))
			}
			taken, err := l.Next(t.Context(), 60, 0)
			if err != nil {
				t.Fatal(err)
			}
			const shelf = 3
			if err := errors.Join(l.Complete(t.Context(), taken[:40]), l.Shelve(t.Context(), shelf, taken[40:])); err != nil {
				t.Fatal(err)
			}
			closeTest(t, l)
			l = openTest(t, cfg)
			want := drain(t, l)
			closeTest(t, l)
			l = openTest(t, cfg)
			downgrade(t, l, but)

			s, err := tryVerify(t, cfg.Dir, func(Finding) {})
			if err != nil || s.Findings != 0 || s.Waiting != 260 || s.Parked != 20 || s.Complete != 40 {
				t.Fatalf("verify says %+v, %v", s, err)
			}
			l = openTest(t, cfg)
			got := drain(t, l)
			if len(got) != len(want) || len(want) != 240 {
				t.Fatalf("%d messages are handed out, %d were", len(got), len(want))
			}
			for i := range got {
				if got[i].ID != want[i].ID || got[i].Seq != want[i].Seq || !bytes.Equal(got[i].Payload, want[i].Payload) {
					t.Fatalf("message %d is %s, it was %s", i, got[i].ID, want[i].ID)
				}
			}
			if n, _, err := l.Fetch(t.Context(), shelf, 100); err != nil || n != 20 {
				t.Fatalf("%d come back from the shelf, %v", n, err)
			}
			closeTest(t, l)
			mark, err := readTide(cfg.Dir)
			if err != nil || mark.Format != formatVersion {
				t.Fatalf("the tide mark has format %d, %v", mark.Format, err)
			}
		})
	}
}

// TestADamagedLogOfFormat1IsSalvaged: salvage reads the keys of both formats.
func TestADamagedLogOfFormat1IsSalvaged(t *testing.T) {
	t.Parallel()
	cfg := smallConfig(t)
	l := openTest(t, cfg)
	for i := range 100 {
		mustAppend(t, l, testMessage(i))
	}
	all := drain(t, l)
	victim := all[17]
	hurt := newRecord(victim)
	hurt[len(hurt)-1] ^= 1
	if err := l.db.Update(func(txn *badger.Txn) error { return txn.Set(messageKey(nil, victim.ID), hurt) }); err != nil {
		t.Fatal(err)
	}
	downgrade(t, l, 50)
	var damaged *DamagedError
	if _, err := tryOpen(t, cfg); !errors.As(err, &damaged) {
		t.Fatal(err)
	}
	s, err := trySalvage(t, cfg.Dir, cfg.Dir+".quarantine", func(Finding) {})
	if err != nil || s.Waiting != 100 || s.Lost != 0 {
		t.Fatalf("%+v, %v", s, err) // an older version of the victim is whole
	}
	l = openTest(t, cfg)
	if got := drain(t, l); len(got) != 100 {
		t.Fatalf("%d messages are handed out", len(got))
	}
	closeTest(t, l)
}

// TestAKeyThatIsNoneDoesNotStopTheUpgrade: what is strange in a log of format 1 is
// named, and can be set aside.
func TestAKeyThatIsNoneDoesNotStopTheUpgrade(t *testing.T) {
	t.Parallel()
	cfg := smallConfig(t)
	l := openTest(t, cfg)
	for i := range 100 {
		mustAppend(t, l, testMessage(i))
	}
	if err := l.db.Update(func(txn *badger.Txn) error { return txn.Set([]byte("m strange"), nil) }); err != nil {
		t.Fatal(err)
	}
	downgrade(t, l, 0)
	foreign := 0
	s, err := tryVerify(t, cfg.Dir, func(f Finding) {
		if f.Kind == FindForeign {
			foreign++
		}
	})
	if err != nil || s.Grave != 1 || foreign != 1 {
		t.Errorf("verify says %+v, %v; %d foreign keys", s, err, foreign)
	}
	var damaged *DamagedError
	if _, err := tryOpen(t, cfg); !errors.As(err, &damaged) || damaged.Total != 1 {
		t.Errorf("got %v, want one finding", err)
	}
	s, err = trySalvage(t, cfg.Dir, cfg.Dir+".quarantine", func(Finding) {})
	if err != nil || s.Waiting != 100 || s.Lost != 0 {
		t.Fatalf("salvage says %+v, %v", s, err)
	}
	l = openTest(t, cfg)
	if got := drain(t, l); len(got) != 100 {
		t.Fatalf("%d messages are handed out", len(got))
	}
	closeTest(t, l)
}

// TestABackupOfFormat1IsRestored, also behind what was issued since.
func TestABackupOfFormat1IsRestored(t *testing.T) {
	t.Parallel()
	cfg := smallConfig(t)
	l := openTest(t, cfg)
	for i := range 100 {
		mustAppend(t, l, testMessage(i))
	}
	want := held{}
	for _, e := range drain(t, l) {
		want[e.ID] = e.Payload
	}
	putFormerKeys(t, l, 0)
	var backup bytes.Buffer
	if err := l.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	downgrade(t, l, 0)
	for name, since := range map[string]Issued{"nothing since": {}, "more since": {Seq: 250}} {
		to := smallConfig(t)
		s, err := tryRestore(t, backup.Bytes(), to.Dir, since)
		if err != nil || s.Waiting != 100 || s.LastSeq != max(100, since.Seq) {
			t.Fatalf("%s: %+v, %v", name, s, err)
		}
		l := openTest(t, to)
		if err := want.check(drain(t, l)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		closeTest(t, l)
	}
}

// TestAKillAmidTheUpgradeLosesNothing, between any two of its commits, any number of
// times; the next start goes on where that one was.
func TestAKillAmidTheUpgradeLosesNothing(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const messages = 2000
	cfg := smallConfig(t)
	l := openTest(t, cfg)
	appendMany(t, l, messages, testMessage)
	want := held{}
	for _, e := range drain(t, l) {
		want[e.ID] = e.Payload
	}
	downgrade(t, l, 0)
	errKilled := errors.New("killed")
	kills, amid := 0, 0
	for {
		var left atomic.Int64 // commits
		left.Store(rnd.Int64N(12))
		killed, copied := cfg, ""
		killed.commit = func(txn *badger.Txn) error {
			if left.Add(-1) < 0 {
				copied = crashCopy(t, cfg.Dir)
				return errKilled
			}
			return txn.Commit()
		}
		l, err := tryOpen(t, killed)
		if err == nil {
			left.Store(math.MaxInt64)
			closeTest(t, l)
			break
		}
		if !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		cfg.Dir, kills = copied, kills+1
		if former, today := countKeys(t, cfg.Dir); former > 0 && today > 0 {
			amid++
		}
		if s, err := tryVerify(t, cfg.Dir, func(f Finding) { t.Error(f) }); err != nil || s.Waiting != messages {
			t.Fatalf("after kill %d verify says %+v, %v", kills, s, err)
		}
	}
	if amid == 0 {
		t.Fatal("no kill left messages under both kinds of keys: nothing is proved")
	}
	l = openTest(t, cfg)
	if err := want.check(drain(t, l)); err != nil {
		t.Error(err)
	}
	closeTest(t, l)
	t.Logf("%d kills, %d of them with messages under both kinds of keys", kills, amid)
}

// appendMany appends n messages, a hundred at a time.
func appendMany(t *testing.T, l *Log, n int, of func(i int) *message.Message) {
	t.Helper()
	var ms []*message.Message
	var out [100]Receipt
	for i := range n {
		if ms = append(ms, of(i)); len(ms) < len(out) && i < n-1 {
			continue
		}
		if err := l.AppendBatch(t.Context(), ms, out[:len(ms)]); err != nil {
			t.Fatal(err)
		}
		ms = nil
	}
}

// countKeys counts the messages of a closed log by the format of their keys.
func countKeys(t *testing.T, dir string) (former, today int) {
	t.Helper()
	to := crashCopy(t, dir)
	db, err := openBadger(to, readerOptions(dbDir(to), 1<<20, newWatch(slog.New(slog.DiscardHandler))))
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(txn *badger.Txn) error {
		count := func(n *int) func(*badger.Item, []byte) error {
			return func(*badger.Item, []byte) error { *n++; return nil }
		}
		return errors.Join(each(txn, []byte{prefixFormer}, nil, count(&former)), each(txn, []byte{prefixMessage}, nil, count(&today)))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return former, today
}

// TestAnUpgradeThatFindsNoRoomChangesNothing: the version that wrote the log may have
// it back, until it has begun; then it needs room only for what is not moved yet.
func TestAnUpgradeThatFindsNoRoomChangesNothing(t *testing.T) {
	t.Parallel()
	d := newLoopDisk(t, 128)
	cfg := Config{Dir: filepath.Join(d.at, "wal"), Node: 7, MemTable: 1 << 20, MinFreeBytes: 1, BallastBytes: -1}
	l := openTest(t, cfg)
	const messages, size = 1000, 20_000
	appendMany(t, l, messages, func(i int) *message.Message { return bigMessage(i, size) })
	downgrade(t, l, 0)
	// Far too little: a compaction may free what the downgrade has left dead.
	free := hog(t, d.at, reserve(cfg.MemTable)+messages*size/10)
	if l, err := tryOpen(t, cfg); err == nil || !strings.Contains(err.Error(), "let the version that wrote it drain it first") {
		if err == nil {
			closeTest(t, l)
		}
		t.Fatalf("with a tenth of the room: %v", err)
	}
	if mark, err := readTide(cfg.Dir); err != nil || mark.Format != 1 {
		t.Errorf("the tide mark has format %d, %v: the version that wrote the log would refuse it", mark.Format, err)
	}
	if former, today := countKeys(t, cfg.Dir); former != messages || today != 0 {
		t.Errorf("%d messages have their keys, and %d new ones", former, today)
	}
	free()
	l = openTest(t, cfg)
	downgrade(t, l, messages*3/4)
	used, err := usedBytes(cfg.Dir)
	if err != nil || used < messages*size {
		t.Fatalf("%d MiB are used, %v", used>>20, err)
	}
	free = hog(t, d.at, reserve(cfg.MemTable)+messages*size/2)
	l = openTest(t, cfg)
	if got := drain(t, l); len(got) != messages {
		t.Errorf("%d messages are handed out", len(got))
	}
	free()
	closeTest(t, l)
}
