package postgres

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"forebay/wal/message"
)

// claimSQL claims keys and says who has each now. A claim that is as old as the
// TTL, by the times of acceptance, is taken over. Otherwise the row stays as it
// is, but is written again: so it is returned, and locked until the end.
const claimSQL = `/* claim */ INSERT INTO claims AS held (account, key, id, fingerprint, accepted_at, expires_at)
	SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::uuid[]), unnest($4::bytea[]), unnest($5::timestamptz[]), unnest($6::timestamptz[])
	ON CONFLICT (account, key) DO UPDATE SET
		id = CASE WHEN excluded.accepted_at >= held.accepted_at + $7::interval THEN excluded.id ELSE held.id END,
		fingerprint = CASE WHEN excluded.accepted_at >= held.accepted_at + $7::interval THEN excluded.fingerprint ELSE held.fingerprint END,
		accepted_at = CASE WHEN excluded.accepted_at >= held.accepted_at + $7::interval THEN excluded.accepted_at ELSE held.accepted_at END,
		expires_at = CASE WHEN excluded.accepted_at >= held.accepted_at + $7::interval THEN excluded.expires_at ELSE held.expires_at END
	RETURNING account, key, id`

// claimKey is what a claim is for.
type claimKey struct{ account, key string }

func keyOf(r *message.Record) claimKey { return claimKey{r.Account, r.IdempotencyKey} }

// writeKeyed writes rows. If some of them have idempotency keys, these are claimed
// first, in the same transaction; otherwise the one statement commits by itself.
func (s *Store) writeKeyed(ctx context.Context, conn *pgx.Conn, j *job, rows []int, write writer) (err error) {
	if !j.keyed {
		return write(ctx, conn, j, rows)
	}
	defer func() {
		if err != nil && !conn.IsClosed() {
			conn.Exec(ctx, "ROLLBACK") // a connection that cannot even do this is thrown away
		}
	}()
	// Of each key, the first record in the batch claims it.
	first := make(map[claimKey]int)
	for _, i := range rows {
		if k := keyOf(&j.batch[i]); k.key != "" {
			if _, ok := first[k]; !ok {
				first[k] = i
			}
		}
	}
	ttl := s.settings.Load().IdempotencyTTL
	holders, err := j.claim(ctx, conn, first, ttl)
	if err != nil {
		return err
	}
	if late := j.contest(rows, holders, ttl); len(late) > 0 {
		if _, err := conn.Exec(ctx, claimSQL, j.claimArgs(late, ttl)...); err != nil {
			return err
		}
	}
	if err := write(ctx, conn, j, rows); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "COMMIT")
	return err
}

// claim opens the transaction and claims the keys; it returns who has them.
func (j *job) claim(ctx context.Context, conn *pgx.Conn, first map[claimKey]int, ttl time.Duration) (map[claimKey]message.ID, error) {
	batch := &pgx.Batch{}
	batch.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	batch.Queue(claimSQL, j.claimArgs(first, ttl)...)
	answers := conn.SendBatch(ctx, batch)
	defer answers.Close()
	if _, err := answers.Exec(); err != nil {
		return nil, err
	}
	rows, err := answers.Query()
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	holders := make(map[claimKey]message.ID, len(first))
	for rows.Next() {
		var k claimKey
		var id [16]byte
		if err := rows.Scan(&k.account, &k.key, &id); err != nil {
			return nil, err
		}
		holders[k] = id
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return holders, answers.Close()
}

// contest turns the losers of a claim into duplicates. Where a later record of
// this very batch takes a key over, it returns who has the key at the end.
func (j *job) contest(rows []int, holders map[claimKey]message.ID, ttl time.Duration) map[claimKey]int {
	var late map[claimKey]int
	for _, i := range rows {
		r := &j.batch[i]
		k := keyOf(r)
		holder := holders[k]
		if k.key == "" || holder == r.ID {
			continue
		}
		switch age := r.AcceptedAt().Sub(holder.Time()); {
		case -ttl < age && age < ttl:
			j.results[i].State.Status, j.results[i].State.DuplicateOf = message.Duplicate, holder
		case age > 0:
			holders[k] = r.ID
			if late == nil {
				late = make(map[claimKey]int)
			}
			late[k] = i
		}
	}
	return late
}

// claimArgs are the arguments of claimSQL, in the order of the keys: so two
// batches with the same keys lock them in the same order.
func (j *job) claimArgs(claims map[claimKey]int, ttl time.Duration) []any {
	keys := make([]claimKey, 0, len(claims))
	for k := range claims {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b claimKey) int {
		return cmp.Or(cmp.Compare(a.account, b.account), cmp.Compare(a.key, b.key))
	})
	elems := [...]uint32{pgtype.TextOID, pgtype.TextOID, pgtype.UUIDOID, pgtype.ByteaOID, pgtype.TimestamptzOID, pgtype.TimestamptzOID}
	columns := make([]column, len(elems))
	args := make([]any, 0, len(elems)+1)
	for c := range columns {
		columns[c].reset(elems[c])
		args = append(args, &columns[c])
	}
	for _, k := range keys {
		r := &j.batch[claims[k]]
		columns[0].required(k.account)
		columns[1].required(k.key)
		columns[2].id(r.ID)
		columns[3].bytes(r.Fingerprint[:])
		columns[4].time(r.AcceptedAt())
		columns[5].time(latest(r.AcceptedAt(), j.now).Add(ttl))
	}
	return append(args, ttl)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
