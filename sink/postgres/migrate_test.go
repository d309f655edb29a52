package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"

	"forebay/sink/sinktest"
)

// testMigrateAtOnce: of several appliances that find an empty database each
// step is applied by one.
func testMigrateAtOnce(t *testing.T, pg *sinktest.Postgres) {
	url := pg.NewDatabase()
	steps, err := readMigrations(fstest.MapFS{
		"migrations/0001_one.sql": {Data: []byte("CREATE TABLE one (n int); SELECT pg_sleep(0.05)")},
		"migrations/0002_two.sql": {Data: []byte("CREATE TABLE two (n int); INSERT INTO one VALUES (2)")},
	})
	if err != nil {
		t.Fatalf("read migrations: %v", err)
	}
	const appliances = 6
	var mu sync.Mutex
	total := 0
	var wg sync.WaitGroup
	for range appliances {
		conn := connect(t, url)
		wg.Go(func() {
			applied, err := migrate(context.Background(), conn, steps)
			if err != nil {
				t.Errorf("migrate: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			total += applied
		})
	}
	wg.Wait()
	if total != len(steps) {
		t.Errorf("%d steps applied by all, want %d", total, len(steps))
	}

	// A step that fails leaves nothing, and those before it.
	conn := connect(t, url)
	broken := append(steps, migration{version: 3, name: "three", sql: "CREATE TABLE three (n int); SELECT 1/0", checksum: "c"})
	if applied, err := migrate(context.Background(), conn, broken); err == nil || applied != 0 {
		t.Errorf("a broken migration: %d applied, error %v", applied, err)
	}
	var n int
	if err := conn.QueryRow(context.Background(), "SELECT count(*) FROM pg_class WHERE relname = 'three'").Scan(&n); err != nil || n != 0 {
		t.Errorf("a broken migration left %d tables, error %v", n, err)
	}
}

func TestReadMigrations(t *testing.T) {
	if steps, err := readMigrations(migrationFiles); err != nil || len(steps) == 0 {
		t.Errorf("our own: %d steps, error %v", len(steps), err)
	}
	for _, names := range [][]string{{"0002_two"}, {"0001_one", "0003_three"}, {"one"}, {"0001_one", "0001_uno"}} {
		files := fstest.MapFS{}
		for _, name := range names {
			files["migrations/"+name+".sql"] = &fstest.MapFile{}
		}
		if _, err := readMigrations(files); err == nil {
			t.Errorf("migrations %v are accepted", names)
		}
	}
}

// testUnfit: what no repeating cures ends Run, with what to do.
func testUnfit(t *testing.T, pg *sinktest.Postgres) {
	pg.ExecSQL("CREATE DATABASE latin OWNER forebay ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
	migrated := func() (string, *pgx.Conn) {
		url := pg.NewDatabase()
		conn := connect(t, url)
		steps, err := readMigrations(migrationFiles)
		if err == nil {
			_, err = migrate(context.Background(), conn, steps)
		}
		if err != nil {
			t.Fatalf("migrate: %v", err)
		}
		return url, conn
	}
	newer, conn := migrated()
	if _, err := conn.Exec(context.Background(), "INSERT INTO schema_version (version, name, checksum) VALUES (99, 'future', 'x')"); err != nil {
		t.Fatalf("make schema newer: %v", err)
	}
	changed, conn := migrated()
	if _, err := conn.Exec(context.Background(), "UPDATE schema_version SET checksum = 'x'"); err != nil {
		t.Fatalf("change schema: %v", err)
	}
	for url, want := range map[string]error{
		newer: ErrSchemaNewer, changed: ErrSchemaChanged, strings.Replace(pg.URL(), "/forebay?", "/latin?", 1): ErrEncoding,
	} {
		s := newStore(t, url, &journal{}, nil)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := s.Run(ctx)
		cancel()
		if !errors.Is(err, want) {
			t.Errorf("run: error %v, want %v", err, want)
		}
		if h := s.Health(); h.Up || h.Detail == "" {
			t.Errorf("health %+v", h)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}

// TestWrongPassword: the store waits for an operator, says so without telling
// the password, and comes up when the password is right.
func TestWrongPassword(t *testing.T) {
	pg := sinktest.StartPostgres(t, sinktest.WithTCP())
	const password = "hunter2-hunter2"
	w := downWorld(t, pg, pg.TCPURL(password), nil)
	run(t, w.Store)
	eventually(t, "health", func() error {
		if h := w.Health(); h.Up || !strings.Contains(h.Detail, "28P01") {
			return fmt.Errorf("health %+v", h)
		}
		return nil
	})
	eventually(t, "log", func() error {
		if text := w.log.String(); !strings.Contains(text, "level=ERROR") || !strings.Contains(text, "pg_hba.conf") {
			return fmt.Errorf("log:\n%s", text)
		}
		return nil
	})
	_, err := w.Insert(context.Background(), w.n.records(1))
	pg.ExecSQL("ALTER ROLE forebay PASSWORD '" + password + "'")
	eventually(t, "health", w.healthIs(true))
	w.insert(t, w.n.records(3)...)
	pg.ExecSQL("ALTER ROLE forebay PASSWORD 'another'")
	pg.ExecSQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'forebay'")
	eventually(t, "health", w.healthIs(false))
	_, again := w.Insert(context.Background(), w.n.records(1))
	for _, text := range []string{fmt.Sprint(err), fmt.Sprint(again), w.Health().Detail, w.log.String()} {
		if strings.Contains(text, password) {
			t.Errorf("the password stands in %q", text)
		}
	}
}
