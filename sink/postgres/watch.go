package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"forebay/sink"
)

const (
	watchEvery  = time.Second     // between two looks at the database
	watchWithin = 2 * time.Second // for an answer
	watchDials  = 5 * time.Second // for a new connection to look through: a hung server is found soon, whatever the pool's patience
	downAfter   = 2               // looks in a row that fail
	upAfter     = 2               // looks in a row that succeed
	forgive     = 3               // looks in a row that may fail while calls get through

	connectDelay    = 100 * time.Millisecond // the first wait between attempts to connect
	connectMaxDelay = 5 * time.Second
	operatorDelay   = 15 * time.Second // for what does not go away by itself
)

// Run implements sink.Store: it connects and migrates, for as long as that takes,
// then watches the database, makes partitions ahead and drops old ones.
func (s *Store) Run(ctx context.Context) error {
	w := &watch{store: s}
	defer w.close()
	err := s.prepare(ctx, w)
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = s.openPool(ctx)
	}
	if err != nil {
		s.setHealth(false, err.Error())
		return fmt.Errorf("run PostgreSQL store: %w", err)
	}
	s.ready.Store(true)
	s.setHealth(true, "")
	s.logger.Info("database is up")
	var wg sync.WaitGroup
	wg.Go(func() { w.run(ctx) })
	wg.Go(func() { s.maintain(ctx) })
	wg.Wait()
	return nil
}

// prepare connects and migrates. Only what no repeating can cure is an error.
func (s *Store) prepare(ctx context.Context, w *watch) error {
	for n := 0; ; n++ {
		conn, err := w.connect(ctx)
		if err == nil {
			var applied int
			if applied, err = migrate(ctx, conn, s.steps); applied > 0 {
				s.logger.Info("database migrated", "steps", applied, "schema", len(s.steps))
			}
			if err == nil {
				err = s.partitions.ensure(ctx, conn, ahead(time.Now()))
			}
			if err == nil {
				return nil
			}
			w.close()
		}
		for _, fatal := range []error{ErrSchemaNewer, ErrSchemaChanged, ErrServerTooOld, ErrEncoding} {
			if errors.Is(err, fatal) {
				return err
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		s.learn(err)
		s.complaints.report(err)
		s.setHealth(false, describe(err))
		ceiling := min(connectMaxDelay, connectDelay<<min(n, 10))
		if classify(err) == operator {
			ceiling = min(operatorDelay, connectDelay<<min(n, 10))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rand.N(ceiling)):
		}
	}
}

// learn remembers that a pooler does not know our session's limits.
func (s *Store) learn(err error) {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "08P01" && strings.Contains(pgErr.Message, "startup parameter") && !s.plain.Swap(true) {
		s.logger.Warn("a pooler in between does not take the limits of a session: set statement_timeout for the role on the server", "error", pgErr.Message)
	}
}

func (s *Store) setHealth(up bool, detail string) {
	s.health.Store(&sink.Health{Up: up, Kind: kind, Detail: detail})
}

// watch looks at the database through a connection of its own, which a busy
// pool cannot keep waiting.
type watch struct {
	store     *Store
	conn      *pgx.Conn
	good, bad int // looks in a row
	forgiven  int // looks in a row that failed and do not count
}

func (w *watch) run(ctx context.Context) {
	tick := time.NewTicker(w.store.watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-w.store.kick:
		}
		began := time.Now()
		err := w.look(ctx)
		if ctx.Err() != nil {
			return
		}
		w.weigh(err, w.store.succeeded.Load() > began.UnixNano())
	}
}

// weigh forgives a look that failed while a call got through: the watch alone was
// unlucky, on a busy machine or with a connection that was cut. But not for ever:
// one connection that still answers is no database.
func (w *watch) weigh(err error, through bool) {
	if err == nil || !through {
		w.forgiven = 0
	} else if w.forgiven < forgive {
		w.forgiven++
		return
	}
	w.step(err)
}

// step takes in one look. One failure is no fault yet, and one success no cure.
func (w *watch) step(err error) {
	s := w.store
	up := s.Health().Up
	if err == nil {
		w.good, w.bad = w.good+1, 0
		if !up && w.good >= upAfter {
			s.reset() // what the pool has left is from before
			s.setHealth(true, "")
			s.logger.Info("database is up again")
		}
		return
	}
	w.good, w.bad = 0, w.bad+1
	switch {
	case up && w.bad >= downAfter:
		s.setHealth(false, describe(err))
		s.logger.Warn("database is down", "error", describe(err), "remedy", remedy(err))
	case !up:
		s.setHealth(false, describe(err))
	}
}

var (
	errReadOnly = &pgconn.PgError{Severity: "ERROR", Code: "25006", Message: "the database is read-only"}
	errNoInsert = &pgconn.PgError{Severity: "ERROR", Code: "42501", Message: "permission denied for table messages"}
)

// look asks the database whether it takes messages: a server that answers but
// has lost the table, or the right to write to it, is down for us.
func (w *watch) look(ctx context.Context) error {
	dialing, connected := context.WithTimeout(ctx, watchDials)
	defer connected()
	conn, err := w.connect(dialing)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, w.store.watchWithin)
	defer cancel()
	var readOnly, mayInsert bool
	err = conn.QueryRow(ctx, "SELECT current_setting('transaction_read_only') = 'on', has_table_privilege('messages', 'INSERT')").Scan(&readOnly, &mayInsert)
	switch {
	case err == nil && readOnly:
		err = errReadOnly // connect anew: the primary may be another host by now
	case err == nil && !mayInsert:
		err = errNoInsert
	}
	if err != nil {
		w.close()
	}
	return err
}

// connect returns the watch's connection and opens it if there is none.
func (w *watch) connect(ctx context.Context) (*pgx.Conn, error) {
	if w.conn != nil {
		return w.conn, nil
	}
	cc := w.store.settings.Load().pool.ConnConfig.Copy()
	if w.store.plain.Load() {
		withoutLimits(cc)
	}
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return nil, err
	}
	registerTypes(conn.TypeMap())
	w.conn = conn
	return conn, nil
}

// close closes the connection, with a moment for a goodbye.
func (w *watch) close() {
	if w.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	w.conn.Close(ctx) // an error changes nothing: it is gone
	w.conn = nil
}
