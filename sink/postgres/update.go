package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"forebay/wal/message"
)

// stateSpecs are the columns of a state that change after a message is stored.
var stateSpecs = func() (specs []columnSpec) {
	changing := []string{"status", "scheduled_at", "sent_at", "delivered_at", "read_at", "failed_at", "next_attempt_at", "hold_reason",
		"provider_id", "duplicate_of", "error", "attempts"}
	for _, c := range messageColumns {
		if slices.Contains(changing, c.name) {
			specs = append(specs, c)
		}
	}
	return specs
}()

// updateSQL writes states. The ids stand in it twice, because the planner leaves
// partitions out for the first form only.
func updateSQL() string {
	arrays, sets := []string{"unnest($1::uuid[]) AS id"}, []string{}
	for i, c := range stateSpecs {
		arrays = append(arrays, fmt.Sprintf("unnest($%d::%s[]) AS %s", i+2, c.typ, c.name))
		sets = append(sets, c.name+" = u."+c.name)
	}
	return "/* update */ UPDATE messages m SET " + strings.Join(sets, ", ") + " FROM (SELECT " + strings.Join(arrays, ", ") +
		") u WHERE m.id = ANY($1::uuid[]) AND m.id = u.id"
}

// change is the work on the states of some messages: lock and read them, ask what
// each becomes, write those that are another then.
type change struct {
	ids     []message.ID
	become  func(id message.ID, s message.State) message.State
	states  map[message.ID]message.State // as they then stand; none of a message that is not there
	changed []message.ID
}

// apply does the work in one transaction of two round trips, one statement each
// way however many messages there are. A repeat finds nothing left to change.
func (c *change) apply(ctx context.Context, conn *pgx.Conn, updateSQL string) (err error) {
	c.states, c.changed = make(map[message.ID]message.State, len(c.ids)), nil
	defer func() {
		if err != nil && !conn.IsClosed() {
			conn.Exec(ctx, "ROLLBACK") // a connection that cannot even do this is thrown away
		}
	}()
	if err := c.lock(ctx, conn); err != nil {
		return err
	}
	for id, s := range c.states {
		if becomes := c.become(id, s); !becomes.Same(&s) {
			c.states[id] = becomes
			c.changed = append(c.changed, id)
		}
	}
	batch := &pgx.Batch{}
	if len(c.changed) > 0 {
		batch.Queue(updateSQL, c.args()...)
	}
	batch.Queue("COMMIT")
	return conn.SendBatch(ctx, batch).Close()
}

// lock opens the transaction and reads the states. Rows are locked in the order
// of their ids, so that of two batches that overlap one waits for the other.
func (c *change) lock(ctx context.Context, conn *pgx.Conn) error {
	batch := &pgx.Batch{}
	batch.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	batch.Queue("/* lock states */ SELECT "+stateColumns+" FROM messages WHERE id = ANY($1) ORDER BY id FOR UPDATE", rawIDs(c.ids))
	answers := conn.SendBatch(ctx, batch)
	defer answers.Close()
	if _, err := answers.Exec(); err != nil {
		return err
	}
	rows, err := answers.Query()
	if err != nil {
		return err
	}
	if err := readStates(rows, c.states); err != nil {
		return err
	}
	return answers.Close()
}

// readStates puts the states of stateColumns into into, and closes rows.
func readStates(rows pgx.Rows, into map[message.ID]message.State) error {
	defer rows.Close()
	for rows.Next() {
		var scan stateScan
		if err := rows.Scan(scan.targets()...); err != nil {
			return &answerError{err}
		}
		state, err := scan.state()
		if err != nil {
			return &answerError{err}
		}
		into[scan.id] = state
	}
	return rows.Err()
}

func (c *change) args() []any {
	columns := make([]column, len(stateSpecs)+1)
	columns[0].reset(pgtype.UUIDOID)
	for k, spec := range stateSpecs {
		columns[k+1].reset(spec.oid)
	}
	for _, id := range c.changed {
		s := c.states[id]
		columns[0].id(id)
		for k, spec := range stateSpecs {
			spec.put(&columns[k+1], nil, &s)
		}
	}
	args := make([]any, len(columns))
	for k := range columns {
		args[k] = &columns[k]
	}
	return args
}

func rawIDs(ids []message.ID) [][16]byte {
	raw := make([][16]byte, len(ids))
	for i, id := range ids {
		raw[i] = id
	}
	return raw
}

// Update implements sink.Store.
func (s *Store) Update(ctx context.Context, batch []message.Record) ([]message.State, error) {
	if len(batch) == 0 {
		return nil, nil
	}
	news := make(map[message.ID][]message.State, len(batch)) // a message may be twice in a batch
	ids := make([]message.ID, 0, len(batch))
	for i := range batch {
		id := batch[i].ID
		if news[id] == nil {
			ids = append(ids, id)
		}
		news[id] = append(news[id], batch[i].State)
	}
	states, err := s.mergeStates(ctx, ids, func(id message.ID, known message.State) message.State {
		for _, in := range news[id] {
			known = known.Merge(in)
		}
		return known
	})
	if err != nil {
		return nil, err
	}
	if err := s.settleEarly(ctx, states, batch); err != nil {
		return nil, err
	}
	result := make([]message.State, len(batch))
	for i := range batch {
		result[i] = states[batch[i].ID]
	}
	return result, nil
}

