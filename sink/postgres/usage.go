package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"forebay/sink"
	"forebay/wal/message"
)

// maxUsageDays bounds what one Usage counts.
const maxUsageDays = 400

// Usage implements sink.Store. It counts each day in an index of its partition,
// all in one round trip and one moment, so that a partition that is dropped
// meanwhile counts once.
func (s *Store) Usage(ctx context.Context, q message.UsageQuery) (list []message.UsageCount, err error) {
	from, to := dayAt(q.From), dayAt(q.To)
	if to-from > maxUsageDays {
		return nil, fmt.Errorf("usage: %d days, want %d at most", to-from, maxUsageDays)
	}
	err = s.do(ctx, "usage", func(ctx context.Context, conn *pgx.Conn) error {
		counts := make(map[message.UsageCount]uint64)
		options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
		err := pgx.BeginTxFunc(ctx, conn, options, func(tx pgx.Tx) error {
			if err := countDays(ctx, tx, q.Account, from, to, counts); err != nil {
				return err
			}
			return countAside(ctx, tx.Conn(), q.Account, from, to, counts)
		})
		list = nil
		for c, n := range counts {
			c.Count = n
			list = append(list, c)
		}
		return err
	})
	slices.SortFunc(list, func(a, b message.UsageCount) int {
		return cmp.Or(a.Day.Compare(b.Day), cmp.Compare(a.Channel, b.Channel), cmp.Compare(a.Status, b.Status))
	})
	return list, err
}

func countDays(ctx context.Context, tx pgx.Tx, account string, from, to day, counts map[message.UsageCount]uint64) error {
	batch := &pgx.Batch{}
	for d := from; d < to; d++ {
		batch.Queue("/* usage */ SELECT $4::date, channel, status, count(*) FROM messages WHERE account = $1 AND id >= $2 AND id < $3 AND NOT test AND NOT callback GROUP BY channel, status",
			account, [16]byte(d.firstID()), [16]byte((d + 1).firstID()), d.begin())
	}
	batch.Queue("/* kept usage */ SELECT day, channel, status, count FROM usage WHERE account = $1 AND day >= $2 AND day < $3", account, from.begin(), to.begin())
	answers := tx.SendBatch(ctx, batch)
	defer answers.Close()
	for range batch.Len() {
		rows, err := answers.Query()
		if err != nil {
			return err
		}
		for rows.Next() {
			var c message.UsageCount
			var channel, status string
			var n int64
			if err := rows.Scan(&c.Day, &channel, &status, &n); err != nil {
				return &answerError{err}
			}
			c.Channel, _ = message.ParseChannel(channel)
			c.Status, _ = message.ParseStatus(status)
			counts[c] += uint64(n)
		}
		if err := rows.Err(); err != nil {
			return err
		}
	}
	return answers.Close()
}

// countAside counts messages that were set aside: few, and they have failed.
func countAside(ctx context.Context, conn *pgx.Conn, account string, from, to day, counts map[message.UsageCount]uint64) error {
	aside, err := queryAside(ctx, conn, "/* usage set aside */ "+asideSQL+` WHERE id >= $1 AND id < $2 AND account = $3
		AND NOT EXISTS (SELECT FROM messages m WHERE m.id = set_aside.id)`, [16]byte(from.firstID()), [16]byte(to.firstID()), cleaned(account))
	for _, r := range aside {
		if r.Account == account && !r.Test && !r.Callback {
			counts[message.UsageCount{Day: dayOf(r.ID).begin(), Channel: r.Channel, Status: r.Status}]++
		}
	}
	return err
}

// keepUsage counts a partition for good. It is called in the transaction that
// drops it.
func keepUsage(ctx context.Context, tx pgx.Tx, d day) error {
	if _, err := tx.Exec(ctx, "SET LOCAL statement_timeout = 0"); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `/* keep usage */ INSERT INTO usage AS kept (account, day, channel, status, count)
		SELECT account, $1::date, channel, status, count(*) FROM `+d.table()+` WHERE NOT test AND NOT callback GROUP BY account, channel, status
		ON CONFLICT (account, day, channel, status) DO UPDATE SET count = kept.count + excluded.count`, d.begin())
	if err != nil {
		return fmt.Errorf("keep usage of %s: %w", d.table(), err)
	}
	return nil
}

// dropUsage deletes counts that are too old.
func (s *Store) dropUsage(ctx context.Context, now time.Time) error {
	return s.deleteRows(ctx, "usage", `/* drop usage */ DELETE FROM usage WHERE day <= $1 AND (account, day, channel, status) IN (
		SELECT account, day, channel, status FROM usage WHERE day <= $1 ORDER BY day LIMIT $2 FOR UPDATE SKIP LOCKED)`,
		now.Add(-sink.UsageKept-s.cfg.Retention))
}
