package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
)

const (
	scrubLook  = time.Second // between two looks whether one is due
	scrubFirst = 10 * time.Second
	scrubYield = 3 // times Config.Scrub that one gives way to pressure at most

	// A scrub reads every live key. It reads a few, for a millisecond or two, and
	// rests nine times as long, so that an append that comes meanwhile does not wait
	// for a processor; and after the last it rests ten times as long as all that
	// took: a hundredth of a core.
	scrubStep = 2048
	stepRest  = 9
	scrubRest = 10
)

// scrubber is the goroutine that counts the live keys after compactions, and now
// and then anyway.
func (l *Log) scrubber(ctx context.Context) {
	ticker := time.NewTicker(scrubLook)
	defer ticker.Stop()
	began := time.Now()
	due, last, seen := began.Add(scrubFirst), began, uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, compacted := time.Now(), l.watch.compactions.Load()
		switch {
		case now.Before(due), l.failure.Load() != nil,
			compacted == seen && now.Sub(last) < l.cfg.Scrub,
			l.spill.Load() && now.Sub(last) < scrubYield*l.cfg.Scrub:
			continue
		}
		seen, last = compacted, now
		if err := l.scrub(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, ErrClosed) {
			l.cfg.Logger.Error("the log's upkeep", "duty", "scrub", "err", err)
		}
		due = time.Now().Add(max(scrubFirst, scrubRest*time.Since(now)))
	}
}

// scrub holds the records on disk against the ledger, both as of one commit. If
// any are gone, the log has failed. It does not check their sums: whoever reads
// a record does.
func (l *Log) scrub(ctx context.Context) error {
	if _, err := l.acquire(); err != nil {
		return err
	}
	defer l.release()
	type moment struct {
		txn    *badger.Txn
		ledger *ledger
	}
	at := make(chan moment, 1)
	r := &request{done: make(chan struct{}, 1), between: func() {
		at <- moment{l.db.NewTransaction(false), l.writer.ledger.clone()}
	}}
	if err := l.submit(ctx, r); err != nil {
		return err // the log is closing
	}
	if r.err != nil {
		return r.err
	}
	m := <-at
	defer m.txn.Discard()
	there, err := takeCensus(ctx, m.txn)
	if err != nil {
		return err
	}
	l.metrics.scrubs.Inc()
	var gone []uint64
	m.ledger.compare(there, func(seq uint64) { gone = append(gone, seq) }, func(uint64) {})
	if len(gone) > 0 {
		err := fmt.Errorf("%w: %d accepted messages are gone from the disk, numbers %d to %d", errDamaged, len(gone), gone[0], gone[len(gone)-1])
		l.fail(err)
		return err
	}
	return nil
}

// takeCensus notes the number of every record, a few at a time. Between them it
// holds no iterator: one keeps the tables that a compaction has replaced on disk.
func takeCensus(ctx context.Context, txn *badger.Txn) (*census, error) {
	c := newCensus()
	for _, prefix := range [][]byte{{prefixMessage}, {prefixParked}} {
		for from := prefix; from != nil; {
			began := time.Now()
			var err error
			if from, err = countSome(txn, prefix, from, c); err != nil {
				return nil, err
			}
			if from == nil {
				break
			}
			if err := rest(ctx, stepRest*time.Since(began)); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// countSome notes the numbers of the next few records under the prefix and returns
// where to go on; nil: there are no more.
func countSome(txn *badger.Txn, prefix, from []byte, c *census) (next []byte, err error) {
	it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
	defer it.Close()
	n := 0
	for it.Seek(from); it.Valid(); it.Next() {
		item := it.Item()
		if n++; n > scrubStep {
			return bytes.Clone(item.Key()), nil
		}
		err := item.Value(func(value []byte) error {
			if seq := recordSeq(value); seq != 0 {
				c.add(seq)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read key % x: %w", item.Key(), err)
		}
	}
	return nil, nil
}

// rest waits for d, and returns the cause of ctx if that ends first.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
