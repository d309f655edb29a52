package wal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/prometheus/client_golang/prometheus"

	"forebay/wal/witness"
)

// Errors that callers tell apart.
var (
	ErrClosed      = errors.New("the log is closed")
	ErrFailed      = errors.New("the log has failed and takes nothing more")
	ErrFull        = errors.New("the log's disk limit is reached")
	ErrStalled     = errors.New("the log's disk does not answer, and nothing is taken until it does")
	ErrUnanswered  = errors.New("the log's disk did not answer in time: whether the message was taken is not known")
	ErrTooLarge    = errors.New("the message does not fit one record of the log")
	ErrNotFound    = errors.New("the log does not have the message")
	ErrInProgress  = errors.New("a message with this idempotency key is being written")
	ErrKeyMismatch = errors.New("the idempotency key belongs to a message with another payload")
)

// Config says how a Log works. Zero fields take the defaults.
type Config struct {
	Dir  string // required; made if it is not there
	Node uint16 // required, 1–65535: part of every ID

	Capacity    int   // records kept in memory for the pipeline; default 50,000
	Threshold   int   // backlog from which backpressure is on; default 80 % of Capacity
	WindowBytes int64 // and at most this many bytes of them; default 64 MiB

	MaxDiskBytes int64 // appends stop at this size on disk; default 10 GiB
	MinFreeBytes int64 // and when the file system has less free; default 1 GiB, at least what Badger needs
	BallastBytes int64 // given up to open on a full disk; default 16 memtables, negative: none
	MemTable     int64 // bytes of one memtable; default 8 MiB. A record may have a seventh

	IdempotencyTTL time.Duration // default 24 h
	CommitLimit    time.Duration // how long the disk may keep a commit waiting before appends are answered without it; default 10 s
	Scrub          time.Duration // longest time between two scrubs; default 10 min

	Logger     *slog.Logger          // default: discards
	Registerer prometheus.Registerer // default: no metrics

	// Fatal is called once, from a goroutine of the log, when a write or a
	// sync has failed or records are gone. The process must end: see the
	// package comment. It must not wait for the log: Close would wait for it.
	// Default: nothing; every call returns ErrFailed.
	Fatal func(error)

	commit func(*badger.Txn) error // tests make it fail
	now    func() time.Time        // tests move it
	often  time.Duration           // how often space is reclaimed; default reclaimEvery
	unsafe bool                    // the control run: no sync, so that a power cut must lose messages
}

