package sinktest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"forebay/sink/sinktest"
)

// ask runs a query for one number.
func ask(t *testing.T, url, sql string) (n int, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
	return n, conn.QueryRow(ctx, sql).Scan(&n)
}

func want(t *testing.T, url, sql string, number int) {
	t.Helper()
	if got, err := ask(t, url, sql); err != nil || got != number {
		t.Errorf("%s = %d, error %v; want %d", sql, got, err, number)
	}
}

func TestPostgresStops(t *testing.T) {
	pg := sinktest.StartPostgres(t, sinktest.WithFsync(), sinktest.WithMaxConnections(7))
	want(t, pg.URL(), "SELECT count(*) FROM pg_settings WHERE name = 'fsync' AND setting = 'on'", 1)
	want(t, pg.URL(), "SELECT setting::int FROM pg_settings WHERE name = 'max_connections'", 10)
	pg.ExecSQL("CREATE TABLE kept AS SELECT generate_series(1, $1::int) AS n", 3)
	pg.ExecSQL("GRANT SELECT ON kept TO forebay")
	for name, stop := range map[string]func(){
		"fast":      func() { pg.Stop(sinktest.Fast) },
		"immediate": func() { pg.Stop(sinktest.Immediate) },
		"kill":      pg.Kill,
	} {
		stop()
		if _, err := ask(t, pg.URL(), "SELECT 1"); err == nil {
			t.Errorf("%s: it still answers", name)
		}
		pg.Start()
		want(t, pg.URL(), "SELECT count(*) FROM kept", 3)
	}
}

func TestPostgresPause(t *testing.T) {
	pg := sinktest.StartPostgres(t)
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, pg.URL())
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer conn.Close(ctx)
	for round := range 20 { // while connections come and go
		stop := make(chan struct{})
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						if c, err := pgx.Connect(ctx, pg.URL()); err == nil {
							c.Close(ctx)
						}
					}
				}
			})
		}
		for _, pid := range pg.Pause() {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err == nil && !strings.Contains(string(stat), ") T ") && !strings.Contains(string(stat), ") Z ") {
				t.Errorf("round %d: process %d runs: %s", round, pid, stat)
			}
		}
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pg.Postmaster()))
		if err != nil {
			t.Fatalf("list the processes: %v", err)
		}
		for _, pid := range strings.Fields(string(children)) {
			if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(stat), ") T ") && !strings.Contains(string(stat), ") Z ") {
				t.Errorf("round %d: process %s was missed: %s", round, pid, stat)
			}
		}
		close(stop)
		pg.Resume()
		calls.Wait()
	}
	pg.Pause()
	answer := make(chan error, 1)
	go func() { answer <- conn.Ping(ctx) }()
	select {
	case err := <-answer:
		t.Errorf("a paused server answered: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	pg.Resume()
	if err := <-answer; err != nil {
		t.Errorf("ping after the pause: %v", err)
	}
}

func TestPostgresDatabases(t *testing.T) {
	pg := sinktest.StartPostgres(t, sinktest.WithTCP(), sinktest.WithSetting("work_mem", "5MB"))
	one, two := pg.NewDatabase(), pg.NewDatabase()
	if one == two {
		t.Fatalf("two databases at %s", one)
	}
	want(t, one, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace", 0)
	want(t, pg.TCPURL(pg.Password()), "SELECT setting::int FROM pg_settings WHERE name = 'work_mem'", 5<<10)
	var refused *pgconn.PgError
	if _, err := ask(t, pg.TCPURL("wrong"), "SELECT 1"); !errors.As(err, &refused) || refused.Code != "28P01" {
		t.Errorf("wrong password: error %v, want 28P01", err)
	}
	if _, err := os.Stat(pg.Dir()); err != nil {
		t.Errorf("directory: %v", err)
	}
}
