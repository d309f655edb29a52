package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"golang.org/x/sys/unix"

	"forebay/sink"
	"forebay/wal/witness"
)

// memTables is how many Badger may have at once, of Config.MemTable each.
const memTables = 3

// watchInterval is how often Run looks at the disk, retentionInterval how often
// for what is too old, scrubInterval how often for what is lost.
const (
	watchInterval     = time.Second
	retentionInterval = time.Minute
	scrubInterval     = 24 * time.Hour
	tidyInterval      = time.Hour
)

// Store implements sink.Store on Badger.
type Store struct {
	cfg        Config
	settings   atomic.Pointer[Tuning] // that of cfg, or of Configure since
	slowLogged atomic.Int64           // when a slow query was last logged, Unix ms
	log        *slog.Logger
	metrics    *metrics
	around     surroundings
	began      time.Time

	broken     atomic.Pointer[string] // what Badger said when it failed; nil: nothing
	fails      chan struct{}          // closed with the first of it
	miscounted atomic.Bool            // a block was damaged: Run recounts

	early atomic.Bool // there may be reports of messages that are not known yet

	full atomic.Bool // the disk had too little room when it was last looked at

	// turn is held by whoever writes: Badger's transactions do not share a sync,
	// so writing at once gains nothing, and what a transaction reads stays true.
	turn chan struct{}

	stragglers sync.WaitGroup // commits that outlived their callers

	mu     sync.RWMutex // guards what follows; never held over I/O
	db     *badger.DB   // nil: not open yet
	sync   *witness.Witness
	closed bool           // no call begins any more
	users  sync.WaitGroup // calls under way; added to under mu while not closed
}

var errClosed = errors.New("store is closed")

// Open opens the store in its directory. If the disk has too little room to do
// so safely, the store is down and Run opens it when there is. Any other
// obstacle is an error: the directory is in use, of a newer version, or damaged.
func Open(cfg Config) (*Store, error) {
	return open(cfg, surroundings{free: freeBytes})
}

// surroundings are what tests put something else in place of.
type surroundings struct {
	free     func(dir string) (uint64, error)
	memTable int64 // 0: Config's
}

func open(cfg Config, around surroundings) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure embedded store: %w", err)
	}
	cfg = cfg.withDefaults()
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of embedded store: %w", err)
	}
	s := &Store{cfg: cfg, log: cfg.Logger, around: around, began: time.Now(), fails: make(chan struct{}), turn: make(chan struct{}, 1)}
	s.apply(cfg)
	var err error
	if s.metrics, err = newMetrics(cfg.Registerer, s); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	if err := s.openTree(); err != nil {
		return nil, err
	}
	return s, nil
}

// openTree opens Badger if the disk has room. It is called by Open, and then by
// Run alone.
func (s *Store) openTree() error {
	if err := s.checkRoom(s.settings.Load().MinFreeBytes); err != nil {
		return nil // Run tries again
	}
	if err := removeStillborn(s.cfg.Dir); err != nil {
		return fmt.Errorf("open embedded store in %s: %w", s.cfg.Dir, err)
	}
	db, err := badger.Open(treeOptions(s.cfg.Dir, max(cmp.Or(s.around.memTable, s.cfg.MemTable), writtenWith(s.cfg.Dir)), badgerLogger{s.log, s.fail}))
	if err != nil {
		return fmt.Errorf("open embedded store in %s: %w", s.cfg.Dir, err)
	}
	if err := checkFormat(db); err != nil {
		return errors.Join(fmt.Errorf("open embedded store in %s: %w", s.cfg.Dir, err), db.Close())
	}
	sync, err := witness.Open(filepath.Join(s.cfg.Dir, badger.ManifestFilename))
	if err != nil {
		return errors.Join(fmt.Errorf("open embedded store in %s: %w", s.cfg.Dir, err), db.Close())
	}
	s.early.Store(true) // until somebody has looked
	s.mu.Lock()
	defer s.mu.Unlock()
	s.db, s.sync = db, sync
	return nil
}

// writtenWith is the size of the memtables that a store was killed with; 0: it was
// closed cleanly. Badger maps twice as much, and ends the process that opens them
// with smaller ones.
func writtenWith(dir string) (size int64) {
	names, _ := filepath.Glob(filepath.Join(dir, "*.mem"))
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			size = max(size, info.Size()/2)
		}
	}
	return size
}

