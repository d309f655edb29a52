package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	maintainEvery = time.Minute
	// Claims and set-aside messages go by rows; a statement takes this many, so
	// that none holds many locks or runs for long.
	reclaimRows = 1000
	// Dropping a partition locks the whole table for an instant. It does not wait
	// longer than this behind a long query, because inserts would wait behind it.
	dropWait = time.Second
	// dropLimit bounds a drop, which first counts what it drops: nobody waits for
	// it but a message that comes months late.
	dropLimit = time.Hour
	// retentionLock is the key of the advisory lock of who drops a partition. It
	// is not the one of who makes some: those must not wait for a long look.
	retentionLock = migrationLock + 1
)

// maintain does what has to be done from time to time, until ctx ends. What
// fails is reported and done again the next time.
func (s *Store) maintain(ctx context.Context) {
	tick := time.NewTicker(maintainEvery)
	defer tick.Stop()
	for {
		for _, duty := range []func(context.Context, time.Time) error{s.prepareDays, s.dropPartitions, s.dropClaims, s.dropSetAside, s.dropReports, s.dropUsage} {
			if err := duty(ctx, time.Now()); err != nil && ctx.Err() == nil {
				s.logger.Warn("upkeep of the database fails", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// prepareDays makes the partitions of the next days.
func (s *Store) prepareDays(ctx context.Context, now time.Time) error {
	return s.do(ctx, "create partitions", func(ctx context.Context, conn *pgx.Conn) error {
		return s.partitions.ensure(ctx, conn, ahead(now))
	})
}

// dropPartitions drops the partitions that are past their retention.
func (s *Store) dropPartitions(ctx context.Context, now time.Time) error {
	cutoff := now.Add(-s.settings.Load().Retention)
	var days []day
	err := s.do(ctx, "list partitions", func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
			days, err = listPartitions(ctx, tx)
			return err
		})
	})
	if err != nil {
		return err
	}
	for _, d := range days {
		if (d + 1).begin().After(cutoff) {
			continue
		}
		dropped := false
		err := s.doWithin(ctx, "drop partition "+d.table(), dropLimit, func(ctx context.Context, conn *pgx.Conn) (err error) {
			dropped, err = dropPartition(ctx, conn, d, cutoff)
			return err
		})
		if err != nil {
			return err
		}
		if dropped {
			s.partitions.forget()
			s.metrics.reclaimed.WithLabelValues("partitions").Inc()
			s.logger.Info("partition dropped", "table", d.table(), "retention", s.settings.Load().Retention)
		}
	}
	return nil
}

// dropPartition drops a day's partition, unless it has rows that were stored
// after cutoff: they came late, and stay as long as others. It all happens in
// one transaction, so a crash leaves no table detached and forgotten.
func dropPartition(ctx context.Context, conn *pgx.Conn, d day, cutoff time.Time) (dropped bool, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", retentionLock)); err != nil {
			return err
		}
		there, err := listPartitions(ctx, tx)
		if err != nil {
			return err
		}
		if !slices.Contains(there, d) {
			return nil // another appliance was first
		}
		if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d", dropWait.Milliseconds())); err != nil {
			return err
		}
		// Nobody may add a row between the look and the end.
		if _, err := tx.Exec(ctx, "LOCK TABLE "+d.table()+" IN SHARE MODE"); err != nil {
			return err
		}
		var late bool
		err = tx.QueryRow(ctx, "/* late rows */ SELECT EXISTS (SELECT FROM "+d.table()+" WHERE stored_at > $1)", cutoff).Scan(&late)
		if err != nil || late {
			return err
		}
		if err := keepUsage(ctx, tx, d); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "/* drop partition */ DROP TABLE "+d.table())
		dropped = err == nil
		return err
	})
	return dropped && err == nil, err
}

// dropClaims deletes expired claims, in small batches.
func (s *Store) dropClaims(ctx context.Context, now time.Time) error {
	return s.deleteRows(ctx, "claims", `/* drop claims */ DELETE FROM claims WHERE expires_at <= $1 AND (account, key) IN (
		SELECT account, key FROM claims WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)`, now)
}

// dropSetAside deletes messages that were set aside and are past their retention.
func (s *Store) dropSetAside(ctx context.Context, now time.Time) error {
	return s.deleteRows(ctx, "set_aside", `/* drop set aside */ DELETE FROM set_aside WHERE id IN (
		SELECT id FROM set_aside WHERE stored_at <= $1 AND id < $3 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)`,
		now.Add(-s.settings.Load().Retention), [16]byte(dayAt(now.Add(-s.settings.Load().Retention)).firstID()))
}

// deleteRows runs a statement that deletes up to $2 rows from before $1 until it
// finds no more.
func (s *Store) deleteRows(ctx context.Context, what, sql string, before time.Time, more ...any) error {
	var total int64
	for {
		var n int64
		err := s.do(ctx, "delete "+what, func(ctx context.Context, conn *pgx.Conn) error {
			tag, err := conn.Exec(ctx, sql, append([]any{before, reclaimRows}, more...)...)
			n = tag.RowsAffected()
			return err
		})
		if err != nil {
			return err
		}
		total += n
		s.metrics.reclaimed.WithLabelValues(what).Add(float64(n))
		if n < reclaimRows {
			break
		}
	}
	if total > 0 {
		s.logger.Debug("expired rows deleted", "table", what, "rows", total)
	}
	return nil
}
