package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"

	"forebay/sink"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

const dayLong = 24 * time.Hour

// days asks the database for its partitions.
func (w *world) days(t *testing.T) []day {
	t.Helper()
	ctx := context.Background()
	var days []day
	err := pgx.BeginFunc(ctx, connect(t, w.url), func(tx pgx.Tx) (err error) {
		days, err = listPartitions(ctx, tx)
		return err
	})
	if err != nil {
		t.Fatalf("list partitions: %v", err)
	}
	return days
}

// testPartitionsOnDemand: ids of any day find their partition, from a backlog of
// weeks as from a node whose clock is ahead; also when somebody has dropped it.
func testPartitionsOnDemand(t *testing.T, pg *sinktest.Postgres) {
	w := newWorldOn(t, pg, nil)
	today := dayAt(time.Now())
	if got, want := w.days(t), []day{today - 1, today, today + 1, today + 2, today + 3}; !slices.Equal(got, want) {
		t.Errorf("partitions at the start: %v, want %v", got, want)
	}
	var batch []message.Record
	for _, age := range []time.Duration{60 * dayLong, 20 * dayLong, 0, -9 * dayLong} {
		w.n.at = time.Now().Add(-age)
		for range 2 {
			batch = append(batch, w.n.record("body"))
		}
	}
	w.insert(t, batch...)
	w.checkAll(t)
	w.exec(t, "DROP TABLE "+dayOf(batch[0].ID).table())
	for i, r := range w.insert(t, batch...) {
		if want := map[bool]sink.Outcome{true: sink.New, false: sink.Known}[i < 2]; r.Outcome != want {
			t.Errorf("outcome of %d = %v, want %v", i, r.Outcome, want)
		}
	}
	w.checkAll(t)
	// A partition of an operator's own takes what lies in it.
	old := dayAt(time.Now().Add(-200 * dayLong))
	w.exec(t, fmt.Sprintf("CREATE TABLE archive PARTITION OF messages FOR VALUES FROM ('%s') TO ('%s')", (old-10).firstID(), (old+10).firstID()))
	w.n.at = old.begin()
	r := w.n.record("body")
	w.insert(t, r)
	if n := w.number(t, "SELECT count(*) FROM archive"); n != 1 {
		t.Errorf("%d messages in the operator's partition, want 1", n)
	}
	// One that an operator has detached is put back, with what is in it.
	detached := dayOf(batch[2].ID).table()
	w.exec(t, "ALTER TABLE messages DETACH PARTITION "+detached)
	w.insert(t, batch...)
	w.checkAll(t)
}

// testRetention: a partition goes when its day is over for the retention and
// none of its rows is younger; nothing else goes.
func testRetention(t *testing.T, pg *sinktest.Postgres) {
	registry := prometheus.NewRegistry()
	w := newWorldOn(t, pg, func(c *Config) { c.Retention, c.Registerer = 10*dayLong, registry })
	now := time.Now()
	records := make(map[int]message.Record)
	for age := 8; age <= 13; age++ {
		w.n.at = now.Add(-time.Duration(age) * dayLong)
		records[age] = w.n.record("body")
		w.insert(t, records[age])
	}
	if err := w.dropPartitions(context.Background(), now); err != nil {
		t.Fatalf("drop partitions: %v", err)
	}
	for age, r := range records { // all have been stored just now
		if _, err := w.Get(context.Background(), "", r.ID); err != nil {
			t.Errorf("message of %d days ago: %v", age, err)
		}
	}
	w.exec(t, "UPDATE messages SET stored_at = accepted_at WHERE id <> $1", [16]byte(records[12].ID))
	for range 2 { // the second time finds nothing to do
		if err := w.dropPartitions(context.Background(), now); err != nil {
			t.Fatalf("drop partitions: %v", err)
		}
	}
	for age, r := range records {
		_, err := w.Get(context.Background(), "", r.ID)
		if gone := errors.Is(err, sink.ErrNotFound); gone != (age == 11 || age == 13) {
			t.Errorf("message of %d days ago: error %v", age, err)
		}
	}
	if got := testutil.ToFloat64(w.metrics.reclaimed.WithLabelValues("partitions")); got != 2 {
		t.Errorf("%v partitions counted as dropped, want 2", got)
	}
	// What was dropped can come again.
	if r := w.insert(t, records[13])[0]; r.Outcome != sink.New {
		t.Errorf("outcome of a message whose partition is gone = %v, want new", r.Outcome)
	}

	// A reader that holds the partition keeps it, and holds nobody else up.
	w.exec(t, "UPDATE messages SET stored_at = accepted_at")
	conn := connect(t, w.url)
	tx, err := conn.Begin(context.Background())
	if err == nil {
		_, err = tx.Exec(context.Background(), "SELECT count(*) FROM "+dayOf(records[13].ID).table())
	}
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	var down *sink.Down
	if err := w.dropPartitions(context.Background(), now); !errors.As(err, &down) {
		t.Errorf("drop a partition that is read: error %v, want down", err)
	}
	w.n.at = now
	w.insert(t, w.n.records(3)...)
	if err := tx.Commit(context.Background()); err != nil {
		t.Fatalf("end reading: %v", err)
	}
	if err := w.dropPartitions(context.Background(), now); err != nil {
		t.Errorf("drop partitions: %v", err)
	}
}

