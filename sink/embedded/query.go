package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/dgraph-io/badger/v4"

	"forebay/sink"
	"forebay/wal/message"
)

// view runs a read of the given name on one snapshot.
func (s *Store) view(ctx context.Context, name string, read func(*badger.Txn) error) error {
	defer s.observe(name, time.Now())
	db, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer s.exit()
	txn := db.NewTransaction(false)
	defer txn.Discard()
	return read(txn)
}

// Get implements sink.Store. A *DamagedError says that the message is there and
// cannot be read.
func (s *Store) Get(ctx context.Context, account string, id message.ID) (r message.Record, err error) {
	err = s.view(ctx, "get", func(txn *badger.Txn) error {
		r, err = readRecord(txn, messageKey(id))
		if err == nil && account != "" && r.Account != account {
			r, err = message.Record{}, sink.ErrNotFound
		}
		return err
	})
	return r, err
}

// List implements sink.Store. It walks an index of the account, or the one of
// its client_ref, or of a status that is no good end; a query that restricts by
// other fields alone passes all the account's messages in its span of time, and
// one without an account those of every account. A message that is damaged is left
// out, and named in the log.
func (s *Store) List(ctx context.Context, q message.Query) (page message.Page, err error) {
	if q.Limit < 1 || q.Limit > 1000 {
		return page, fmt.Errorf("list: limit %d, want 1 to 1000", q.Limit)
	}
	err = s.view(ctx, "list", func(txn *badger.Txn) error {
		page, err = s.list(ctx, txn, &q)
		return err
	})
	return page, err
}

func (s *Store) list(ctx context.Context, txn *badger.Txn, q *message.Query) (message.Page, error) {
	var page message.Page
	prefix, indexed := []byte{prefixMessage}, q.Account != ""
	switch {
	case indexed && q.ClientRef != "":
		prefix = refPrefix(q.Account, q.ClientRef, idLen)
	case indexed && looked(q.Status):
		prefix = accountStatusPrefix(q.Account, q.Status, idLen)
	case looked(q.Status):
		prefix, indexed = statusPrefix(q.Status), true
	case indexed:
		prefix = accountPrefix(prefixAccount, q.Account, idLen)
	}
	to := hashTo(q.To)
	err := walk(ctx, txn, prefix, q, func(item *badger.Item, id message.ID) (more bool, err error) {
		if indexed {
			brief, err := readSummary(item)
			if err != nil && !s.damaged(err) {
				return false, fmt.Errorf("list: %w", err)
			}
			if err == nil && !brief.mayMatch(q, to) {
				return true, nil
			}
		}
		r, err := readRecord(txn, messageKey(id))
		if err = s.legible(err); err != nil && !errors.Is(err, sink.ErrNotFound) {
			return false, fmt.Errorf("list: %w", err)
		}
		if err != nil || !q.Matches(&r) {
			return true, nil
		}
		if len(page.Records) == q.Limit {
			page.More = true
			return false, nil
		}
		page.Records = append(page.Records, r)
		return true, nil
	})
	if err != nil {
		return message.Page{}, err
	}
	return page, nil
}

// walk calls visit with the keys under prefix that lie in the query's span,
// newest first, until it says that it has enough.
func walk(ctx context.Context, txn *badger.Txn, prefix []byte, q *message.Query, visit func(*badger.Item, message.ID) (bool, error)) error {
	first, below, bounded := bounds(q)
	opts := badger.DefaultIteratorOptions
	opts.Prefix, opts.Reverse, opts.PrefetchValues = prefix, true, false
	it := txn.NewIterator(opts)
	defer it.Close()
	start := bytes.Repeat([]byte{0xff}, idLen)
	if bounded {
		start = below[:]
	}
	n := 0
	for it.Seek(append(bytes.Clone(prefix), start...)); it.Valid(); it.Next() {
		if n++; n%checkEvery == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		id := keyID(it.Item().Key())
		if bounded && bytes.Compare(id[:], below[:]) >= 0 {
			continue
		}
		if bytes.Compare(id[:], first[:]) < 0 {
			return nil
		}
		if more, err := visit(it.Item(), id); err != nil || !more {
			return err
		}
	}
	return nil
}

// bounds turns the query's times and cursor into ids: first ≤ id < below, the
// latter only if bounded.
func bounds(q *message.Query) (first, below message.ID, bounded bool) {
	if !q.AcceptedAfter.IsZero() {
		first = firstOf(q.AcceptedAfter)
	}
	below, bounded = q.Before, !q.Before.IsZero()
	if !q.AcceptedBefore.IsZero() {
		if before := firstOf(q.AcceptedBefore); !bounded || bytes.Compare(before[:], below[:]) < 0 {
			below, bounded = before, true
		}
	}
	return first, below, bounded
}

