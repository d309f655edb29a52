package postgres

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"forebay/sink"
	"forebay/wal/message"
)

// errSwallowed is the reason of a row that the database neither took nor refused.
var errSwallowed = errors.New("the table did not keep the row and gave no error: is there a trigger or a rule on it?")

const setAsideSQL = `/* set aside */ INSERT INTO set_aside (id, seq, stored_at, node, account, reason, payload, state)
	SELECT * FROM (SELECT unnest($1::uuid[]) AS id, unnest($2::int8[]), unnest($3::timestamptz[]), unnest($4::int4[]),
		unnest($5::text[]), unnest($6::text[]), unnest($7::bytea[]), unnest($8::bytea[])) refused
	WHERE NOT EXISTS (SELECT FROM messages m WHERE m.id = refused.id)
	ON CONFLICT (id) DO NOTHING RETURNING id`

// asideSQL reads messages that were set aside; queryAside takes its rows.
const asideSQL = "SELECT id, seq, payload, state FROM set_aside"

// setAside keeps the refused rows of a job, as failed, where nothing can refuse
// them. One that is there already, in either table, stays known: a rule that was
// made after a message was stored refuses its repeat, too.
func (s *Store) setAside(ctx context.Context, j *job) error {
	if len(j.refused) == 0 {
		return nil
	}
	elems := [...]uint32{pgtype.UUIDOID, pgtype.Int8OID, pgtype.TimestamptzOID, pgtype.Int4OID, pgtype.TextOID, pgtype.TextOID,
		pgtype.ByteaOID, pgtype.ByteaOID}
	columns := make([]column, len(elems))
	args := make([]any, len(elems))
	for c := range columns {
		columns[c].reset(elems[c])
		args[c] = &columns[c]
	}
	for _, f := range j.refused {
		r, res := &j.batch[f.row], &j.results[f.row]
		*res = sink.Result{Outcome: sink.Known, State: failed(r.State, f.reason)}
		res.State.StoredAt, res.State.FailedAt = j.now, j.now
		columns[0].id(r.ID)
		columns[1].int8(int64(r.Seq))
		columns[2].time(j.now)
		columns[3].int4(int32(r.ID.Node()))
		columns[4].required(cleaned(r.Account))
		columns[5].required(cleaned(describe(f.reason)))
		columns[6].bytes(r.Message.Append(nil))
		columns[7].bytes(res.State.Append(nil))
	}
	err := s.do(ctx, "set aside", func(ctx context.Context, conn *pgx.Conn) error {
		found, err := conn.Query(ctx, setAsideSQL, args...)
		if err != nil {
			return err
		}
		return j.collect(found)
	})
	if err != nil {
		return err
	}
	for _, f := range j.refused {
		if res := &j.results[f.row]; res.Outcome != sink.Known {
			res.Outcome = sink.SetAside
			s.logger.Error("message set aside: the database refuses it", "id", j.batch[f.row].ID, "reason", describe(f.reason))
		}
	}
	j.refused = j.refused[:0]
	return nil
}

// failed is the state of a refused message. Its words are for the client, so they
// name nothing of the database's insides.
func failed(state message.State, reason error) message.State {
	f := &message.Failure{Code: "store_refused", Category: "store", ChannelCode: code(reason)}
	switch {
	case strings.HasPrefix(f.ChannelCode, "22"):
		f.Message = "the database cannot hold a text of this message"
	case strings.HasPrefix(f.ChannelCode, "54"):
		f.Message = "a text of this message is too long for the database"
	default:
		f.Message = "the database has a rule against this message"
	}
	state.Status, state.Error, state.NextAttemptAt, state.HoldReason = message.Failed, f, message.State{}.NextAttemptAt, ""
	return state
}

// cleaned is s as any database takes it.
func cleaned(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}

// queryAside runs a query on set_aside that begins with asideSQL.
func queryAside(ctx context.Context, conn *pgx.Conn, sql string, args ...any) ([]message.Record, error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (message.Record, error) {
		var (
			id  [16]byte
			seq int64
			e   message.Entry
		)
		if err := row.Scan(&id, &seq, &e.Payload, &e.Progress); err != nil {
			return message.Record{}, &answerError{err}
		}
		e.ID, e.Seq = id, uint64(seq)
		r, err := e.Record()
		if err != nil {
			return r, &answerError{err}
		}
		return r, nil
	})
}
