package embedded

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"forebay/sink"
	"forebay/wal/message"
)

// How many messages of a day were deleted, so that they count on:
//
//	u account day channel status → how many (8) · CRC-32C (4, of the key and that)
//
// day is 4 bytes, days since 1970.
const prefixUsage = 'u'

const (
	dayMillis = 24 * 60 * 60 * 1000
	usageTail = 4 + 1 + 1
)

func usageKey(account string, day uint32, channel message.Channel, status message.Status) []byte {
	key := binary.BigEndian.AppendUint32(accountPrefix(prefixUsage, account, usageTail), day)
	return append(key, byte(channel), byte(status))
}

func dayOf(ms uint64) uint32 { return uint32(ms / dayMillis) }

func beginOf(day uint32) time.Time { return time.UnixMilli(int64(day) * dayMillis).UTC() }

// countDeleted has a message that is deleted count on. The counts are written
// with the transaction.
func (w *writer) countDeleted(r *message.Record) error {
	if r.Test || r.Callback {
		return nil
	}
	key := usageKey(r.Account, dayOf(r.ID.Millis()), r.Channel, r.Status)
	n, ok := w.counts[string(key)]
	if !ok {
		var err error
		if n, err = readCount(w.txn, key); err != nil {
			return err
		}
	}
	w.counts[string(key)] = n + 1
	return nil
}

func readCount(txn *badger.Txn, key []byte) (n uint64, err error) {
	item, err := txn.Get(key)
	if err == badger.ErrKeyNotFound {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read count: %w", err)
	}
	err = item.Value(func(v []byte) error {
		n, err = decodeCount(key, v)
		return err
	})
	return n, err
}

func appendCount(key []byte, n uint64) []byte {
	v := binary.BigEndian.AppendUint64(make([]byte, 0, 12), n)
	return binary.BigEndian.AppendUint32(v, sum(key, v))
}

func decodeCount(key, value []byte) (uint64, error) {
	if len(value) != 12 || binary.BigEndian.Uint32(value[8:]) != sum(key, value[:8]) {
		return 0, &DamagedError{fmt.Sprintf("count % x", key), errSum}
	}
	return binary.BigEndian.Uint64(value), nil
}

// Usage implements sink.Store. It passes the account's index of those days, which
// has status and channel of each message, and reads a message only where that is
// damaged.
func (s *Store) Usage(ctx context.Context, q message.UsageQuery) (list []message.UsageCount, err error) {
	counts := make(map[message.UsageCount]uint64)
	err = s.view(ctx, "usage", func(txn *badger.Txn) error {
		if err := s.countKept(ctx, txn, &q, counts); err != nil {
			return err
		}
		prefix, below := accountPrefix(prefixAccount, q.Account, idLen), firstOf(q.To)
		from := firstOf(q.From)
		err := scan(ctx, txn, prefix, append(bytes.Clone(prefix), from[:]...), func(item *badger.Item) error {
			id := keyID(item.Key())
			if bytes.Compare(id[:], below[:]) >= 0 {
				return errEnough
			}
			brief, err := s.briefOf(txn, item)
			if err == nil && brief.counts() {
				counts[message.UsageCount{Day: beginOf(dayOf(id.Millis())), Channel: brief.channel(), Status: brief.status()}]++
			}
			if errors.Is(err, sink.ErrNotFound) {
				return nil // nobody knows what it was
			}
			return err
		})
		if err == errEnough {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for c, n := range counts {
		c.Count = n
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b message.UsageCount) int {
		return cmp.Or(a.Day.Compare(b.Day), cmp.Compare(a.Channel, b.Channel), cmp.Compare(a.Status, b.Status))
	})
	return list, nil
}

// briefOf is what the account's index says of a message, or the message itself if the
// index is damaged; sink.ErrNotFound: both are.
func (s *Store) briefOf(txn *badger.Txn, item *badger.Item) (summary, error) {
	brief, err := readSummary(item)
	if !s.damaged(err) {
		return brief, err
	}
	r, err := readRecord(txn, messageKey(keyID(item.Key())))
	return newSummary(&r), s.legible(err)
}

// countKept adds what deleted messages counted. A count that is damaged is left out.
func (s *Store) countKept(ctx context.Context, txn *badger.Txn, q *message.UsageQuery, counts map[message.UsageCount]uint64) error {
	prefix := accountPrefix(prefixUsage, q.Account, 0)
	return scan(ctx, txn, prefix, prefix, func(item *badger.Item) error {
		key := item.Key()
		tail := key[len(key)-usageTail:]
		day := beginOf(binary.BigEndian.Uint32(tail))
		if day.Before(q.From) || !day.Before(q.To) {
			return nil
		}
		return item.Value(func(v []byte) error {
			n, err := decodeCount(key, v)
			if errors.As(err, new(*DamagedError)) {
				s.log.Error("A damaged count of deleted messages is passed over: the usage of that day is too low.", "err", err)
				return nil
			}
			counts[message.UsageCount{Day: day, Channel: message.Channel(tail[4]), Status: message.Status(tail[5])}] += n
			return err
		})
	})
}

// tidy deletes reports whose messages never came, and counts that are too old. It
// has the turn all the while, so nobody keeps a report after it has looked.
func (s *Store) tidy(ctx context.Context) error {
	return s.change(ctx, "tidy", func(w *writer) error {
		old, waiting, err := s.outdated(ctx, w.before)
		if err != nil {
			return err
		}
		s.early.Store(waiting)
		for _, key := range old {
			if err := w.room(ctx, 1, len(key)); err != nil {
				return err
			}
			if err := w.delete(key); err != nil {
				return err
			}
		}
		return nil
	})
}

// outdated returns the keys of what is too old, and whether any report waits on.
func (s *Store) outdated(ctx context.Context, txn *badger.Txn) (old [][]byte, waiting bool, err error) {
	now := s.now()
	err = scan(ctx, txn, []byte{prefixEarly}, []byte{prefixEarly}, func(item *badger.Item) error {
		return item.Value(func(v []byte) error {
			e, err := decodeEarly(item.Key(), v)
			switch {
			case err != nil: // told by who looks for it
			case now.Sub(e.received) < sink.EarlyReports:
				waiting = true
			default:
				old = append(old, e.key)
			}
			return nil
		})
	})
	if err != nil || s.cfg.Retention == forEver {
		return old, waiting, err
	}
	err = scan(ctx, txn, []byte{prefixUsage}, []byte{prefixUsage}, func(item *badger.Item) error {
		key := item.KeyCopy(nil)
		if day := beginOf(binary.BigEndian.Uint32(key[len(key)-usageTail:])); now.Sub(day) > sink.UsageKept+s.cfg.Retention {
			old = append(old, key)
		}
		return nil
	})
	return old, waiting, err
}
