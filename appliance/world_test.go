package appliance_test

import (
	"context"
	"encoding/json"
	"os"
	"strconv"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/httpapi/admin"
	"forebay/sink/sinktest"
)

// world is a store that appliances of a test use, and how to read it from
// outside.
type world struct {
	pg *sinktest.Postgres // nil: the embedded store
}

// worlds runs a test with either store.
func worlds(t *testing.T, test func(t *testing.T, w world)) {
	t.Run("store=embedded", func(t *testing.T) {
		t.Parallel()
		test(t, world{})
	})
	t.Run("store=postgres", func(t *testing.T) {
		t.Parallel()
		test(t, world{sinktest.StartPostgres(t)})
	})
}

// settings are those of a process.
func (w world) settings(more ...string) []string {
	if w.pg != nil {
		more = append(more, "FOREBAY_DATABASE_URL="+w.pg.URL(), "FOREBAY_DATABASE_MIN_POOL_SIZE=1", "FOREBAY_DATABASE_MAX_POOL_SIZE=8")
	}
	return more
}

// rows reads the store; the appliance that used dir is stopped.
func (w world) rows(t *testing.T, dir string) []appliancetest.Row {
	t.Helper()
	if w.pg == nil {
		return appliancetest.EmbeddedRows(t, dir)
	}
	return appliancetest.PostgresRows(t, w.pg.URL())
}

// operator is the admin API of an appliance.
type operator interface {
	Audit(context.Context, time.Time) (admin.Audit, error)
	Status(context.Context) (admin.Status, error)
}

// awaitDrained waits until the log is empty: nothing waits, and nothing rests for
// the store, for a retry or for its time.
func awaitDrained(t *testing.T, c operator) {
	t.Helper()
	appliancetest.Eventually(t, time.Minute, "the log is empty", func() bool {
		s, err := c.Status(context.Background())
		if err != nil {
			return false
		}
		waiting := s.Log.Parked
		for _, n := range s.Log.Backlog {
			waiting += n
		}
		return waiting == 0
	})
}

// checkAudit asks the appliance to prove itself. All has been drained.
func checkAudit(t *testing.T, c operator) {
	t.Helper()
	a, err := c.Audit(context.Background(), time.Time{})
	if err != nil {
		t.Fatalf("audit: %v", err)
	}
	if a.Missing != 0 || a.Waiting != 0 || a.Accepted != a.Stored+a.Abandoned || a.Final != a.Stored {
		t.Fatalf("audit: %+v", a)
	}
}

// commandAudit is checkAudit through `forebay audit`.
func commandAudit(t *testing.T, p *appliancetest.Process) {
	t.Helper()
	out, err := p.Command("audit", "--output", "json").CombinedOutput()
	var a admin.Audit
	if err == nil {
		err = json.Unmarshal(out, &a)
	}
	if err != nil || a.Missing != 0 || a.Waiting != 0 || a.Accepted != a.Stored {
		t.Fatalf("forebay audit: %v\n%s\n%s", err, out, p.Log())
	}
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// seedOf is the seed of a test with random moments: printed, and taken from
// FOREBAY_TEST_SEED to run it again.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("FOREBAY_TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		must(t, "read FOREBAY_TEST_SEED", err)
	}
	t.Logf("FOREBAY_TEST_SEED=%d", seed)
	return seed
}

// environmentInt is a number from the environment, or its default.
func environmentInt(t *testing.T, name string, def int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return def
	}
	n, err := strconv.Atoi(text)
	must(t, "read "+name, err)
	return n
}