func (c Config) withDefaults() Config {
	setDefault(&c.Capacity, 50_000)
	setDefault(&c.Threshold, max(c.Capacity*8/10, 1))
	setDefault(&c.WindowBytes, 64<<20)
	setDefault(&c.MaxDiskBytes, 10<<30)
	setDefault(&c.MinFreeBytes, 1<<30)
	setDefault(&c.MemTable, 8<<20)
	setDefault(&c.BallastBytes, reserve(c.MemTable))
	setDefault(&c.IdempotencyTTL, 24*time.Hour)
	setDefault(&c.CommitLimit, 10*time.Second)
	setDefault(&c.Scrub, 10*time.Minute)
	c.MinFreeBytes = max(c.MinFreeBytes, reserve(c.MemTable))
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.commit == nil {
		c.commit = (*badger.Txn).Commit
	}
	setDefault(&c.often, reclaimEvery)
	if c.now == nil {
		c.now = time.Now
	}
	return c
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// reserve is the space that Badger may need before anything can be deleted: four
// memtables with their files, a value log file, and a compaction of the five
// tables that start one with as much again of the level below.
func reserve(memTable int64) int64 { return 16 * memTable }

// MaxRecord is the largest encoded message that a log with these memtables
// takes, in bytes.
func MaxRecord(memTable int64) int {
	return int(min(maxTxnShare(memTable), 1<<20)) - recordHead - chunkSeqs/8 - 4096
}

// MaxState is the largest encoded state that Progress and Park take, in bytes:
// record and state must fit one transaction together.
func MaxState(memTable int64) int { return int(min(maxTxnShare(memTable)/16, 1<<16)) }

// Validate names what is wrong with the configuration.
func (c Config) Validate() error {
	c = c.withDefaults()
	switch {
	case c.Dir == "":
		return errors.New("log: no directory")
	case c.Node == 0:
		return errors.New("log: the node number must be 1 to 65535")
	case c.Threshold < 0 || c.Threshold > c.Capacity:
		return errors.New("log: the threshold must be within the capacity")
	case c.Capacity < 0 || c.WindowBytes < 0 || c.MaxDiskBytes < 0 || c.MinFreeBytes < 0:
		return errors.New("log: a size is negative")
	case c.CommitLimit < 0:
		return errors.New("log: the limit of a commit is negative")
	case c.MemTable < 1<<20 || c.MemTable > 1<<30:
		return errors.New("log: a memtable must have 1 MiB to 1 GiB")
	}
	return nil
}

// Log is the durable buffer. All methods are safe for concurrent use.
type Log struct {
	cfg     Config
	limits  atomic.Pointer[Limits] // those of cfg, or of Configure since
	metrics *metrics
	watch   *watch
	sync    *witness.Witness
	clock   clock

	// use guards the database against its own Close: Badger unmaps its files
	// under a reader. Every user holds it for reading; Close takes it.
	use    sync.RWMutex
	db     *badger.DB // nil once closed
	inbox  inbox
	writer writer // owned by the writer's goroutine
	stall  stall
	window window
	keys   keysInFlight
	gaps   []Gap // never written after start
	marks  marks

	requests sync.Pool // of *request, for Append

	progress atomic.Bool // there is, or may be, a p key
	full     atomic.Bool // appends are refused: disk
	spill    atomic.Bool // new records do not enter the window: pressure
	disk     atomic.Int64
	free     atomic.Int64
	written  atomic.Int64  // bytes committed since disk and free were measured
	checks   atomic.Uint64 // self-checks begun
	failure  atomic.Pointer[error]
	stop     context.CancelCauseFunc
	done     sync.WaitGroup

	closing  sync.Once
	closeErr error
}

// clock is the log's time: wall time at Open, advanced by the monotonic clock.
// A step of the wall clock while the log is open expires no key too early.
type clock struct {
	base  uint64 // Unix ms
	since time.Time
	time  func() time.Time
}

func (c clock) now() uint64 { return c.base + uint64(max(c.time().Sub(c.since).Milliseconds(), 0)) }

// start takes what Open recovered and starts the log's goroutines.
func start(cfg Config, w *watch, db *badger.DB, sync *witness.Witness, rec *recovered) *Log {
	l := &Log{cfg: cfg, db: db, watch: w, sync: sync}
	limits := cfg.limits()
	l.limits.Store(&limits)
	now := cfg.now()
	l.clock = clock{base: max(uint64(now.UnixMilli()), rec.head.id.Millis()), since: now, time: cfg.now}
	l.inbox.wake = make(chan struct{}, 1)
	l.keys.held = map[string]struct{}{}
	l.requests.New = func() any { return &request{done: make(chan struct{}, 1), ops: make([]op, 0, 1)} }
	l.progress.Store(rec.progress)
	l.gaps = rec.gaps
	l.stall.init(cfg)
	l.window.init(cfg, rec)
	l.writer.init(cfg, rec)
	l.metrics = newMetrics(cfg.Registerer, l)
	ctx, cancel := context.WithCancelCause(context.Background())
	l.stop = cancel
	l.done.Go(func() { l.write(ctx) })
	l.done.Go(func() { l.upkeep(ctx) })
	l.done.Go(func() { l.scrubber(ctx) })
	l.done.Go(func() { l.reclaimLoop(ctx) })
	l.done.Go(func() { l.unparkDue(ctx) })
	return l
}

// acquire gives the database to a reader, who must call release.
func (l *Log) acquire() (*badger.DB, error) {
	l.use.RLock()
	if l.db == nil {
		l.use.RUnlock()
		return nil, ErrClosed
	}
	return l.db, nil
}

func (l *Log) release() { l.use.RUnlock() }

// fail ends the log: nothing is acknowledged any more. It is called before any
// answer that could be wrong, and calls Fatal once.
func (l *Log) fail(err error) {
	if !l.failure.CompareAndSwap(nil, &err) {
		return
	}
	l.cfg.Logger.Error("the log has failed; nothing more is accepted, the process must restart and verify it", "err", err)
	if l.cfg.Fatal != nil {
		l.cfg.Fatal(fmt.Errorf("%w: %w", ErrFailed, err))
	}
}

// Err returns why the log has failed, or nil.
func (l *Log) Err() error {
	if p := l.failure.Load(); p != nil {
		return fmt.Errorf("%w: %w", ErrFailed, *p)
	}
	return nil
}

// Spill makes new records stay on disk only, as if the window were full, until
// it is called with false. Pressure asks for it. Meanwhile what can wait does, so
// that messages have the disk and the processor: space is given back only where
// it is short, and the live keys are counted only where that is long due.
func (l *Log) Spill(on bool) { l.spill.Store(on) }

// Full reports whether appends are refused for want of disk space.
func (l *Log) Full() bool { return l.full.Load() }

// Close ends the log: what was appended before is committed and answered, later
// calls return ErrClosed. It waits for every reader, a Backup among them, and
// every goroutine. Closing twice is harmless.
func (l *Log) Close() error {
	l.closing.Do(func() { l.closeErr = l.close() })
	return l.closeErr
}

// failedClose is how long Badger may try to write what a failed disk refuses:
// it would do so for ever.
const failedClose = 5 * time.Second

func (l *Log) close() error {
	l.inbox.close()
	l.window.close()
	l.stop(ErrClosed)
	l.done.Wait()
	l.use.Lock()
	db := l.db
	l.db = nil
	l.use.Unlock()
	l.metrics.unregister()
	mark := l.writer.tide()
	mark.Lowest = l.window.lowest(mark.ID)
	_ = l.sync.Close() // nothing was written through it
	err := l.closeDatabase(db)
	if mark.Open = err == errGivenUp; mark.Open {
		err = l.watch.err()
	}
	if failed := l.Err(); failed != nil {
		// After a failed write nothing may be synced and called good. Badger
		// has no way to let go without flushing; that it succeeds changes no
		// verdict. The mark is of what was acknowledged before.
		return errors.Join(failed, writeTide(l.cfg.Dir, mark))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("close the log's database: %w", err), writeTide(l.cfg.Dir, mark))
	}
	return writeTide(l.cfg.Dir, mark)
}

var errGivenUp = errors.New("the database does not close")

// closeDatabase closes Badger. Where the disk refuses its last flush, Badger
// tries again for ever: its goroutine is then left to the end of the process,
// which a failed log is near, with errGivenUp.
func (l *Log) closeDatabase(db *badger.DB) error {
	closed := make(chan error, 1)
	go func() { closed <- db.Close() }()
	var giveUp <-chan time.Time
	if l.watch.err() != nil {
		giveUp = time.After(failedClose)
	}
	for {
		select {
		case err := <-closed:
			return errors.Join(err, l.watch.err())
		case <-l.watch.kick: // Badger complains; upkeep, which listened, has ended
			if l.watch.err() != nil && giveUp == nil {
				giveUp = time.After(failedClose)
			}
		case <-giveUp:
			return errGivenUp
		}
	}
}

// newRandom is the source of the IDs' random bits.
func newRandom() *rand.ChaCha8 {
	var seed [32]byte
	fillRandom(seed[:])
	return rand.NewChaCha8(seed)
}

// MemTable is the size of the log's memtables in bytes: Config's, or what it had
// before if messages wait that need it.
func (l *Log) MemTable() int64 { return l.cfg.MemTable }
