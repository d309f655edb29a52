package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"forebay/sink"
	"forebay/wal/message"
)

// job is the work of one Insert; it is used again.
type job struct {
	batch   []message.Record
	results []sink.Result
	now     time.Time // stored_at of everything that is new

	rows    []int              // index in batch of each id's first record, in order
	at      map[message.ID]int // the same by id
	keyed   bool               // some record has an idempotency key
	days    []day              // that the ids lie in
	refused []refused

	sorted []int  // the rows of one statement, by id
	copied column // what COPY sends
}

// refused is a row that the database does not take, and why.
type refused struct {
	row    int
	reason error
}

func newJob() *job { return &job{at: make(map[message.ID]int)} }

// begin takes in a batch. Of records that are twice in it the first counts.
func (j *job) begin(batch []message.Record, now time.Time) {
	j.batch, j.results, j.now = batch, make([]sink.Result, len(batch)), now.UTC().Truncate(time.Millisecond)
	for i := range batch {
		r := &batch[i]
		if _, twice := j.at[r.ID]; twice {
			continue
		}
		j.at[r.ID] = i
		j.rows = append(j.rows, i)
		j.keyed = j.keyed || r.IdempotencyKey != ""
		if d := dayOf(r.ID); !slices.Contains(j.days, d) {
			j.days = append(j.days, d)
		}
	}
}

// end forgets the batch, which belongs to the caller.
func (j *job) end() {
	j.batch, j.results, j.keyed = nil, nil, false
	clear(j.at)
	clear(j.refused)
	j.rows, j.days, j.refused, j.sorted = j.rows[:0], j.days[:0], j.refused[:0], j.sorted[:0]
}

// Insert implements sink.Store.
func (s *Store) Insert(ctx context.Context, batch []message.Record) ([]sink.Result, error) {
	j := s.jobs.Get().(*job)
	defer func() {
		j.end()
		s.jobs.Put(j)
	}()
	j.begin(batch, time.Now())
	if len(batch) == 0 {
		return nil, nil
	}
	if err := s.insertRows(ctx, j, j.rows); err != nil {
		return nil, err
	}
	if err := s.setAside(ctx, j); err != nil {
		return nil, err
	}
	if err := s.readKnown(ctx, j); err != nil {
		return nil, err
	}
	if err := s.hearEarly(ctx, j); err != nil {
		return nil, err
	}
	for i := range batch { // repeats within the batch
		if first := j.at[batch[i].ID]; first != i {
			j.results[i] = sink.Result{Outcome: sink.Known, State: j.results[first].State}
		}
	}
	return j.results, nil
}

// insertRows inserts rows, which are in the batch's order, in one transaction.
// If one of them is refused, each half has its own, until the row is alone.
func (s *Store) insertRows(ctx context.Context, j *job, rows []int) error {
	err := s.do(ctx, "insert", func(ctx context.Context, conn *pgx.Conn) error {
		if err := s.partitions.ensure(ctx, conn, j.days); err != nil {
			return err
		}
		j.reset(rows)
		return s.write(ctx, conn, j, rows)
	})
	var fault *refusal
	switch {
	case !errors.As(err, &fault):
		return err
	case len(rows) == 1:
		j.refused = append(j.refused, refused{rows[0], fault.err})
		return nil
	}
	half := len(rows) / 2
	if err := s.insertRows(ctx, j, rows[:half]); err != nil {
		return err
	}
	return s.insertRows(ctx, j, rows[half:])
}

// reset makes the results what they are if every row is new, but for the outcome:
// a row is known until the database says that it is not.
func (j *job) reset(rows []int) {
	for _, i := range rows {
		r, res := &j.batch[i], &j.results[i]
		*res = sink.Result{Outcome: sink.Known, State: r.State}
		res.State.StoredAt = j.now
		if r.Status == message.Accepted {
			res.State.Status = message.Queued
			if r.Channel == message.ChannelStore {
				res.State.Status = message.Stored
			}
		}
	}
}

// collect reads the ids of what is new.
func (j *job) collect(found pgx.Rows) error {
	defer found.Close()
	for found.Next() {
		var id message.ID
		if copy(id[:], found.RawValues()[0]) != len(id) {
			return &answerError{errors.New("the database answers with an id that is none")}
		}
		i, ours := j.at[id]
		if !ours {
			return &answerError{fmt.Errorf("the database answers with an id that was not asked for: %s", id)}
		}
		j.markNew(i)
	}
	return found.Err()
}

// markNew notes that a row is stored now, as what the claims have made of it.
func (j *job) markNew(i int) {
	j.results[i].Outcome = sink.New
	if j.results[i].State.Status == message.Duplicate {
		j.results[i].Outcome = sink.Duplicate
	}
}

// readKnown reads the states of the rows that were there already.
func (s *Store) readKnown(ctx context.Context, j *job) error {
	var known []message.ID
	for _, i := range j.rows {
		if j.results[i].Outcome == sink.Known {
			known = append(known, j.batch[i].ID)
		}
	}
	if len(known) == 0 {
		return nil
	}
	states, err := s.states(ctx, known)
	if err != nil {
		return err
	}
	for _, id := range known {
		state, ok := states[id]
		if !ok {
			// Neither returned nor there: a trigger or a rule has swallowed it, or
			// it was deleted in between. The second time around it will be kept.
			j.refused = append(j.refused, refused{j.at[id], errSwallowed})
			continue
		}
		j.results[j.at[id]].State = state
	}
	return s.setAside(ctx, j)
}

// states reads the states of messages, whichever table they are in.
func (s *Store) states(ctx context.Context, ids []message.ID) (map[message.ID]message.State, error) {
	raw := make([][16]byte, len(ids))
	for i, id := range ids {
		raw[i] = id
	}
	states := make(map[message.ID]message.State, len(ids))
	err := s.do(ctx, "read states", func(ctx context.Context, conn *pgx.Conn) error {
		clear(states)
		aside, err := queryAside(ctx, conn, "/* states set aside */ "+asideSQL+" WHERE id = ANY($1)", raw)
		if err != nil {
			return err
		}
		for _, r := range aside {
			states[r.ID] = r.State
		}
		rows, err := conn.Query(ctx, "/* states */ SELECT "+stateColumns+" FROM messages WHERE id = ANY($1)", raw)
		if err != nil {
			return err
		}
		return readStates(rows, states)
	})
	return states, err
}