// firstOf is less than or equal to every id of a time at or after t, and
// greater than every earlier one.
func firstOf(t time.Time) (id message.ID) {
	ms := t.UnixMilli()
	if t.After(time.UnixMilli(ms)) {
		ms++ // between two milliseconds
	}
	ms = min(max(ms, 0), 1<<48-1)
	binary.BigEndian.PutUint64(id[:], uint64(ms)<<16)
	return id
}

// Count implements sink.Store.
func (s *Store) Count(ctx context.Context, node uint16, from, to uint64) (tally sink.Tally, err error) {
	err = s.view(ctx, "count", func(txn *badger.Txn) error {
		return walkBlocks(ctx, txn, node, from, to, func(number uint64, b *block) bool {
			first, last := uint64(0), uint64(blockSpan-1)
			if number == from/blockSpan {
				first = from % blockSpan
			}
			if number == to/blockSpan {
				last = to % blockSpan
			}
			stored, final := b.count(first, last)
			tally.Stored += stored
			tally.Final += final
			return true
		})
	})
	if err != nil {
		return sink.Tally{}, err
	}
	return tally, nil
}

// Missing implements sink.Store.
func (s *Store) Missing(ctx context.Context, node uint16, from, to uint64, limit int) (missing []uint64, err error) {
	to = min(to, math.MaxUint64-1) // so that one past the last can be said
	next := from                   // the first number that is not looked at yet
	// pass notes what is missing below end, given what b has; nil: nothing.
	pass := func(end uint64, b *block) {
		for ; next < end && len(missing) < limit; next++ {
			if b == nil || !b.has(next) {
				missing = append(missing, next)
			}
		}
	}
	err = s.view(ctx, "missing", func(txn *badger.Txn) error {
		return walkBlocks(ctx, txn, node, from, to, func(number uint64, b *block) bool {
			pass(number*blockSpan, nil)
			pass(min(number*blockSpan+(blockSpan-1), to)+1, b)
			return len(missing) < limit
		})
	})
	if err != nil {
		return nil, err
	}
	pass(to+1, nil)
	return missing, nil
}

// walkBlocks calls visit with the blocks of a node that have numbers from from
// to to, in order, until it says that it has enough.
func walkBlocks(ctx context.Context, txn *badger.Txn, node uint16, from, to uint64, visit func(uint64, *block) bool) error {
	if from > to {
		return nil
	}
	opts := badger.DefaultIteratorOptions
	opts.Prefix, opts.PrefetchValues = blockPrefix(node), false
	it := txn.NewIterator(opts)
	defer it.Close()
	n := 0
	for it.Seek(blockKey(node, from/blockSpan)); it.Valid(); it.Next() {
		if n++; n%checkEvery == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		key := it.Item().Key()
		if blockNumber(key) > to/blockSpan {
			return nil
		}
		more := false
		err := it.Item().Value(func(v []byte) error {
			b, err := decodeBlock(key, v)
			if err == nil {
				more = visit(blockNumber(key), b)
			}
			return err
		})
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// FirstSince implements sink.Store.
func (s *Store) FirstSince(ctx context.Context, node uint16, t time.Time) (seq uint64, err error) {
	from := messageKey(firstOf(t))
	err = s.view(ctx, "first_since", func(txn *badger.Txn) error {
		return scan(ctx, txn, []byte{prefixMessage}, from, func(item *badger.Item) error {
			id := keyID(item.Key())
			if id.Node() != node {
				return nil
			}
			// A node's ids and numbers rise together, so the first is the lowest.
			r, err := readRecord(txn, messageKey(id))
			if err = s.legible(err); errors.Is(err, sink.ErrNotFound) {
				return nil // the next one that can be read
			}
			if err != nil {
				return err
			}
			seq = r.Seq
			return errEnough
		})
	})
	if err != nil && !errors.Is(err, errEnough) {
		return 0, err
	}
	return seq, nil
}

// Issued returns the highest sequence number and the highest id of node's messages
// that the store has; zero: it has none.
func (s *Store) Issued(ctx context.Context, node uint16) (seq uint64, id message.ID, err error) {
	err = s.view(ctx, "issued", func(txn *badger.Txn) error {
		opts := badger.DefaultIteratorOptions
		opts.Prefix, opts.PrefetchValues, opts.Reverse = []byte{prefixMessage}, false, true
		it := txn.NewIterator(opts)
		defer it.Close()
		n := 0
		for it.Seek([]byte{prefixMessage + 1}); it.Valid(); it.Next() {
			if n++; n%checkEvery == 0 && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			// A node's ids and numbers rise together, so the last is the highest.
			if found := keyID(it.Item().Key()); found.Node() == node {
				r, err := readRecord(txn, messageKey(found))
				seq, id = r.Seq, found
				return err
			}
		}
		return nil
	})
	return seq, id, err
}
