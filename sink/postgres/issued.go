package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"forebay/wal/message"
)

// Issued returns the highest sequence number and the highest id of node's messages
// that the database has; zero: it has none.
func (s *Store) Issued(ctx context.Context, node uint16) (seq uint64, id message.ID, err error) {
	err = s.do(ctx, "issued", func(ctx context.Context, conn *pgx.Conn) error {
		// Numbers and ids of a node rise together, so the row with the highest number
		// has the highest id, too.
		rows, err := conn.Query(ctx, `/* issued */ (SELECT seq, id FROM messages WHERE node = $1 ORDER BY seq DESC, id DESC LIMIT 1)
			UNION ALL (SELECT seq, id FROM set_aside WHERE node = $1 ORDER BY seq DESC, id DESC LIMIT 1)`, int32(node))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var number int64
			var raw [16]byte
			if err := rows.Scan(&number, &raw); err != nil {
				return &answerError{err}
			}
			seq = max(seq, uint64(number))
			if found := message.ID(raw); found.Compare(id) > 0 {
				id = found
			}
		}
		return rows.Err()
	})
	return seq, id, err
}
