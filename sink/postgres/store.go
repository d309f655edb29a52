package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"forebay/sink"
)

// Store keeps messages in PostgreSQL. It implements sink.Store.
type Store struct {
	cfg     Config
	logger  *slog.Logger
	metrics *metrics

	settings  atomic.Pointer[settings]     // those of cfg, or of Configure since
	swapping  sync.Mutex                   // one Configure, or the opening in Run, at a time; held over no call
	pool      atomic.Pointer[pgxpool.Pool] // set by Run, replaced by Configure
	retired   sync.WaitGroup               // pools that were replaced and still have connections out
	plain     atomic.Bool                  // a pooler in between does not take our limits
	ready     atomic.Bool                  // connected and migrated
	health    atomic.Pointer[sink.Health]
	succeeded atomic.Int64  // when a call last succeeded, Unix ns
	kick      chan struct{} // asks the watch to look now

	copySQL   string
	insertSQL string
	updateSQL string
	careful   atomic.Int32 // batches that are still to go without COPY

	tracer     *tracer
	partitions partitions
	jobs       sync.Pool // of *job
	complaints complaints
	steps      []migration

	watchEvery, watchWithin time.Duration // shorter in tests
}

// errNotReady is what calls get before Run has connected.
var errNotReady = errors.New("the database has not been reached yet")

// New checks the configuration. It does not connect: Run does.
func New(cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure PostgreSQL: %w", err)
	}
	cfg = cfg.withDefaults()
	steps, err := readMigrations(migrationFiles)
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	s := &Store{cfg: cfg, logger: cfg.Logger, kick: make(chan struct{}, 1), steps: steps,
		watchEvery: watchEvery, watchWithin: watchWithin, copySQL: copySQL(), insertSQL: insertSQL(), updateSQL: updateSQL()}
	s.metrics = newMetrics(cfg.Registerer, s.pool.Load)
	s.jobs.New = func() any { return newJob() }
	s.complaints.logger = cfg.Logger
	s.tracer = &tracer{metrics: s.metrics, logger: cfg.Logger}
	n, err := s.settingsOf(cfg)
	if err != nil {
		return nil, fmt.Errorf("configure PostgreSQL: %w", err)
	}
	s.settings.Store(n)
	s.tracer.slow.Store(int64(cfg.SlowQuery))
	s.health.Store(&sink.Health{Kind: kind, Detail: errNotReady.Error()})
	return s, nil
}

const kind = "postgres"

// Health implements sink.Store.
func (s *Store) Health() sink.Health { return *s.health.Load() }

// Close closes all connections, when they have come back. Run must have returned.
func (s *Store) Close() error {
	s.ready.Store(false)
	if pool := s.pool.Load(); pool != nil {
		pool.Close()
	}
	s.retired.Wait()
	return nil
}

// attempts bounds how often a call is repeated at once, inside; after that the
// caller repeats it, with more patience.
const attempts = 4

// do runs a call on a connection and gives its error the form that sink.Store
// promises; a row's fault comes as a *refusal. op names the call in errors.
func (s *Store) do(ctx context.Context, op string, call func(context.Context, *pgx.Conn) error) error {
	return s.doWithin(ctx, op, s.cfg.StatementTimeout+5*time.Second, call)
}

// doWithin is do for a call that may take longer than a statement should.
func (s *Store) doWithin(ctx context.Context, op string, limit time.Duration, call func(context.Context, *pgx.Conn) error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", op, context.Cause(ctx))
	}
	if !s.ready.Load() {
		return fmt.Errorf("%s: %w", op, &sink.Down{Err: errNotReady})
	}
	var err error
	for range attempts {
		if err = s.try(ctx, limit, call); err == nil {
			s.succeeded.Store(time.Now().UnixNano())
			return nil
		}
		if f := classify(err); f == noPartition {
			s.partitions.forget() // somebody has dropped one
		} else if !repeatAtOnce(err) {
			break
		}
	}
	return s.judge(ctx, op, err)
}

// answerError marks an error that says what the database holds, not that it fails.
type answerError struct{ err error }

func (e *answerError) Error() string { return e.err.Error() }
func (e *answerError) Unwrap() error { return e.err }

// judge translates the error of a call.
func (s *Store) judge(ctx context.Context, op string, err error) error {
	var answer *answerError
	switch {
	case errors.As(err, &answer):
		return fmt.Errorf("%s: %w", op, answer.err)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", op, context.Cause(ctx))
	}
	switch classify(err) {
	case rowFault:
		return &refusal{err}
	case operator:
		s.complaints.report(err)
	}
	select {
	case s.kick <- struct{}{}:
	default: // it will look anyway
	}
	return fmt.Errorf("%s: %w", op, &sink.Down{Err: errors.New(describe(err))})
}

// try runs a call once. The server limits a statement by itself; the context's
// later end is for a server that does not even answer.
func (s *Store) try(ctx context.Context, limit time.Duration, call func(context.Context, *pgx.Conn) error) error {
	conn, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = call(ctx, conn.Conn())
	if code(err) == "25006" {
		s.reset() // the primary has moved: connect anew, maybe to another host
	}
	return err
}

// acquire takes a connection, and waits in line while all are in use: also when
// the pool might grow but the server, at its own limit, lets it not.
func (s *Store) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	for {
		pool := s.pool.Load()
		conn, err := pool.Acquire(ctx)
		if err != nil && s.pool.Load() != pool {
			continue // it was replaced meanwhile
		}
		if err == nil || code(err) != "53300" || pool.Stat().TotalConns() == 0 {
			return conn, err
		}
		s.complaints.report(err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(rand.N(50 * time.Millisecond)): // one of ours may be free by then
		}
	}
}

// reset closes all connections: those in use when they come back.
func (s *Store) reset() {
	if pool := s.pool.Load(); pool != nil {
		pool.Reset()
	}
}

// complaints logs what an operator has to see: at once what is new, and the
// same again only once a while.
type complaints struct {
	logger *slog.Logger

	mu   sync.Mutex // guards what follows
	text string
	at   time.Time
}

const complainEvery = 30 * time.Second

func (c *complaints) report(err error) {
	text := describe(err)
	c.mu.Lock()
	again := text == c.text && time.Since(c.at) < complainEvery
	if !again {
		c.text, c.at = text, time.Now()
	}
	c.mu.Unlock()
	if again {
		return
	}
	level := slog.LevelWarn
	if classify(err) == operator {
		level = slog.LevelError
	}
	c.logger.Log(context.Background(), level, "database fails", "error", text, "fault", classify(err).String(), "remedy", remedy(err))
}
