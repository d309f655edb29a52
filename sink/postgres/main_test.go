package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"forebay/sink"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that must happen.
const patience = 60 * time.Second

// journal keeps what was logged.
type journal struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// world is a store on a private server, and what a test watches it by.
type world struct {
	*Store
	pg  *sinktest.Postgres
	url string // of the store's database
	log *journal
	n   node
}

// testConfig is a configuration for tests: small, and quick to give up.
func testConfig(url string) Config {
	return Config{URL: url, MaxPoolSize: 8, MinPoolSize: 1, ConnectionTimeout: 2 * time.Second}
}

// newWorld starts a server and a store on it, which is up when it returns.
func newWorld(t *testing.T, change func(*Config), options ...sinktest.PostgresOption) *world {
	t.Helper()
	pg := sinktest.StartPostgres(t, options...)
	w := downWorld(t, pg, pg.URL(), change)
	sinktest.Start(t, w.Store)
	return w
}

// newWorldOn is the same with a new database on a server that others use too.
func newWorldOn(t *testing.T, pg *sinktest.Postgres, change func(*Config)) *world {
	t.Helper()
	w := downWorld(t, pg, pg.NewDatabase(), change)
	sinktest.Start(t, w.Store)
	return w
}

// downWorld is a world whose store does not run yet.
func downWorld(t *testing.T, pg *sinktest.Postgres, url string, change func(*Config)) *world {
	t.Helper()
	w := &world{pg: pg, url: url, log: &journal{}, n: node{number: 7, at: time.Now()}}
	w.Store = newStore(t, url, w.log, change)
	return w
}

func newStore(t *testing.T, url string, log *journal, change func(*Config)) *Store {
	t.Helper()
	cfg := testConfig(url)
	cfg.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatalf("new store: %v", err)
	}
	s.watchEvery, s.watchWithin = 50*time.Millisecond, 500*time.Millisecond
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the store:\n%s", log)
		}
	})
	return s
}

// node issues records as an appliance does.
type node struct {
	mu     sync.Mutex // guards seq
	number uint16
	at     time.Time
	seq    uint64
}

func (n *node) record(body string) message.Record {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seq++
	ms := uint64(n.at.UnixMilli()) + n.seq/4096
	return message.Record{ID: message.NewID(ms, uint16(n.seq%4096), n.number, message.Normal, n.seq*2654435761), Seq: n.seq,
		Message: message.Message{Account: "account", Channel: message.ChannelStore, Priority: message.Normal, Body: body},
		State:   message.State{Status: message.Accepted}}
}

func (n *node) records(count int) []message.Record {
	batch := make([]message.Record, count)
	for i := range batch {
		batch[i] = n.record(fmt.Sprint("body ", i))
	}
	return batch
}

// insert inserts a batch that must succeed at once.
func (w *world) insert(t *testing.T, batch ...message.Record) []sink.Result {
	t.Helper()
	results, err := w.Insert(context.Background(), batch)
	if err != nil {
		t.Fatalf("insert: %v", err)
	}
	return results
}

// insertUntilUp repeats an insert for as long as the store is down.
func (w *world) insertUntilUp(ctx context.Context, batch []message.Record) (results []sink.Result, failures int, err error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		results, err = w.Insert(ctx, batch)
		var down *sink.Down
		if err == nil || !errors.As(err, &down) {
			return results, failures, err
		}
		failures++
		select {
		case <-ctx.Done():
			return nil, failures, ctx.Err()
		case <-tick.C:
		}
	}
}

// checkAll holds the store to having each of the node's messages exactly once.
func (w *world) checkAll(t *testing.T) {
	t.Helper()
	var tally sink.Tally
	eventually(t, "count", func() (err error) {
		tally, err = w.Count(context.Background(), w.n.number, 1, w.n.seq)
		return err
	})
	if want := (sink.Tally{Stored: w.n.seq, Final: w.n.seq}); tally != want {
		t.Errorf("tally = %+v, want %+v", tally, want)
	}
	if rows := w.number(t, "SELECT count(*) FROM messages"); rows != int(w.n.seq) {
		t.Errorf("%d rows, want %d", rows, w.n.seq)
	}
}

// number asks the database itself.
func (w *world) number(t *testing.T, sql string, args ...any) (n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// A superuser gets in when the server is full.
	conn, err := pgx.Connect(ctx, strings.Replace(w.url, "//forebay@", "//postgres@", 1))
	if err == nil {
		defer conn.Close(ctx)
		err = conn.QueryRow(ctx, sql, args...).Scan(&n)
	}
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// exec changes the database behind the store's back.
func (w *world) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := connect(t, w.url).Exec(context.Background(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// connect opens a connection that is closed when the test ends.
func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// eventually repeats a check until it succeeds.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still %v", what, err)
		}
		<-tick.C
	}
}

// healthIs is a check for eventually.
func (w *world) healthIs(up bool) func() error {
	return func() error {
		if h := w.Health(); h.Up != up {
			return fmt.Errorf("health %+v", h)
		}
		return nil
	}
}
