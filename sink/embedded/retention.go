package embedded

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/dgraph-io/badger/v4"

	"forebay/sink"
	"forebay/wal/message"
)

// retainSlice and retainBytes bound what is deleted in one transaction, so that
// an insert hardly notices that it waits for it.
const (
	retainSlice = 500
	retainBytes = 4 << 20
)

// retain deletes all messages that are too old, in slices between which others
// have their turn. Badger gives the space back as it compacts.
func (s *Store) retain(ctx context.Context) error {
	if s.settings.Load().Retention == forEver {
		return nil
	}
	below := firstOf(s.now().Add(-s.settings.Load().Retention))
	var from message.ID // so that a slice does not pass the tombstones of the one before
	for {
		start := time.Now()
		next, done, err := s.retainOnce(ctx, from, below)
		if err != nil || done {
			return err
		}
		from = next
		pause := time.NewTimer(time.Since(start)) // half of the time is for others
		select {
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		case <-pause.C:
		}
	}
}

// retainOnce deletes one slice of the messages with from ≤ id < below, and
// returns where the next one begins.
func (s *Store) retainOnce(ctx context.Context, from, below message.ID) (next message.ID, done bool, err error) {
	w, err := s.begin(ctx)
	if err != nil {
		return next, false, err
	}
	defer w.end()
	// Deleting writes a little and in the end frees much, so it goes on when
	// inserts no longer may.
	if err := s.writable(s.settings.Load().MinFreeBytes / 2); err != nil {
		return next, false, err
	}
	old, damaged, done := w.oldest(from, below)
	if damaged != nil {
		s.log.Error("Messages are past their time and cannot be read. They stay; an operator must look at them.", "err", damaged)
	}
	for i := range old {
		if err := w.remove(ctx, &old[i]); err != nil {
			return next, false, err
		}
		next = old[i].ID
	}
	if len(old) > 0 {
		if err := w.commit(ctx); err != nil {
			return next, false, err
		}
		s.metrics.deleted.Add(float64(len(old)))
	}
	return next, done, nil
}

// oldest returns up to a slice of messages, what is wrong with those it could
// not read, and whether there are no more.
func (w *writer) oldest(from, below message.ID) (old []message.Record, damaged error, done bool) {
	opts := badger.DefaultIteratorOptions
	opts.Prefix, opts.PrefetchValues = []byte{prefixMessage}, false
	it := w.txn.NewIterator(opts)
	defer it.Close()
	size := 0
	for it.Seek(messageKey(from)); it.Valid(); it.Next() {
		key := it.Item().Key()
		if id := keyID(key); bytes.Compare(id[:], below[:]) >= 0 {
			break
		}
		if len(old) == retainSlice || size > retainBytes {
			return old, damaged, false
		}
		size += int(it.Item().ValueSize())
		err := it.Item().Value(func(v []byte) error {
			r, err := decodeRecord(key, v)
			if err == nil {
				old = append(old, r)
			}
			return err
		})
		if err != nil {
			damaged = errors.Join(damaged, err)
		}
	}
	return old, damaged, true
}

// remove deletes all keys of a message.
func (w *writer) remove(ctx context.Context, r *message.Record) error {
	if err := w.room(ctx, 8, 8*(idLen+32)+3*len(r.Account)+len(r.IdempotencyKey)); err != nil {
		return err
	}
	keys := [][]byte{messageKey(r.ID), accountKey(r.Account, r.ID)}
	if r.ClientRef != "" {
		keys = append(keys, refKey(r.Account, r.ClientRef, r.ID))
	}
	if r.IdempotencyKey != "" {
		key := claimKey(r.Account, r.IdempotencyKey)
		holder, err := readClaim(w.txn, key)
		if err != nil && !errors.Is(err, sink.ErrNotFound) {
			return err
		}
		if holder == r.ID {
			keys = append(keys, key)
		}
	}
	for _, k := range stateKeys(r) {
		keys = append(keys, k.key)
	}
	if err := w.deleteAll(keys); err != nil {
		return err
	}
	if err := w.countDeleted(r); err != nil {
		return err
	}
	return w.mark(r.ID.Node(), r.Seq, false, false)
}
