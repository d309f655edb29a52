package wal

import (
	"bytes"
	"errors"
	"testing"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// downgrade makes of an open log what format 1 would have written, leaving out the
// first few records, and closes it.
func downgrade(t *testing.T, l *Log, but int) {
	t.Helper()
	var keys [][]byte
	err := l.db.Update(func(txn *badger.Txn) error {
		return errors.Join(each(txn, []byte{prefixMessage}, nil, func(item *badger.Item, v []byte) error {
			if but--; but >= 0 {
				return nil
			}
			id, err := recordID(item.Key())
			if err != nil {
				return err
			}
			keys = append(keys, item.KeyCopy(nil))
			former := append([]byte{prefixFormer, byte(id.Lane())}, id[:]...)
			return txn.Set(former, bytes.Clone(v))
		}), func() (err error) {
			for _, key := range keys {
				err = errors.Join(err, txn.Delete(key))
			}
			value := append(make([]byte, sealSize), 1)
			seal(value, keyFormat)
			return errors.Join(err, txn.Set(keyFormat, value))
		}())
	})
	if err != nil {
		t.Fatal(err)
	}
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

// TestLaneIteratorPassesOverOtherLanes through spans that lack the lane.
func TestLaneIteratorPassesOverOtherLanes(t *testing.T) {
	t.Parallel()
	cfg := smallConfig(t)
	l := openTest(t, cfg)
	var want []message.ID
	err := l.db.Update(func(txn *badger.Txn) error {
		for span := range uint64(40) {
			for lane := range message.Priority(message.Lanes) {
				if span%(uint64(lane)+1) != 0 {
					continue
				}
				for n := range uint16(3) {
					id := message.NewID(1<<41+span<<spanBits, n, 7, lane, uint64(n))
					if lane == 2 {
						want = append(want, id)
					}
					if err := txn.Set(messageKey(nil, id), nil); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = l.db.View(func(txn *badger.Txn) error {
		for from := range want {
			it := newLaneIterator(txn, 2)
			at := from
			for it.seek(want[from]); it.Valid(); it.next() {
				if id, err := recordID(it.Item().Key()); err != nil || at == len(want) || id != want[at] {
					t.Fatalf("from %d: message %d is %s, %v", from, at, id, err)
				}
				at++
			}
			it.Close()
			if at != len(want) {
				t.Fatalf("from %d: %d messages are passed over", from, len(want)-at)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = l.db.Update(func(txn *badger.Txn) error { // they are in no ledger
		return each(txn, []byte{prefixMessage}, nil, func(item *badger.Item, _ []byte) error { return txn.Delete(item.KeyCopy(nil)) })
	})
	if err != nil {
		t.Fatal(err)
	}
	closeTest(t, l)
}