func treeOptions(dir string, memTable int64, logger badger.Logger) badger.Options {
	return badger.DefaultOptions(dir).
		WithSyncWrites(true).
		WithDetectConflicts(false). // there is one writer at a time
		WithMemTableSize(memTable).
		WithNumMemtables(memTables).
		WithNumCompactors(2).
		WithValueThreshold(min(1<<20, memTable/8)). // every record is smaller: MaxRecordBytes
		WithValueLogFileSize(1 << 20).
		WithCompression(options.Snappy). // two fifths less disk for a tenth more processor time
		WithBlockCacheSize(memTable).
		WithMetricsEnabled(false).
		WithLogger(logger)
}

// checkFormat refuses what a newer version wrote, marks what is new, and brings
// what an older version wrote up to date.
func checkFormat(db *badger.DB) error {
	old := false
	err := db.Update(func(txn *badger.Txn) error {
		item, err := txn.Get(formatKey)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return txn.Set(formatKey, []byte{formatVersion})
		}
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error {
			if len(v) == 1 && v[0] == 1 {
				old = true
				return nil
			}
			if len(v) != 1 || v[0] != formatVersion {
				return fmt.Errorf("format % x, this program knows %d", v, formatVersion)
			}
			return nil
		})
	})
	if err != nil || !old {
		return err
	}
	return upgrade(db)
}

// fail notes that Badger has failed. Nothing is written from then on.
func (s *Store) fail(line string) {
	if s.broken.CompareAndSwap(nil, &line) {
		close(s.fails)
	}
}

// enter begins a call: the tree stays open until exit.
func (s *Store) enter(ctx context.Context) (*badger.DB, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case s.closed:
		return nil, errClosed
	case s.db == nil:
		return nil, &sink.Down{Err: errors.New(s.complaint(true))}
	}
	s.users.Add(1)
	return s.db, nil
}

func (s *Store) exit() { s.users.Done() }

// writable says, as a *sink.Down, why nothing may be written while less than
// need bytes are free.
func (s *Store) writable(need uint64) error {
	if s.broken.Load() != nil {
		return &sink.Down{Err: errors.New(s.complaint(false))}
	}
	return s.checkRoom(need)
}

// checkRoom looks at the disk, remembers whether inserts have room there, and
// returns a *sink.Down if less than need bytes are free.
func (s *Store) checkRoom(need uint64) error {
	free, err := s.around.free(s.cfg.Dir)
	if err != nil {
		return &sink.Down{Err: fmt.Errorf("look at the disk: %w", err)}
	}
	s.full.Store(free < s.settings.Load().MinFreeBytes)
	if free < need {
		return &sink.Down{Err: errors.New(s.complaint(true))}
	}
	return nil
}

// complaint says what is wrong with the store and what to do; empty: nothing.
// noRoom says that room was wanting where the last look at the disk may not.
func (s *Store) complaint(noRoom bool) string {
	if line := s.broken.Load(); line != nil {
		return "Badger has failed and nothing more is written; see to the disk, then restart the appliance: " + *line
	}
	if noRoom || s.full.Load() {
		return fmt.Sprintf("less than %d MiB are free on the disk of %s; free some, and it goes on by itself", s.settings.Load().MinFreeBytes>>20, s.cfg.Dir)
	}
	return ""
}

// opened reports whether there is a tree.
func (s *Store) opened() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.db != nil
}

// Health implements sink.Store.
func (s *Store) Health() sink.Health {
	s.mu.RLock()
	closed := s.closed
	s.mu.RUnlock()
	detail := s.complaint(!s.opened())
	if closed {
		detail = errClosed.Error()
	}
	return sink.Health{Up: detail == "", Kind: "embedded", Detail: detail}
}

// Close implements sink.Store: it waits for the calls under way.
func (s *Store) Close() error {
	s.mu.Lock()
	already := s.closed
	s.closed = true
	s.mu.Unlock()
	s.users.Wait()
	s.stragglers.Wait()
	if already || s.db == nil {
		return nil
	}
	_ = s.sync.Close() // nothing was written through it
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close embedded store: %w", err)
	}
	return nil
}

// now is the time as it has passed since Open: a wall clock that jumps while
// the program runs must not make messages old.
func (s *Store) now() time.Time { return s.began.Add(time.Since(s.began)) }

// freeBytes is how much room a process without privileges has on dir's disk.
func freeBytes(dir string) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, err
	}
	return fs.Bavail * uint64(fs.Bsize), nil
}
