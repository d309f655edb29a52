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
	tideEvery    = time.Second
	measureEvery = 250 * time.Millisecond
	sweepEvery   = time.Second
	sweepKeys    = 20_000 // idempotency keys looked at in one sweep
)

// upkeep is the goroutine of the log's regular duties. None of them is on the
// way of an append.
func (l *Log) upkeep(ctx context.Context) {
	ticker := time.NewTicker(measureEvery)
	defer ticker.Stop()
	var d duties
	for {
		if err := l.watch.err(); err != nil {
			l.fail(err)
		}
		if l.failure.Load() == nil {
			l.perform(ctx, &d, time.Now())
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-l.watch.kick:
		}
	}
}

func (l *Log) wakeUpkeep() { signal(l.watch.kick) }

// duties is what the upkeep goroutine remembers.
type duties struct {
	guard     diskGuard
	marked    [2]uint64 // in the tide: last number, and how many were complete
	tideAt    time.Time
	sweepAt   time.Time
	sweepFrom []byte
}

func (l *Log) perform(ctx context.Context, d *duties, now time.Time) {
	report := func(duty string, err error) {
		if err != nil && ctx.Err() == nil && !errors.Is(err, ErrClosed) {
			l.cfg.Logger.Error("the log's upkeep", "duty", duty, "err", err)
		}
	}
	report("measure the disk", l.measure(&d.guard))
	if now.Sub(d.tideAt) >= tideEvery {
		d.tideAt = now
		report("write the tide mark", l.markTide(&d.marked))
	}
	if now.Sub(d.sweepAt) >= sweepEvery {
		d.sweepAt = now
		forgotten, err := l.sweep(ctx, &d.sweepFrom)
		if report("sweep idempotency keys", err); forgotten > sweepKeys/2 {
			d.sweepAt = time.Time{} // there are more where these were
		}
	}
}

// measure looks at the disk and opens or shuts the door for appends.
func (l *Log) measure(g *diskGuard) error {
	used, err := usedBytes(dbDir(l.cfg.Dir))
	if err != nil {
		return fmt.Errorf("measure the log: %w", err)
	}
	free, err := freeBytes(l.cfg.Dir)
	if err != nil {
		return err
	}
	l.disk.Store(used)
	l.free.Store(free)
	limits := l.Limits()
	g.maxUsed, g.minFree = limits.MaxDiskBytes, limits.MinFreeBytes
	l.setFull(g.measured(used, free))
	l.written.Store(0)
	if l.cfg.BallastBytes <= 0 {
		return nil
	}
	if free < reserve(l.cfg.MemTable)/2 {
		if dropped, err := dropBallast(l.cfg.Dir); dropped || err != nil {
			l.cfg.Logger.Warn("the disk is all but full: the ballast was given up", "free_bytes", free)
			return err
		}
	} else if free > limits.MinFreeBytes+2*l.cfg.BallastBytes {
		return layBallast(l.cfg.Dir, l.cfg.BallastBytes)
	}
	return nil
}

func (l *Log) setFull(full bool) {
	if l.full.Swap(full) == full {
		return
	}
	attrs := []any{"used_bytes", l.disk.Load(), "free_bytes", l.free.Load(), "max_disk_bytes", l.Limits().MaxDiskBytes, "min_free_disk_bytes", l.Limits().MinFreeBytes}
	if full {
		l.cfg.Logger.Error("the log's disk limit is reached: nothing is accepted until space is free", attrs...)
	} else {
		l.cfg.Logger.Info("the log has space again: accepting", attrs...)
	}
}

// wroteBytes is called by the writer: between two measurements it counts. A byte
// may stand three times for a while: in the memtable's file, in a table, and in
// the result of a compaction whose input is not deleted yet.
func (l *Log) wroteBytes(n int64) {
	since := 3 * l.written.Add(n)
	limits := l.limits.Load()
	if !l.full.Load() && (l.free.Load()-since < limits.MinFreeBytes || l.disk.Load()+since >= limits.MaxDiskBytes) && l.free.Load() != 0 {
		l.setFull(true)
		l.wakeUpkeep()
	}
}

// markTide writes the tide mark if the log has risen, or its foot has moved.
func (l *Log) markTide(marked *[2]uint64) error {
	t := l.writer.tide()
	at := [2]uint64{t.Seq, l.writer.tally().completed}
	if at == *marked {
		return nil
	}
	t.Lowest = l.window.lowest(t.ID)
	if err := writeTide(l.cfg.Dir, t); err != nil {
		return err
	}
	*marked = at
	return nil
}

// sweep forgets idempotency keys that have expired, a bounded number at a time,
// going round, and returns how many it asked the writer to forget.
func (l *Log) sweep(ctx context.Context, from *[]byte) (int, error) {
	r := &request{done: make(chan struct{}, 1)}
	err := func() error {
		db, err := l.acquire()
		if err != nil {
			return err
		}
		defer l.release()
		txn := db.NewTransaction(false)
		defer txn.Discard()
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{prefixKey}})
		defer it.Close()
		now := l.clock.now()
		if *from == nil {
			*from = []byte{prefixKey}
		}
		looked := 0
		for it.Seek(*from); it.Valid() && looked < sweepKeys; it.Next() {
			looked++
			key := it.Item().KeyCopy(nil)
			err := it.Item().Value(func(v []byte) error {
				c, err := openClaim(v, key)
				if err == nil && c.expiry <= now {
					r.ops = append(r.ops, op{kind: opForget, key: key, id: c.id})
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("read idempotency key: %w", err)
			}
		}
		if !it.Valid() {
			*from = nil
		} else {
			*from = bytes.Clone(it.Item().Key())
		}
		return nil
	}()
	if err != nil || len(r.ops) == 0 {
		return 0, err
	}
	n := len(r.ops)
	if err := l.submit(ctx, r); err != nil {
		return 0, err
	}
	return n, r.err
}
