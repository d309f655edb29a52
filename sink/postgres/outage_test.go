package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"forebay/sink"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// TestOutages takes the server away in every way while several writers insert:
// they repeat what failed, and at the end every message is there once.
func TestOutages(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.StatementTimeout = 2 * time.Second }, sinktest.WithFsync())
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for k := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				batch := w.n.records(20)
				if k%2 == 0 { // half of the writers take the way with claims
					for i := range batch {
						batch[i].IdempotencyKey = fmt.Sprint("key of ", batch[i].Seq)
					}
				}
				results, _, err := w.insertUntilUp(ctx, batch)
				if err != nil {
					t.Errorf("insert: %v", err)
					return
				}
				for _, r := range results {
					if r.Outcome != sink.New && r.Outcome != sink.Known {
						t.Errorf("outcome %v", r.Outcome)
					}
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	grow := func(what string) {
		before := w.number(t, "SELECT count(*) FROM messages")
		eventually(t, "inserts after "+what, func() error {
			if now := w.number(t, "SELECT count(*) FROM messages"); now < before+100 {
				return fmt.Errorf("%d rows after %d", now, before)
			}
			return nil
		})
	}
	grow("the start")
	for _, outage := range []struct {
		name string
		do   func()
	}{
		{"fast stop", func() { w.pg.Stop(sinktest.Fast) }},
		{"kill", w.pg.Kill},
	} {
		outage.do()
		eventually(t, "health after "+outage.name, w.healthIs(false))
		w.pg.Start()
		eventually(t, "health after "+outage.name, w.healthIs(true))
		grow(outage.name)
	}
	w.pg.Stop(sinktest.Immediate) // too short to be noticed by who looks now and then
	w.pg.Start()
	grow("short outage")
	w.pg.Pause()
	eventually(t, "health in a pause", w.healthIs(false))
	w.pg.Resume()
	eventually(t, "health after a pause", w.healthIs(true))
	grow("pause")
	// Connections cut one by one, in the middle of whatever they do.
	for range 20 {
		w.pg.ExecSQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'forebay' ORDER BY random() LIMIT 2")
	}
	grow("cuts")
	close(stop)
	wg.Wait()
	w.checkAll(t)
	if claims := w.number(t, "SELECT count(*) FROM claims c JOIN messages m ON m.id = c.id AND m.status = 'stored'"); claims != w.number(t, "SELECT count(*) FROM messages WHERE idempotency_key IS NOT NULL") {
		t.Errorf("%d claims, not one for each keyed message", claims)
	}
}

// TestProperty09_OperationsWaitForAConnection: while all connections are in use,
// any operations in any number wait in line, and none fails.
func TestProperty09_OperationsWaitForAConnection(t *testing.T) {
	pg := sinktest.StartPostgres(t)
	stores := make(map[int]*Store)
	for size := 1; size <= 3; size++ {
		stores[size] = newStore(t, pg.URL(), &journal{}, func(c *Config) { c.MaxPoolSize = size })
		sinktest.Start(t, stores[size])
	}
	n := &node{number: 1, at: time.Now()}
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 3).Draw(t, "pool size")
		s := stores[size]
		kinds := rapid.SliceOfN(rapid.IntRange(0, 4), 1, 24).Draw(t, "operations")
		ctx := context.Background()
		var held []interface{ Release() }
		for range size {
			conn, err := s.pool.Load().Acquire(ctx)
			if err != nil {
				t.Fatalf("acquire: %v", err)
			}
			held = append(held, conn)
		}
		done := make(chan error, len(kinds))
		for _, kind := range kinds {
			batch := n.records(3)
			go func() { done <- operate(ctx, s, kind, batch) }() // joined by reading done
		}
		// Nobody gets a connection: who may wait only so long waits until then, and
		// of the others nobody can have ended, well or badly.
		short, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
		err := operate(short, s, kinds[0], n.records(3))
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("an operation with a deadline ended with %v", err)
		}
		select {
		case err := <-done:
			t.Fatalf("an operation ended without a connection: %v", err)
		default:
		}
		for _, conn := range held {
			conn.Release()
		}
		for range kinds {
			if err := <-done; err != nil {
				t.Fatalf("an operation that waited failed: %v", err)
			}
		}
	})
}

func operate(ctx context.Context, s *Store, kind int, batch []message.Record) (err error) {
	switch kind {
	case 0, 1:
		if kind == 1 {
			batch[0].IdempotencyKey = batch[0].ID.String()
		}
		_, err = s.Insert(ctx, batch)
	case 2:
		if _, err = s.Get(ctx, "", batch[0].ID); errors.Is(err, sink.ErrNotFound) {
			err = nil
		}
	case 3:
		_, err = s.List(ctx, message.Query{Account: "account", Limit: 1})
	case 4:
		_, err = s.Count(ctx, 1, 1, 10)
	}
	return err
}

