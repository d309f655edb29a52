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
	sweepBatch   = 1000

	// A scrub reads every live key; after one it rests a hundred times as long
	// as it took, so that it costs a hundredth of a core at most.
	scrubRest  = 100
	scrubFirst = 10 * time.Second

	// Space is given back when the log holds so many times the live bytes.
	reclaimFactor = 4
	reclaimSlack  = 16 // memtables' worth of dead bytes that are never worth it
	reclaimEvery  = 10 * time.Second
)

// upkeep is the goroutine of the log's regular duties. None of them is on the
// way of an append.
func (l *Log) upkeep(ctx context.Context) {
	ticker := time.NewTicker(measureEvery)
	defer ticker.Stop()
	d := duties{guard: diskGuard{maxUsed: l.cfg.MaxDiskBytes, minFree: l.cfg.MinFreeBytes}, scrubAt: time.Now().Add(scrubFirst)}
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
		case <-l.kick:
		}
	}
}

func (l *Log) wakeUpkeep() { signal(l.kick) }

// duties is what the upkeep goroutine remembers.
type duties struct {
	guard     diskGuard
	written   uint64 // marked in the tide
	tideAt    time.Time
	sweepAt   time.Time
	sweepFrom []byte
	scrubAt   time.Time
	scrubbed  time.Time
	seen      uint64 // compactions before the last scrub
	reclaimAt time.Time
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
		report("write the tide mark", l.markTide(&d.written))
	}
	if now.Sub(d.sweepAt) >= sweepEvery {
		d.sweepAt = now
		report("sweep idempotency keys", l.sweep(ctx, &d.sweepFrom))
	}
	l.scrubIfDue(ctx, d, now, report)
	if now.Sub(d.reclaimAt) >= reclaimEvery {
		d.reclaimAt = now
		report("reclaim disk space", l.reclaim())
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
	} else if free > l.cfg.MinFreeBytes+2*l.cfg.BallastBytes {
		return layBallast(l.cfg.Dir, l.cfg.BallastBytes)
	}
	return nil
}

func (l *Log) setFull(full bool) {
	if l.full.Swap(full) == full {
		return
	}
	attrs := []any{"used_bytes", l.disk.Load(), "free_bytes", l.free.Load(), "max_disk_bytes", l.cfg.MaxDiskBytes, "min_free_disk_bytes", l.cfg.MinFreeBytes}
	if full {
		l.cfg.Logger.Error("the log's disk limit is reached: nothing is accepted until space is free", attrs...)
	} else {
		l.cfg.Logger.Info("the log has space again: accepting", attrs...)
	}
}

// wroteBytes is called by the writer: between two measurements it counts.
func (l *Log) wroteBytes(n int64) {
	since := 2 * l.written.Add(n)
	if !l.full.Load() && (l.free.Load()-since < l.cfg.MinFreeBytes || l.disk.Load()+since >= l.cfg.MaxDiskBytes) && l.free.Load() != 0 {
		l.setFull(true)
		l.wakeUpkeep()
	}
}

// markTide writes the tide mark if the log has risen.
func (l *Log) markTide(written *uint64) error {
	t := l.writer.tide()
	if t.Seq == *written {
		return nil
	}
	t.Lowest = l.window.lowest(t.ID)
	if err := writeTide(l.cfg.Dir, t); err != nil {
		return err
	}
	*written = t.Seq
	return nil
}

// sweep forgets idempotency keys that have expired, a bounded number at a time,
// going round.
func (l *Log) sweep(ctx context.Context, from *[]byte) error {
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
		for it.Seek(*from); it.Valid() && looked < sweepKeys && len(r.ops) < sweepBatch; it.Next() {
			looked++
			key := it.Item().KeyCopy(nil)
			*from = key
			err := it.Item().Value(func(v []byte) error {
				c, err := openClaim(v, key)
				if err == nil && c.expiry <= now {
					r.ops = append(r.ops, op{kind: opForget, key: key})
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
		return err
	}
	if err := l.submit(ctx, r); err != nil {
		return err
	}
	return r.err
}

// scrubIfDue counts the live keys after compactions, and now and then anyway.
func (l *Log) scrubIfDue(ctx context.Context, d *duties, now time.Time, report func(string, error)) {
	compacted := l.watch.compactions.Load()
	if now.Before(d.scrubAt) || compacted == d.seen && now.Sub(d.scrubbed) < l.cfg.Scrub {
		return
	}
	d.seen, d.scrubbed = compacted, now
	report("scrub", l.scrub(ctx))
	took := time.Since(now)
	d.scrubAt = time.Now().Add(max(scrubFirst, scrubRest*took))
}

// scrub compares the live keys with the writer's own count at one commit. If
// records are gone, the log has failed.
func (l *Log) scrub(ctx context.Context) error {
	// An empty request: the writer answers between two commits, with a
	// snapshot and the count that belongs to it.
	snapshot := make(chan *badger.Txn, 1)
	var want int64
	r := &request{done: make(chan struct{}, 1), between: func() {
		snapshot <- l.db.NewTransaction(false)
		want = l.writer.tally().live
	}}
	if _, err := l.acquire(); err != nil {
		return err
	}
	defer l.release()
	if err := l.submit(ctx, r); err != nil {
		return err
	}
	if r.err != nil {
		return r.err
	}
	txn := <-snapshot
	defer txn.Discard()
	var have int64
	for _, prefix := range []byte{prefixMessage, prefixParked} {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{prefix}})
		for it.Rewind(); it.Valid(); it.Next() {
			if have++; have%4096 == 0 && ctx.Err() != nil {
				it.Close()
				return context.Cause(ctx)
			}
		}
		it.Close()
	}
	l.metrics.scrubs.Inc()
	if have < want {
		err := fmt.Errorf("%w: %d records are on disk, %d were written: %d are gone", errDamaged, have, want, want-have)
		l.fail(err)
		return err
	}
	return nil
}

// reclaim compacts the whole tree when most of what it holds is dead: a queue
// leaves its deleted records in levels that ordinary compaction seldom visits.
func (l *Log) reclaim() error {
	db, err := l.acquire()
	if err != nil {
		return err
	}
	defer l.release()
	lsm, _ := db.Size()
	live := l.writer.tally().liveBytes
	if lsm < reclaimFactor*live+reclaimSlack*l.cfg.MemTable {
		return nil
	}
	l.metrics.reclaim.Inc()
	if err := db.Flatten(1); err != nil {
		return fmt.Errorf("compact the log: %w", err)
	}
	return nil
}
