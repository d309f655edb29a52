package embedded

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"forebay/sink"
	"forebay/wal/message"
)

// Insert implements sink.Store. A batch is one transaction and one sync, or a
// few of each if it has more than Badger takes at once (about 2 MiB).
func (s *Store) Insert(ctx context.Context, batch []message.Record) ([]sink.Result, error) {
	w, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer w.end()
	if err := s.writable(s.settings.Load().MinFreeBytes); err != nil {
		return nil, err
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	results := make([]sink.Result, len(batch))
	for i := range batch {
		if results[i], err = w.insert(ctx, batch[i], now); err != nil {
			return nil, fmt.Errorf("insert message %s: %w", batch[i].ID, err)
		}
	}
	if err := w.commit(ctx); err != nil {
		return nil, fmt.Errorf("commit insert: %w", err)
	}
	return results, nil
}

// insert puts one record into the transaction.
func (w *writer) insert(ctx context.Context, r message.Record, now time.Time) (sink.Result, error) {
	key := messageKey(r.ID)
	known, err := readRecord(w.txn, key)
	var damaged *DamagedError
	switch {
	case err == nil:
		return sink.Result{Outcome: sink.Known, State: known.State}, nil
	case errors.As(err, &damaged):
		w.store.log.Error("A damaged message is replaced by what the log still has of it.", "err", err)
	case !errors.Is(err, sink.ErrNotFound):
		return sink.Result{}, err
	}
	r.StoredAt = now
	outcome := sink.New
	holder, takes, err := w.claimant(&r)
	if err != nil {
		return sink.Result{}, err
	}
	switch {
	case !holder.IsZero():
		outcome, r.Status, r.DuplicateOf = sink.Duplicate, message.Duplicate, holder
	case r.Status == message.Accepted && r.Channel == message.ChannelStore:
		r.Status = message.Stored
	case r.Status == message.Accepted:
		r.Status = message.Queued
	}
	var heard [][]byte
	if outcome == sink.New {
		if r.State, heard, err = w.hearEarly(&r, r.State); err != nil {
			return sink.Result{}, err
		}
	}
	value := appendRecord(make([]byte, 0, sizeHint(&r)), key, &r)
	if len(value) > MaxRecordBytes {
		outcome = sink.SetAside
		setAside(&r, len(value))
		value = appendRecord(nil, key, &r)
	}
	takes = takes && outcome == sink.New
	return sink.Result{Outcome: outcome, State: r.State}, w.put(ctx, key, value, &r, takes, heard)
}

// claimant returns the message that the record's idempotency key belongs to;
// zero: to nobody else. takes says that the record may have it: it may not if it
// is older than a message that has it, and has come very late.
func (w *writer) claimant(r *message.Record) (holder message.ID, takes bool, err error) {
	if r.IdempotencyKey == "" {
		return holder, false, nil
	}
	holder, err = readClaim(w.txn, claimKey(r.Account, r.IdempotencyKey))
	var damaged *DamagedError
	switch {
	case errors.Is(err, sink.ErrNotFound):
		return message.ID{}, true, nil
	case errors.As(err, &damaged): // better a message twice than a batch that never gets through
		w.store.log.Error("A claim is damaged and does not count.", "err", err)
		return message.ID{}, true, nil
	case err != nil:
		return message.ID{}, false, err
	}
	apart := r.AcceptedAt().Sub(holder.Time())
	if holder == r.ID || apart.Abs() >= w.store.settings.Load().ClaimTTL {
		return message.ID{}, apart >= 0, nil
	}
	return holder, false, nil
}

// put writes all keys of a message. The reports that were heard go with it.
func (w *writer) put(ctx context.Context, key, value []byte, r *message.Record, takesKey bool, heard [][]byte) error {
	if err := w.room(ctx, 8+len(heard), len(value)+7*(idLen+16)+3*len(r.Account)+len(r.IdempotencyKey)); err != nil {
		return err
	}
	if err := w.set(key, value); err != nil {
		return err
	}
	if err := w.setSummaries(r, newSummary(r)); err != nil {
		return err
	}
	if r.Status != message.Stored { // nothing else is found by its state
		if err := w.replaceKeys(nil, stateKeys(r)); err != nil {
			return err
		}
	}
	if err := w.deleteAll(heard); err != nil {
		return err
	}
	if takesKey {
		key := claimKey(r.Account, r.IdempotencyKey)
		if err := w.set(key, appendClaim(key, r.ID)); err != nil {
			return err
		}
	}
	return w.mark(r.ID.Node(), r.Seq, true, r.Final())
}

// sizeHint is about how long the record's encoding will be.
func sizeHint(r *message.Record) int {
	return 192 + len(r.Body) + len(r.HTML) + len(r.Subject) + len(r.To) + len(r.ClientRef) + len(r.CallbackURL) + 64*len(r.Metadata)
}

// keptOfText is how much of each text is kept of a record that is set aside.
const keptOfText = 4 << 10

// setAside turns a record that is too large into a failed one of which only the
// beginning is kept. Configuration does not let such a message in; this is for
// one that came in before it was changed.
func setAside(r *message.Record, size int) {
	r.Status, r.FailedAt, r.DuplicateOf = message.Failed, r.StoredAt, message.ID{}
	r.Error = &message.Failure{Code: "store_refused", Category: "store",
		Message: fmt.Sprintf("the message has %d bytes, the store takes %d", size, MaxRecordBytes)}
	r.Attempts, r.Template, r.Metadata = nil, nil, nil
	for _, text := range []*string{&r.To, &r.Subject, &r.Body, &r.HTML, &r.ClientRef, &r.CallbackURL} {
		if len(*text) > keptOfText {
			*text = strings.ToValidUTF8((*text)[:keptOfText], "")
		}
	}
}
