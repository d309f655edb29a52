package wal

import (
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// badgerOptions: small memory, everything in the tree, sums of our own. The
// figures behind them are in the manual's chapter on tuning.
func badgerOptions(dir string, memTable int64, logger badger.Logger) badger.Options {
	o := badger.DefaultOptions(dir).
		WithSyncWrites(true).
		WithDetectConflicts(false). // one writer
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithMemTableSize(memTable).
		WithNumMemtables(2). // what waits to be flushed needs space, too
		WithNumCompactors(2).
		// A compaction needs space for what it writes before it frees what it read:
		// these sizes keep it in proportion to the reserve, which is in memtables.
		WithBaseTableSize(TableSize(memTable)).
		WithBaseLevelSize(memTable).
		WithValueLogFileSize(max(memTable, 1<<20)).
		WithMetricsEnabled(false).
		WithLogger(logger)
	// Tables are made in memory, up to eight at once, and Badger keeps that memory:
	// they must not grow with their level.
	o.TableSizeMultiplier = 1
	// A transaction holds 15 % of a memtable, and no value may be larger: with
	// the threshold there, no value ever reaches the value log.
	return o.WithValueThreshold(min(maxTxnShare(memTable), 1<<20))
}

// TableSize is about how large the files of a log with these memtables are, in
// bytes.
func TableSize(memTable int64) int64 { return max(memTable/4, 1<<20) }

func (c Config) badgerOptions(w *watch) badger.Options {
	return badgerOptions(dbDir(c.Dir), c.MemTable, w).WithSyncWrites(!c.unsafe)
}

// readerOptions are for a log that is only read, or written once: a compaction
// would cut off tables that are links to another log's before it removes them.
func readerOptions(dir string, memTable int64, w *watch) badger.Options {
	return badgerOptions(dir, memTable, w).WithNumCompactors(0).
		WithNumLevelZeroTables(1 << 20).WithNumLevelZeroTablesStall(1<<20 + 1)
}

// maxTxnShare is Badger's limit for one transaction, less a margin for its own
// estimate.
func maxTxnShare(memTable int64) int64 { return memTable * 15 / 100 * 9 / 10 }

// watch is Badger's logger. Badger reports some failed syncs and unreadable
// values here and nowhere else, in the goroutine of the commit and before it
// returns; so an error line counts as a failed write.
type watch struct {
	logger      *slog.Logger
	failure     atomic.Pointer[error]
	compactions atomic.Uint64
	kick        chan struct{} // wakes the upkeep goroutine; capacity 1
}

func newWatch(logger *slog.Logger) *watch {
	return &watch{logger: logger, kick: make(chan struct{}, 1)}
}

func (w *watch) Errorf(format string, args ...any) {
	err := fmt.Errorf("badger: %s", strings.TrimSpace(fmt.Sprintf(format, args...)))
	if w.failure.CompareAndSwap(nil, &err) {
		w.logger.Error("the log's database reported an error", "err", err)
		signal(w.kick)
	}
}

func (w *watch) Warningf(format string, args ...any) {
	text := strings.TrimSpace(fmt.Sprintf(format, args...))
	// A failed compaction is only a warning to Badger; what it may have
	// dropped, the scrub finds. It must come soon.
	if strings.Contains(text, "ompact") {
		w.compactions.Add(1)
	}
	w.logger.Warn("badger: " + text)
}

func (w *watch) Infof(format string, args ...any) {
	if strings.Contains(format, "LOG Compact") {
		w.compactions.Add(1)
	}
}

func (w *watch) Debugf(string, ...any) {}

// err returns what Badger complained of, if it did.
func (w *watch) err() error {
	if p := w.failure.Load(); p != nil {
		return *p
	}
	return nil
}