// testReclaimRows: expired claims and old messages that were set aside go, in as
// many batches as it takes, and those that are young stay.
func testReclaimRows(t *testing.T, pg *sinktest.Postgres) {
	w := newWorldOn(t, pg, func(c *Config) { c.IdempotencyTTL, c.Retention = time.Hour, 48*time.Hour })
	batch := w.n.records(2500)
	for i := range batch {
		batch[i].IdempotencyKey = fmt.Sprint("key ", i)
	}
	w.insert(t, batch...)
	bad := w.n.record("\x00")
	w.insert(t, bad)
	count := func(table string) int { return w.number(t, "SELECT count(*) FROM "+table) }
	at := time.Now()
	for _, c := range []struct {
		after         time.Duration
		claims, aside int
	}{{0, 2500, 1}, {59 * time.Minute, 2500, 1}, {61 * time.Minute, 0, 1}, {47 * time.Hour, 0, 1}, {4 * dayLong, 0, 0}} {
		then := at.Add(c.after)
		if err := errors.Join(w.dropClaims(context.Background(), then), w.dropSetAside(context.Background(), then)); err != nil {
			t.Fatalf("after %v: %v", c.after, err)
		}
		if claims, aside := count("claims"), count("set_aside"); claims != c.claims || aside != c.aside {
			t.Errorf("after %v: %d claims and %d set aside, want %d and %d", c.after, claims, aside, c.claims, c.aside)
		}
	}
}

// TestDays: a day's partition takes exactly the ids of that day.
func TestDays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := message.NewID(rapid.Uint64Range(0, 253402300799999).Draw(t, "ms"), uint16(rapid.IntRange(0, 4095).Draw(t, "counter")),
			uint16(rapid.IntRange(1, 65535).Draw(t, "node")), message.Low, rapid.Uint64().Draw(t, "random"))
		d := dayOf(id)
		if id.Compare(d.firstID()) < 0 || id.Compare((d+1).firstID()) >= 0 {
			t.Fatalf("%s is not within %s and %s", id, d.firstID(), (d + 1).firstID())
		}
		if back, ok := parseDay(d.table()); !ok || back != d {
			t.Fatalf("%s is read as day %d %v, want %d", d.table(), back, ok, d)
		}
		if at := id.Time(); at.Before(d.begin()) || !at.Before((d + 1).begin()) {
			t.Fatalf("%v is not within the day of %v", at, d.begin())
		}
	})
	for _, name := range []string{"messages", "messages_2026_13_01", "messages_2026_11_24_old", "other_2026_11_24"} {
		if d, ok := parseDay(name); ok {
			t.Errorf("%s is read as day %d", name, d)
		}
	}
}
