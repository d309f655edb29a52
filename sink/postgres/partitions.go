package postgres

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"forebay/wal/message"
)

// day is a number of days since 1970, in UTC: a partition's name.
type day int64

const dayMillis = 24 * 60 * 60 * 1000

// daysAhead is for how many days after today partitions are made before they are
// needed: enough for a weekend during which nothing can be changed.
const daysAhead = 3

func dayOf(id message.ID) day     { return day(id.Millis() / dayMillis) }
func dayAt(t time.Time) day       { return day(t.UnixMilli() / dayMillis) }
func (d day) begin() time.Time    { return time.UnixMilli(int64(d) * dayMillis).UTC() }
func (d day) firstID() message.ID { return idAt(int64(d) * dayMillis) }
func (d day) table() string       { return d.begin().Format("messages_2006_01_02") }

// parseDay reads a partition's name.
func parseDay(table string) (day, bool) {
	t, err := time.Parse("messages_2006_01_02", table)
	return dayAt(t), err == nil
}

// ahead lists yesterday, today and the days for which partitions are made now.
func ahead(now time.Time) []day {
	var days []day
	for d := dayAt(now) - 1; d <= dayAt(now)+daysAhead; d++ {
		days = append(days, d)
	}
	return days
}

// partitions remembers which partitions are there, so that an insert need not
// ask. It may be wrong when another appliance has dropped one: then an insert
// fails with noPartition and everything is forgotten.
type partitions struct {
	mu    sync.Mutex // guards known
	known map[day]struct{}
}

func (p *partitions) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known = nil
}

// unknown returns those of days that are not known to be there.
func (p *partitions) unknown(days []day) []day {
	p.mu.Lock()
	defer p.mu.Unlock()
	var rest []day
	for _, d := range days {
		if _, ok := p.known[d]; !ok {
			rest = append(rest, d)
		}
	}
	return rest
}

func (p *partitions) learn(days []day) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		p.known = make(map[day]struct{})
	}
	for _, d := range days {
		p.known[d] = struct{}{}
	}
}

// ensure makes the partitions of days that are not there.
func (p *partitions) ensure(ctx context.Context, conn *pgx.Conn, days []day) error {
	missing := p.unknown(days)
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	tx, err := conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin partitions: %w", err)
	}
	defer tx.Rollback(ctx) // after a commit it does nothing
	if _, err := tx.Exec(ctx, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", migrationLock)); err != nil {
		return fmt.Errorf("lock partitions: %w", err)
	}
	there, err := listPartitions(ctx, tx)
	if err != nil {
		return err
	}
	for _, d := range missing {
		if !slices.Contains(there, d) {
			if err := createPartition(ctx, tx, d); err != nil {
				return err
			}
		}
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit partitions: %w", err)
	}
	p.learn(days)
	return nil
}

// listPartitions returns the days that have a partition.
func listPartitions(ctx context.Context, tx pgx.Tx) ([]day, error) {
	rows, err := tx.Query(ctx, `/* partitions */ SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'messages'::regclass ORDER BY 1`)
	if err != nil {
		return nil, fmt.Errorf("list partitions: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list partitions: %w", err)
	}
	var days []day
	for _, name := range names {
		if d, ok := parseDay(name); ok { // others are an operator's own
			days = append(days, d)
		}
	}
	return days, nil
}

// createPartition makes a table like messages and attaches it: unlike CREATE
// TABLE … PARTITION OF this does not wait for, nor stop, those who insert. A
// table of that name is there if an operator has detached it; it is put back.
// Where a partition of an operator's own has the day, that one serves.
func createPartition(ctx context.Context, tx pgx.Tx, d day) error {
	err := pgx.BeginFunc(ctx, tx, func(sub pgx.Tx) error { // a savepoint
		_, err := sub.Exec(ctx, fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %[1]s (LIKE messages INCLUDING ALL);
			ALTER TABLE messages ATTACH PARTITION %[1]s FOR VALUES FROM ('%[2]s') TO ('%[3]s')`, d.table(), d.firstID(), (d+1).firstID()))
		return err
	})
	const overlap = "42P17"
	if err != nil && code(err) != overlap {
		return fmt.Errorf("create partition %s: %w", d.table(), err)
	}
	return nil
}
