package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/fnv"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// The prefixes of the keys that follow a message's state.
const (
	prefixStatus        = 'f' // status id → summary
	prefixAccountStatus = 'g' // account status id → summary
	prefixProvider      = 'p' // channel hash(provider id) id
	prefixSent          = 'w' // time of sending, id: a report may still come
)

// looked reports whether messages of a status are kept in an index by it: those
// that did not end well, which are few and looked for.
func looked(s message.Status) bool {
	switch s {
	case message.Failed, message.Undelivered, message.Rejected, message.Expired, message.Canceled:
		return true
	}
	return false
}

func statusPrefix(s message.Status) []byte { return []byte{prefixStatus, byte(s)} }

func accountStatusPrefix(account string, s message.Status, room int) []byte {
	return append(accountPrefix(prefixAccountStatus, account, 1+room), byte(s))
}

func providerPrefix(c message.Channel, provider string) []byte {
	h := fnv.New64a()
	h.Write([]byte(provider))
	return h.Sum([]byte{prefixProvider, byte(c)})
}

func sentPrefix(t time.Time) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefixSent}, uint64(max(0, t.UnixMilli())))
}

// stateKey is a key by which a message can be found because of its state.
type stateKey struct{ key, value []byte }

// stateKeys are those of a message.
func stateKeys(r *message.Record) (keys []stateKey) {
	if looked(r.Status) {
		brief := newSummary(r)
		keys = append(keys, stateKey{append(statusPrefix(r.Status), r.ID[:]...), brief[:]},
			stateKey{append(accountStatusPrefix(r.Account, r.Status, idLen), r.ID[:]...), brief[:]})
	}
	if r.ProviderID != "" {
		keys = append(keys, stateKey{key: append(providerPrefix(r.Channel, r.ProviderID), r.ID[:]...)})
	}
	if r.Awaited() {
		keys = append(keys, stateKey{key: append(sentPrefix(r.SentAt), r.ID[:]...)})
	}
	return keys
}

// among reports whether the key is one of those, with the same value.
func (k *stateKey) among(keys []stateKey) bool {
	return slices.ContainsFunc(keys, func(o stateKey) bool { return bytes.Equal(k.key, o.key) && bytes.Equal(k.value, o.value) })
}

// setState writes the record with another state: its value, its summaries and
// what of its keys has changed. The reports that were heard go with it.
func (w *writer) setState(ctx context.Context, r *message.Record, state message.State, heard [][]byte) error {
	before := stateKeys(r)
	old := newSummary(r)
	r.State = state
	after := stateKeys(r)
	key := messageKey(r.ID)
	value := appendRecord(make([]byte, 0, sizeHint(r)), key, r)
	if len(value) > MaxRecordBytes { // attempts without end: the first tell nothing new
		r.Attempts = r.Attempts[len(r.Attempts)-min(len(r.Attempts), keptAttempts):]
		value = appendRecord(nil, key, r)
	}
	if err := w.room(ctx, 3+len(before)+len(after)+len(heard), len(value)+8*(idLen+16)+5*len(r.Account)); err != nil {
		return err
	}
	if err := w.set(key, value); err != nil {
		return err
	}
	if brief := newSummary(r); brief != old {
		if err := w.setSummaries(r, brief); err != nil {
			return err
		}
	}
	if err := w.deleteAll(heard); err != nil {
		return err
	}
	if err := w.replaceKeys(before, after); err != nil {
		return err
	}
	return w.mark(r.ID.Node(), r.Seq, true, r.Final())
}

// keptAttempts is how many attempts are kept of a record that they make too long.
const keptAttempts = 20

func (w *writer) setSummaries(r *message.Record, brief summary) error {
	if err := w.set(accountKey(r.Account, r.ID), brief[:]); err != nil {
		return err
	}
	if r.ClientRef == "" {
		return nil
	}
	return w.set(refKey(r.Account, r.ClientRef, r.ID), brief[:])
}

// replaceKeys writes what is new in after, and deletes what is only in before.
func (w *writer) replaceKeys(before, after []stateKey) error {
	for i := range before {
		same := func(k stateKey) bool { return bytes.Equal(k.key, before[i].key) }
		if slices.ContainsFunc(after, same) {
			continue
		}
		if err := w.delete(before[i].key); err != nil {
			return err
		}
	}
	for i := range after {
		if after[i].among(before) {
			continue
		}
		if err := w.set(after[i].key, after[i].value); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) deleteAll(keys [][]byte) error {
	for _, k := range keys {
		if err := w.delete(k); err != nil {
			return err
		}
	}
	return nil
}

// upgrade makes the indexes that version 1 did not have. Repeating what a crash
// has left half done is harmless.
func upgrade(db *badger.DB) error {
	batch := db.NewWriteBatch()
	defer batch.Cancel()
	err := db.View(func(txn *badger.Txn) error {
		return scan(context.Background(), txn, []byte{prefixAccount}, []byte{prefixAccount}, func(item *badger.Item) error {
			key := item.KeyCopy(nil)
			brief, err := item.ValueCopy(nil)
			if err != nil || len(brief) != len(summary{}) || !looked(message.Status(brief[0])) {
				return err
			}
			byStatus := append(statusPrefix(message.Status(brief[0])), key[len(key)-idLen:]...)
			byAccount := append(bytes.Clone(key[:len(key)-idLen]), brief[0])
			byAccount[0] = prefixAccountStatus
			byAccount = append(byAccount, key[len(key)-idLen:]...)
			if err := batch.Set(byStatus, brief); err != nil {
				return err
			}
			return batch.Set(byAccount, brief)
		})
	})
	if err != nil {
		return err
	}
	if err := batch.Flush(); err != nil {
		return err
	}
	return db.Update(func(txn *badger.Txn) error { return txn.Set(formatKey, []byte{formatVersion}) })
}