// mergeStates changes states, and reads those of messages that were set aside,
// which never change.
func (s *Store) mergeStates(ctx context.Context, ids []message.ID, become func(message.ID, message.State) message.State) (map[message.ID]message.State, error) {
	c := &change{ids: ids, become: become}
	err := s.do(ctx, "update", func(ctx context.Context, conn *pgx.Conn) error {
		return c.apply(ctx, conn, s.updateSQL)
	})
	var fault *refusal
	switch {
	case errors.As(err, &fault) && len(ids) > 1: // a state that the database does not take costs no other its own
		half := len(ids) / 2
		states, err := s.mergeStates(ctx, ids[:half], become)
		if err != nil {
			return nil, err
		}
		rest, err := s.mergeStates(ctx, ids[half:], become)
		for id, state := range rest {
			states[id] = state
		}
		return states, err
	case errors.As(err, &fault):
		return s.mergeCleaned(ctx, ids, become, fault)
	case err != nil:
		return nil, err
	}
	if missing := slices.DeleteFunc(slices.Clone(ids), func(id message.ID) bool { _, ok := c.states[id]; return ok }); len(missing) > 0 {
		aside, err := s.states(ctx, missing)
		if err != nil {
			return nil, err
		}
		for id, state := range aside {
			c.states[id] = state
		}
	}
	return c.states, nil
}

// mergeCleaned changes the one state that the database refused as it stands,
// without what a service or a client put into it: the status is worth more.
func (s *Store) mergeCleaned(ctx context.Context, ids []message.ID, become func(message.ID, message.State) message.State, fault *refusal) (map[message.ID]message.State, error) {
	s.logger.Error("a state is stored without its texts: the database refuses it", "id", ids[0], "reason", describe(fault.err))
	c := &change{ids: ids, become: func(id message.ID, known message.State) message.State {
		m := become(id, known)
		m.HoldReason, m.ProviderID = cleaned(m.HoldReason), cleaned(m.ProviderID)
		if m.Error != nil {
			m.Error = &message.Failure{Code: cleaned(m.Error.Code), Category: cleaned(m.Error.Category), Retryable: m.Error.Retryable}
		}
		m.Attempts = slices.Clone(m.Attempts)
		for i := range m.Attempts {
			m.Attempts[i].Outcome, m.Attempts[i].ChannelCode = cleaned(m.Attempts[i].Outcome), ""
		}
		return m
	}}
	err := s.do(ctx, "update", func(ctx context.Context, conn *pgx.Conn) error {
		return c.apply(ctx, conn, s.updateSQL)
	})
	return c.states, err
}

// Unreported implements sink.Store: a sweep in steps, the last of which looks
// again, for a report may come in between.
func (s *Store) Unreported(ctx context.Context, t time.Time, limit int, tell func([]message.Record) error) ([]message.Record, error) {
	var found []message.Record
	err := s.do(ctx, "find unreported", func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "/* find unreported */ SELECT "+recordColumns+" FROM messages WHERE status = 'sent' AND error IS NULL AND sent_at < $1 ORDER BY sent_at LIMIT $2", t, limit)
		if err != nil {
			return err
		}
		found, err = pgx.CollectRows(rows, scanRecord)
		return err
	})
	if err != nil || len(found) == 0 {
		return nil, err
	}
	ids := make([]message.ID, len(found))
	for i := range found {
		ids[i], found[i].State = found[i].ID, found[i].GivenUp()
	}
	if err := tell(found); err != nil {
		return nil, err
	}
	return s.changeRecords(ctx, ids, func(_ message.ID, known message.State) message.State {
		if known.Status != message.Sent || known.Error != nil || !known.SentAt.Before(t) {
			return known
		}
		return known.GivenUp()
	})
}

// changeRecords changes states and returns the records that are others then.
func (s *Store) changeRecords(ctx context.Context, ids []message.ID, become func(message.ID, message.State) message.State) (records []message.Record, err error) {
	c := &change{ids: ids, become: become}
	err = s.do(ctx, "change", func(ctx context.Context, conn *pgx.Conn) error {
		return c.apply(ctx, conn, s.updateSQL)
	})
	if err != nil || len(c.changed) == 0 {
		return nil, err
	}
	err = s.do(ctx, "read changed", func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "/* read changed */ SELECT "+recordColumns+" FROM messages WHERE id = ANY($1) ORDER BY id", rawIDs(c.changed))
		if err != nil {
			return err
		}
		records, err = pgx.CollectRows(rows, scanRecord)
		return err
	})
	return records, err
}
