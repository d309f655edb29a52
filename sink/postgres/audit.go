package postgres

import (
	"context"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"forebay/sink"
	"forebay/wal/message"
)

// auditRows is how many rows one statement of an audit looks at: the server's
// limit on a statement must hold for any number of messages.
const auditRows = 200_000

// seqRange is a range of sequence numbers as the database can hold them.
func seqRange(from, to uint64) (int64, int64) {
	return int64(min(from, math.MaxInt64)), int64(min(to, math.MaxInt64))
}

// finals are the names of the final statuses.
func finals() []string {
	var names []string
	for _, s := range message.Statuses {
		if s.Final() {
			names = append(names, s.String())
		}
	}
	return names
}

// Count implements sink.Store.
func (s *Store) Count(ctx context.Context, node uint16, from, to uint64) (sink.Tally, error) {
	var tally sink.Tally
	next, last := seqRange(from, to)
	final := finals()
	for next <= last {
		var stored, done, looked, highest int64
		err := s.do(ctx, "count", func(ctx context.Context, conn *pgx.Conn) error {
			return conn.QueryRow(ctx, `/* count */ SELECT count(DISTINCT seq), count(DISTINCT seq) FILTER (WHERE status = ANY($5) OR status = 'sent' AND error->>'code' = 'no_report'), count(*), coalesce(max(seq), 0)
				FROM (SELECT seq, status, error FROM messages WHERE node = $1 AND seq BETWEEN $2 AND $3 ORDER BY seq LIMIT $4) page`,
				int32(node), next, last, auditRows, final).Scan(&stored, &done, &looked, &highest)
		})
		if err != nil {
			return sink.Tally{}, err
		}
		tally.Stored += uint64(stored)
		tally.Final += uint64(done)
		if looked < auditRows || highest == math.MaxInt64 {
			break
		}
		next = highest + 1
	}
	var aside int64
	first, last := seqRange(from, to)
	err := s.do(ctx, "count", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `/* count set aside */ SELECT count(*) FROM set_aside s WHERE node = $1 AND seq BETWEEN $2 AND $3
			AND NOT EXISTS (SELECT FROM messages m WHERE m.id = s.id)`, int32(node), first, last).Scan(&aside)
	})
	if err != nil {
		return sink.Tally{}, err
	}
	tally.Stored += uint64(aside)
	tally.Final += uint64(aside)
	return tally, nil
}

// Missing implements sink.Store.
func (s *Store) Missing(ctx context.Context, node uint16, from, to uint64, limit int) ([]uint64, error) {
	var missing []uint64
	// gap adds the numbers from expected to before the next one that is there.
	expected := from
	gap := func(before uint64) {
		for ; expected < before && len(missing) < limit; expected++ {
			missing = append(missing, expected)
		}
		expected = max(expected, before)
	}
	next, last := seqRange(from, to)
	for next <= last && len(missing) < limit {
		var there []int64
		err := s.do(ctx, "missing", func(ctx context.Context, conn *pgx.Conn) error {
			rows, err := conn.Query(ctx, `/* missing */ SELECT seq FROM (
				SELECT seq FROM messages WHERE node = $1 AND seq BETWEEN $2 AND $3 UNION ALL
				SELECT seq FROM set_aside WHERE node = $1 AND seq BETWEEN $2 AND $3) found ORDER BY seq LIMIT $4`, int32(node), next, last, auditRows)
			if err != nil {
				return err
			}
			there, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, seq := range there {
			gap(uint64(seq))
			expected = max(expected, uint64(seq)+1)
		}
		if len(there) < auditRows {
			break
		}
		next = there[len(there)-1] + 1
	}
	if from <= to {
		gap(to)
		if expected == to && len(missing) < limit {
			missing = append(missing, to)
		}
	}
	return missing, nil
}

// FirstSince returns the lowest sequence number among the messages that node
// accepted at or after t and the database has; 0: there is none.
func (s *Store) FirstSince(ctx context.Context, node uint16, t time.Time) (uint64, error) {
	var from message.ID // of all
	if !t.IsZero() {
		from = idAt(ceilMillis(t))
	}
	var first *int64
	err := s.do(ctx, "first_since", func(ctx context.Context, conn *pgx.Conn) error {
		// A node's ids and numbers rise together. The newest row is asked first:
		// for a node that has been silent since, a search by id would read all
		// that other nodes have stored.
		return conn.QueryRow(ctx, `/* first since */ SELECT least(
			(SELECT seq FROM messages WHERE node = $1 AND id >= $2
				AND (SELECT id >= $2 FROM messages WHERE node = $1 ORDER BY seq DESC LIMIT 1) ORDER BY id LIMIT 1),
			(SELECT min(seq) FROM set_aside WHERE node = $1 AND id >= $2))`, int32(node), [16]byte(from)).Scan(&first)
	})
	if err != nil || first == nil {
		return 0, err
	}
	return uint64(*first), nil
}
