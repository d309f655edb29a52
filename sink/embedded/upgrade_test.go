package embedded

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/google/go-cmp/cmp"

	"forebay/sink"
	"forebay/wal/message"
)

// downgrade makes the tree what version 1 wrote: without what is found by state.
func (w *world) downgrade() {
	w.t.Helper()
	var newer [][]byte
	err := w.db.View(func(txn *badger.Txn) error {
		return scan(context.Background(), txn, nil, nil, func(item *badger.Item) error {
			if bytes.IndexByte([]byte{prefixStatus, prefixAccountStatus, prefixProvider, prefixSent, prefixEarly, prefixUsage}, item.Key()[0]) >= 0 {
				newer = append(newer, item.KeyCopy(nil))
			}
			return nil
		})
	})
	if err != nil {
		w.t.Fatalf("find the newer keys: %v", err)
	}
	w.edit(func(txn *badger.Txn) error {
		for _, k := range newer {
			if err := txn.Delete(k); err != nil {
				return err
			}
		}
		return txn.Set(formatKey, []byte{1})
	})
}

// TestUpgrade opens a store of version 1 with messages in it: all are as they
// were, and what version 2 looks for is found, also after a crash in between.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	day := w.accepted.UTC().Truncate(24 * time.Hour)
	var batch []message.Record
	for i := range 50 {
		m := message.Message{Account: []string{"one", "two"}[i%2], Body: "kept", ClientRef: "r", Test: i%10 == 9}
		if i == 7 {
			m.IdempotencyKey = "k"
		}
		r := w.accept(m)
		if i%5 == 0 { // what version 1 had set aside
			r.State = message.State{Status: message.Failed, FailedAt: day, Error: &message.Failure{Code: "store_refused", Category: "store"}}
		}
		batch = append(batch, r)
	}
	w.insert(batch...)
	w.downgrade()
	if n := w.keys(); n[prefixStatus] != 0 || n[prefixMessage] != len(batch) {
		t.Fatalf("keys of version 1: %v", n)
	}
	half := func() { // as a crash before its end leaves an upgrade
		w.edit(func(txn *badger.Txn) error { return txn.Set(formatKey, []byte{1}) })
	}
	for _, before := range []func(){func() {}, half, func() {}} {
		before()
		w.reopen()
		checkUpgraded(t, w, batch, day)
	}
	version := []byte{}
	w.edit(func(txn *badger.Txn) error {
		item, err := txn.Get(formatKey)
		if err == nil {
			version, err = item.ValueCopy(nil)
		}
		return err
	})
	if !bytes.Equal(version, []byte{formatVersion}) {
		t.Errorf("version % x, want %d", version, formatVersion)
	}
	w.insert(w.accept(message.Message{Account: "one"}))
	if late := w.accept(message.Message{Account: "two", IdempotencyKey: "k"}); w.insert(late)[0].Status != message.Duplicate {
		t.Error("a claim of version 1 does not hold")
	}
}

func checkUpgraded(t *testing.T, w *world, batch []message.Record, day time.Time) {
	t.Helper()
	ctx := context.Background()
	if tally := w.count(); tally != (sink.Tally{Stored: uint64(len(batch)), Final: uint64(len(batch))}) || len(w.missing()) > 0 {
		t.Errorf("tally %+v, missing %v", tally, w.missing())
	}
	counted := map[message.Status]uint64{}
	for i := range batch {
		got, err := w.Get(ctx, batch[i].Account, batch[i].ID)
		if err != nil {
			t.Fatalf("get: %v", err)
		}
		if diff := cmp.Diff(batch[i], got); diff != "" {
			t.Errorf("message %d (-want +got):\n%s", i, diff)
		}
		if !got.Test {
			counted[got.Status]++
		}
	}
	for account, want := range map[string]int{"": 10, "one": 5, "two": 5, "nobody": 0} {
		page, err := w.List(ctx, message.Query{Account: account, Status: message.Failed, Limit: 100})
		if err != nil || len(page.Records) != want {
			t.Errorf("the failed of %q: %d, error %v, want %d", account, len(page.Records), err, want)
		}
	}
	got := map[message.Status]uint64{}
	for _, account := range []string{"one", "two"} {
		counts, err := w.Usage(ctx, message.UsageQuery{Account: account, From: day, To: day.Add(48 * time.Hour)})
		if err != nil {
			t.Fatalf("usage: %v", err)
		}
		for _, c := range counts {
			got[c.Status] += c.Count
		}
	}
	if diff := cmp.Diff(counted, got); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
}
