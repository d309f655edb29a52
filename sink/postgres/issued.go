package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"forebay/sink"
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

// Numbered implements sink.Store.
func (s *Store) Numbered(ctx context.Context, node uint16, seqs []uint64) (found []sink.Found, err error) {
	numbers := make([]int64, len(seqs))
	for i, seq := range seqs {
		numbers[i], _ = seqRange(seq, seq)
	}
	err = s.do(ctx, "numbered", func(ctx context.Context, conn *pgx.Conn) error {
		found = found[:0]
		rows, err := conn.Query(ctx, `/* numbered */ SELECT seq, id, status FROM messages WHERE node = $1 AND seq = ANY($2)
			UNION ALL SELECT seq, id, 'failed' FROM set_aside s WHERE node = $1 AND seq = ANY($2)
				AND NOT EXISTS (SELECT FROM messages m WHERE m.id = s.id) ORDER BY seq`, int32(node), numbers)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var number int64
			var raw [16]byte
			var status string
			if err := rows.Scan(&number, &raw, &status); err != nil {
				return &answerError{err}
			}
			f := sink.Found{Seq: uint64(number), ID: message.ID(raw)}
			var known bool
			if f.Status, known = message.ParseStatus(status); !known {
				return &answerError{fmt.Errorf("status %q is not known", status)}
			}
			found = append(found, f)
		}
		return rows.Err()
	})
	return found, err
}