// TestServerFull: the server allows fewer connections than the pool may have.
// Who comes too late waits for one of those that there are.
func TestServerFull(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxPoolSize, c.MinPoolSize = 40, 0 }, sinktest.WithMaxConnections(5))
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			for range 5 {
				if _, err := w.Insert(context.Background(), w.n.records(20)); err != nil {
					t.Errorf("insert: %v", err)
				}
			}
		})
	}
	wg.Wait()
	w.checkAll(t)
	if log := w.log.String(); !strings.Contains(log, "max_connections") {
		t.Errorf("the operator is not told to raise max_connections:\n%s", log)
	}
}

// TestServerTaken: others have all connections of the server before the store
// comes. It is down, says why, and comes up when there is room.
func TestServerTaken(t *testing.T) {
	pg := sinktest.StartPostgres(t, sinktest.WithMaxConnections(2))
	ctx := context.Background()
	var others []*pgx.Conn
	for range 2 {
		eventually(t, "connect", func() error { // who asked whether the server is up may just be leaving
			conn, err := pgx.Connect(ctx, pg.URL())
			if err == nil {
				others = append(others, conn)
			}
			return err
		})
	}
	w := downWorld(t, pg, pg.URL(), nil)
	run(t, w.Store)
	eventually(t, "health", func() error {
		if h := w.Health(); h.Up || !strings.Contains(h.Detail, "53300") {
			return fmt.Errorf("health %+v", h)
		}
		return nil
	})
	var down *sink.Down
	if _, err := w.Insert(ctx, w.n.records(1)); !errors.As(err, &down) {
		t.Errorf("insert: error %v, want down", err)
	}
	w.n.seq = 0
	for _, conn := range others {
		conn.Close(ctx)
	}
	eventually(t, "health", w.healthIs(true))
	if _, _, err := w.insertUntilUp(ctx, w.n.records(10)); err != nil { // the last of the others may just be leaving
		t.Errorf("insert: %v", err)
	}
	w.checkAll(t)
}

// run runs a store that need not come up, until the test ends.
func run(t *testing.T, s *Store) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, s.Close()); err != nil {
			t.Errorf("end store: %v", err)
		}
	})
}

// TestReadOnly: the primary becomes a standby, and a primary again.
func TestReadOnly(t *testing.T) {
	w := newWorld(t, nil)
	w.insert(t, w.n.records(5)...)
	w.pg.ExecSQL("ALTER SYSTEM SET default_transaction_read_only = on")
	w.pg.ExecSQL("SELECT pg_reload_conf()")
	eventually(t, "health", func() error {
		if h := w.Health(); h.Up || !strings.Contains(h.Detail, "read-only") {
			return fmt.Errorf("health %+v", h)
		}
		return nil
	})
	batch := w.n.records(5)
	var down *sink.Down
	if _, err := w.Insert(context.Background(), batch); !errors.As(err, &down) {
		t.Errorf("insert: error %v, want down", err)
	}
	if w.number(t, "SELECT count(*) FROM set_aside") != 0 {
		t.Errorf("rows were set aside because the server is read-only")
	}
	w.pg.ExecSQL("ALTER SYSTEM RESET default_transaction_read_only")
	w.pg.ExecSQL("SELECT pg_reload_conf()")
	eventually(t, "health", w.healthIs(true))
	for _, r := range w.insert(t, batch...) {
		if r.Outcome != sink.New {
			t.Errorf("outcome %v, want new", r.Outcome)
		}
	}
	w.checkAll(t)
}

// testLocked: somebody holds a lock on the table. The server ends the statement
// in time, nothing is set aside, and afterwards the same batch goes in.
func testLocked(t *testing.T, pg *sinktest.Postgres) {
	w := newWorldOn(t, pg, func(c *Config) { c.StatementTimeout = 200 * time.Millisecond })
	ctx := context.Background()
	tx, err := connect(t, w.url).Begin(ctx)
	if err == nil {
		_, err = tx.Exec(ctx, "LOCK TABLE messages")
	}
	if err != nil {
		t.Fatalf("lock: %v", err)
	}
	batch := w.n.records(5)
	var down *sink.Down
	if _, err := w.Insert(ctx, batch); !errors.As(err, &down) {
		t.Errorf("insert: error %v, want down", err)
	}
	if h := w.Health(); !h.Up {
		t.Errorf("health %+v: a statement that is too slow is no outage", h)
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatalf("unlock: %v", err)
	}
	for _, r := range w.insert(t, batch...) {
		if r.Outcome != sink.New {
			t.Errorf("outcome %v, want new", r.Outcome)
		}
	}
	w.checkAll(t)
}
