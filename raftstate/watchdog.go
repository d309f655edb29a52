package raftstate

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// watchdog is the log and stable store with an eye on them. A leader whose disk
// hangs in a write goes on sending heartbeats, which another goroutine does: it
// keeps the leadership for ever and answers nothing (hashicorp/raft issues 503,
// 612, 666). So one that hangs in a write falls silent, and the others elect
// another (see transport); and a write that takes longer than the limit ends the
// process.
type watchdog struct {
	raft.LogStore
	raft.StableStore

	check func() error // whether a write that returned may be believed
	limit time.Duration
	fatal func(error)

	mu sync.Mutex // guards all below
	// writes is when each write in flight began. raft's main goroutine makes one at
	// a time, but a heartbeat with a newer term writes that from a goroutine of its
	// own: behind the one that hangs, again with each new connection.
	writes map[uint64]time.Time
	next   uint64
}

func newWatchdog(logs raft.LogStore, stable raft.StableStore, check func() error, limit time.Duration, fatal func(error)) *watchdog {
	return &watchdog{LogStore: logs, StableStore: stable, check: check, limit: limit, fatal: fatal, writes: map[uint64]time.Time{}}
}

func (w *watchdog) watch(write func() error) error {
	w.mu.Lock()
	w.next++
	id := w.next
	w.writes[id] = time.Now()
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.writes, id)
		w.mu.Unlock()
	}()
	if err := write(); err != nil {
		return err
	}
	return w.check()
}

// StoreLog implements raft.LogStore.
func (w *watchdog) StoreLog(l *raft.Log) error {
	return w.watch(func() error { return w.LogStore.StoreLog(l) })
}

// StoreLogs implements raft.LogStore.
func (w *watchdog) StoreLogs(logs []*raft.Log) error {
	return w.watch(func() error { return w.LogStore.StoreLogs(logs) })
}

// Set implements raft.StableStore.
func (w *watchdog) Set(key, val []byte) error {
	return w.watch(func() error { return w.StableStore.Set(key, val) })
}

// SetUint64 implements raft.StableStore.
func (w *watchdog) SetUint64(key []byte, val uint64) error {
	return w.watch(func() error { return w.StableStore.SetUint64(key, val) })
}

// hanging is how long the oldest write in flight has taken so far; 0: none is.
func (w *watchdog) hanging() (longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, began := range w.writes {
		longest = max(longest, time.Since(began))
	}
	return longest
}

// run looks four times in a limit until ctx ends.
func (w *watchdog) run(ctx context.Context) {
	tick := time.NewTicker(w.limit / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if took := w.hanging(); took > w.limit {
			w.fatal(fmt.Errorf("write to the raft log has not returned for %s: its disk hangs", took.Round(time.Millisecond)))
			return
		}
	}
}
