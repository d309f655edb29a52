package embedded

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"forebay/sink"
	"forebay/wal/message"
)

// change does work that writes, in a turn of its own, and commits it.
func (s *Store) change(ctx context.Context, name string, work func(*writer) error) error {
	defer s.observe(name, time.Now())
	w, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer w.end()
	if err := s.writable(s.cfg.MinFreeBytes / 2); err != nil { // it grows little, and lets the log shrink
		return err
	}
	w.before = w.db.NewTransaction(false)
	defer w.before.Discard()
	if err := work(w); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := w.commit(ctx); err != nil {
		return fmt.Errorf("commit %s: %w", name, err)
	}
	return nil
}

// legible makes of a message that is damaged one that is not there, and says so: it
// must not fail what is done to others with it. If the log still has the message, it
// is inserted anew.
func (s *Store) legible(err error) error {
	if s.damaged(err) {
		return sink.ErrNotFound
	}
	return err
}

// damaged reports whether what was read is damaged, and says so if it is.
func (s *Store) damaged(err error) bool {
	if !errors.As(err, new(*DamagedError)) {
		return false
	}
	s.log.Error("A damaged message is passed over.", "err", err)
	return true
}

// Update implements sink.Store.
func (s *Store) Update(ctx context.Context, batch []message.Record) ([]message.State, error) {
	becomes := make(map[message.ID]message.State, len(batch))
	err := s.change(ctx, "update", func(w *writer) error {
		for i := range batch {
			r, err := readRecord(w.txn, messageKey(batch[i].ID))
			if err = s.legible(err); errors.Is(err, sink.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			merged := r.Merge(batch[i].State)
			merged, heard, err := w.hearEarly(&r, merged)
			if err != nil {
				return err
			}
			if !merged.Same(&r.State) || len(heard) > 0 {
				if err := w.setState(ctx, &r, merged, heard); err != nil {
					return err
				}
			}
			becomes[r.ID] = r.State
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	states := make([]message.State, len(batch))
	for i := range batch {
		states[i] = becomes[batch[i].ID]
	}
	return states, nil
}

// Report implements sink.Store. Whoever writes has its turn, so a report and the
// record of its sending cannot miss each other.
func (s *Store) Report(ctx context.Context, reports []message.Report) (changed []message.Record, err error) {
	at := make(map[message.ID]int) // index into changed
	err = s.change(ctx, "report", func(w *writer) error {
		for i := range reports {
			if !reports[i].Valid() {
				continue
			}
			r, err := w.reported(&reports[i])
			if errors.Is(err, sink.ErrNotFound) {
				err = w.keepReport(ctx, &reports[i])
				if err != nil {
					return err
				}
				continue
			}
			if err != nil {
				return err
			}
			merged := r.Merge(reports[i].State())
			if merged.Same(&r.State) {
				continue
			}
			if err := w.setState(ctx, &r, merged, nil); err != nil {
				return err
			}
			if k, known := at[r.ID]; known {
				changed[k] = r
			} else {
				at[r.ID] = len(changed)
				changed = append(changed, r)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return changed, nil
}

// reported reads the message that a report is of; sink.ErrNotFound. Our own id
// counts for more than the provider's, but neither outside its channel.
func (w *writer) reported(report *message.Report) (r message.Record, err error) {
	if !report.ID.IsZero() {
		r, err = readRecord(w.txn, messageKey(report.ID))
		err = w.store.legible(err)
		if err == nil && r.Channel == report.Channel || err != nil && !errors.Is(err, sink.ErrNotFound) {
			return r, err
		}
	}
	if report.ProviderID == "" {
		return message.Record{}, sink.ErrNotFound
	}
	prefix := providerPrefix(report.Channel, report.ProviderID)
	err = scan(context.Background(), w.before, prefix, prefix, func(item *badger.Item) error {
		found, err := readRecord(w.txn, messageKey(keyID(item.Key())))
		if err = w.store.legible(err); errors.Is(err, sink.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if found.Channel == report.Channel && found.ProviderID == report.ProviderID {
			r = found
			return errEnough
		}
		return nil
	})
	switch {
	case errors.Is(err, errEnough):
		return r, nil
	case err != nil:
		return message.Record{}, err
	}
	return message.Record{}, sink.ErrNotFound
}

// Reports of messages that are not known yet:
//
//	e 0 id hash                        → report, if it names our id
//	e 1 channel hash(provider id) hash → report, if not
//	report: CRC-32C (4, of the key and what follows) · received (8, Unix ms) · channel (1) · state
//
// The last hash is of the state, so that a repeat is kept once.
const prefixEarly = 'e'

const earlyHead = 4 + 8 + 1

func earlyByID(id message.ID) []byte { return append([]byte{prefixEarly, 0}, id[:]...) }

func earlyByProvider(c message.Channel, provider string) []byte {
	return append([]byte{prefixEarly, 1}, providerPrefix(c, provider)[1:]...)
}

// keepReport keeps a report until its message is known.
func (w *writer) keepReport(ctx context.Context, r *message.Report) error {
	key := earlyByProvider(r.Channel, r.ProviderID)
	if !r.ID.IsZero() {
		key = earlyByID(r.ID)
	}
	state := r.State()
	encoded := state.Append(nil)
	h := fnv.New64a()
	h.Write(encoded)
	key = h.Sum(key)
	value := binary.BigEndian.AppendUint64(make([]byte, 4, earlyHead+len(encoded)), uint64(w.store.now().UnixMilli()))
	value = append(append(value, byte(r.Channel)), encoded...)
	binary.BigEndian.PutUint32(value, sum(key, value[4:]))
	if err := w.room(ctx, 1, len(key)+len(value)); err != nil {
		return err
	}
	w.store.early.Store(true)
	return w.set(key, value)
}

// earlyReport is a report that was kept.
type earlyReport struct {
	key      []byte
	received time.Time
	channel  message.Channel
	state    message.State
}

func decodeEarly(key, value []byte) (e earlyReport, err error) {
	if len(value) < earlyHead || binary.BigEndian.Uint32(value) != sum(key, value[4:]) {
		return e, &DamagedError{fmt.Sprintf("report % x", key), errSum}
	}
	e.key, e.received = bytes.Clone(key), time.UnixMilli(int64(binary.BigEndian.Uint64(value[4:])))
	e.channel = message.Channel(value[12])
	e.state, err = message.DecodeState(value[earlyHead:])
	return e, err
}

// at is the time that the report speaks of.
func (e *earlyReport) at() time.Time {
	for _, t := range []time.Time{e.state.SentAt, e.state.DeliveredAt, e.state.ReadAt, e.state.FailedAt} {
		if !t.IsZero() {
			return t
		}
	}
	return time.Time{}
}

// hearEarly merges the reports that were kept for a message into state, and
// returns their keys, to be deleted with what is written of it. It costs nothing
// while there are none of anybody.
func (w *writer) hearEarly(r *message.Record, state message.State) (_ message.State, heard [][]byte, err error) {
	if !w.store.early.Load() || len(state.Attempts) == 0 && state.ProviderID == "" {
		return state, nil, nil
	}
	var kept []earlyReport
	prefixes := [][]byte{earlyByID(r.ID)}
	if state.ProviderID != "" {
		prefixes = append(prefixes, earlyByProvider(r.Channel, state.ProviderID))
	}
	txn := w.before
	if txn == nil {
		txn = w.txn
	}
	for _, prefix := range prefixes {
		err := scan(context.Background(), txn, prefix, prefix, func(item *badger.Item) error {
			return item.Value(func(v []byte) error {
				e, err := decodeEarly(item.Key(), v)
				var damaged *DamagedError
				if errors.As(err, &damaged) {
					w.store.log.Error("A report is damaged and does not count.", "err", err)
					return nil
				}
				if err == nil && e.channel == r.Channel && (e.state.ProviderID == state.ProviderID || bytes.HasPrefix(e.key, prefixes[0])) {
					kept = append(kept, e)
				}
				return err
			})
		})
		if err != nil {
			return state, nil, err
		}
	}
	slices.SortStableFunc(kept, func(a, b earlyReport) int {
		return cmp.Or(a.at().Compare(b.at()), cmp.Compare(a.state.Status, b.state.Status))
	})
	for i := range kept {
		state = state.Merge(kept[i].state)
		heard = append(heard, kept[i].key)
	}
	return state, heard, nil
}

// Unreported implements sink.Store.
func (s *Store) Unreported(ctx context.Context, t time.Time, limit int, tell func([]message.Record) error) (given []message.Record, err error) {
	found, err := s.awaited(ctx, t, limit)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	for i := range found {
		found[i].State = found[i].GivenUp()
	}
	if err := tell(found); err != nil {
		return nil, err
	}
	err = s.change(ctx, "unreported", func(w *writer) error {
		for i := range found {
			r, err := readRecord(w.txn, messageKey(found[i].ID))
			if err = s.legible(err); errors.Is(err, sink.ErrNotFound) {
				continue // it has come to its age meanwhile
			}
			if err != nil {
				return err
			}
			if !r.Awaited() || !r.SentAt.Before(t) {
				continue // a report came meanwhile
			}
			if err := w.setState(ctx, &r, r.GivenUp(), nil); err != nil {
				return err
			}
			given = append(given, r)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return given, nil
}

// awaited finds up to limit messages that were sent before t and of which nothing
// was heard, the oldest first.
func (s *Store) awaited(ctx context.Context, t time.Time, limit int) (found []message.Record, err error) {
	end := sentPrefix(t)
	err = s.view(ctx, "unreported", func(txn *badger.Txn) error {
		return scan(ctx, txn, []byte{prefixSent}, []byte{prefixSent}, func(item *badger.Item) error {
			if len(found) == limit || bytes.Compare(item.Key(), end) >= 0 {
				return errEnough
			}
			r, err := readRecord(txn, messageKey(keyID(item.Key())))
			if err = s.legible(err); errors.Is(err, sink.ErrNotFound) {
				return nil
			}
			found = append(found, r)
			return err
		})
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return found, nil
}
