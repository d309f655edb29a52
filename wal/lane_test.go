package wal

import (
	"testing"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

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
