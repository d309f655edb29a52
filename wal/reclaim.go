package wal

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/dgraph-io/badger/v4"
)

const (
	reclaimEvery = 10 * time.Second

	// Space is given back when the tables hold so many times the live bytes,
	// and at least so many memtables' worth of dead ones.
	reclaimFactor = 4
	reclaimSlack  = 16
	// When space is short, a fifth of the tables, and two memtables' worth, are
	// enough. It is short well before appends are refused: the dead bytes of a log
	// that has drained would otherwise stand there as pressure, for nothing.
	shortOf    = 0.7 // of MaxDiskBytes, or MinFreeBytes of what is free
	shortShare = 5
	shortSlack = 2

	padBytes  = 256 << 10
	flushWait = 10 * time.Second
	flushPoll = 10 * time.Millisecond
)

// reclaimLoop is the goroutine that gives disk space back. It is not upkeep's:
// a compaction of everything takes as long as it takes.
func (l *Log) reclaimLoop(ctx context.Context) {
	ticker := time.NewTicker(l.cfg.often)
	defer ticker.Stop()
	var r reclaimer
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if l.failure.Load() != nil || l.spill.Load() && !l.spaceShort() {
			continue
		}
		if err := l.reclaim(ctx, &r); err != nil && ctx.Err() == nil && !errors.Is(err, ErrClosed) {
			l.cfg.Logger.Error("the log's upkeep", "duty", "reclaim disk space", "err", err)
		}
	}
}

// reclaimer remembers what compaction cannot free.
type reclaimer struct {
	other int64 // bytes in tables after the last time that are no records: idempotency keys
}

// worth reports whether a compaction of everything frees enough.
func (r *reclaimer) worth(tables, live, memTable int64, short bool) bool {
	dead := tables - live - r.other
	if short {
		return dead >= max(tables/shortShare, shortSlack*memTable)
	}
	return dead >= (reclaimFactor-1)*live+reclaimSlack*memTable
}

// spaceShort reports whether the log is near its limits of space, or at them.
func (l *Log) spaceShort() bool {
	limits := l.Limits()
	return l.full.Load() || float64(l.disk.Load()) >= shortOf*float64(limits.MaxDiskBytes) ||
		shortOf*float64(l.free.Load()) <= float64(limits.MinFreeBytes)
}

// reclaim compacts the whole tree when most of what it holds is dead: a queue
// leaves its deleted records in levels that ordinary compaction seldom visits.
func (l *Log) reclaim(ctx context.Context, r *reclaimer) error {
	db, err := l.acquire()
	if err != nil {
		return err
	}
	defer l.release()
	if !r.worth(tableBytes(db), l.writer.tally().liveBytes, l.cfg.MemTable, l.spaceShort()) {
		return nil
	}
	l.metrics.reclaim.Inc()
	if err := l.flushMemtable(ctx); err != nil {
		return fmt.Errorf("flush the memtable: %w", err)
	}
	if err := db.Flatten(1); err != nil {
		return fmt.Errorf("compact the log: %w", err)
	}
	r.other = max(tableBytes(db)-l.writer.tally().liveBytes, 0)
	return nil
}

// flushMemtable makes a table of the memtable: as long as the deletions are only
// there, compaction frees nothing, and a log that is full, and takes nothing
// more, would stay so. Badger has no call for it that does not block writes; so
// the writer pads the memtable until it is full.
func (l *Log) flushMemtable(ctx context.Context) error {
	before, err := filepath.Glob(filepath.Join(dbDir(l.cfg.Dir), "*.mem"))
	if err != nil || len(before) == 0 {
		return err
	}
	newest := before[len(before)-1]
	r := &request{done: make(chan struct{}, 1)}
	pad := make([]byte, min(padBytes, maxTxnShare(l.cfg.MemTable)/2))
	n := l.cfg.MemTable/int64(len(pad)) + 1
	for i := range 2 * n {
		o := op{kind: opPad, seq: uint64(i % n)}
		if i < n {
			o.record = pad
		}
		r.ops = append(r.ops, o)
	}
	if err := l.submit(ctx, r); err != nil {
		return err
	}
	if r.err != nil {
		return r.err
	}
	timeout := time.NewTimer(flushWait)
	defer timeout.Stop()
	poll := time.NewTicker(flushPoll)
	defer poll.Stop()
	for { // what was the newest log file goes when its table is there
		if left, err := filepath.Glob(newest); err != nil || len(left) == 0 {
			return err
		}
		select {
		case <-poll.C:
		case <-timeout.C:
			return errors.New("the table was not written in time")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tableBytes is the size of all tables, now: Badger's own figure is a minute old
// and needs its metrics.
func tableBytes(db *badger.DB) (n int64) {
	for _, level := range db.Levels() {
		n += level.Size
	}
	return n
}
