package raftstate

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// watchdog is the log and stable store with an eye on them. A leader whose disk
// hangs in a write goes on sending heartbeats, which another goroutine does: it
// keeps the leadership for ever and answers nothing (hashicorp/raft issues 503,
// 612, 666). So a write that takes longer than the limit ends the process, and
// another node may lead.
type watchdog struct {
	raft.LogStore
	raft.StableStore

	limit time.Duration
	fatal func(error)
	start time.Time
	// since is when the write in flight began, as a duration from start plus
	// one; 0: none is. raft writes from one goroutine at a time.
	since atomic.Int64
}

func newWatchdog(logs raft.LogStore, stable raft.StableStore, limit time.Duration, fatal func(error)) *watchdog {
	return &watchdog{LogStore: logs, StableStore: stable, limit: limit, fatal: fatal, start: time.Now()}
}

func (w *watchdog) watch(write func() error) error {
	w.since.Store(int64(time.Since(w.start)) + 1)
	defer w.since.Store(0)
	return write()
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
		since := w.since.Load()
		if since == 0 {
			continue
		}
		if took := time.Since(w.start) - time.Duration(since-1); took > w.limit {
			w.fatal(fmt.Errorf("write to the raft log has not returned for %s: its disk hangs", took.Round(time.Millisecond)))
			return
		}
	}
}
