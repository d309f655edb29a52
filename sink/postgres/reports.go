package postgres

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"forebay/sink"
	"forebay/wal/message"
)

// A report and the record of its sending may come at the same moment, and the
// two do not lock each other out. So each is written first, for good, and then
// looks for the other: whoever is last finds it, and merging twice is harmless.

// Report implements sink.Store.
func (s *Store) Report(ctx context.Context, reports []message.Report) ([]message.Record, error) {
	valid := make([]message.Report, 0, len(reports))
	for _, r := range reports {
		if r.Valid() {
			r.ProviderID = cleaned(r.ProviderID)
			valid = append(valid, r)
		}
	}
	changed, unknown, err := s.applyReports(ctx, valid)
	if err != nil || len(unknown) == 0 {
		return changed, err
	}
	if err := s.keepReports(ctx, unknown); err != nil {
		return nil, err
	}
	// The second look changes a message only if its record came just now: then
	// the reports that were kept go, and what they changed is told once.
	late, still, err := s.applyReports(ctx, unknown)
	if err != nil || len(still) == len(unknown) {
		return changed, err
	}
	if err := s.settleKept(ctx, unknown); err != nil {
		return nil, err
	}
	return append(changed, late...), nil
}

// applyReports merges reports into the messages that are known, and returns what
// that changed and the reports of no message.
func (s *Store) applyReports(ctx context.Context, reports []message.Report) (changed []message.Record, unknown []message.Report, err error) {
	if len(reports) == 0 {
		return nil, nil, nil
	}
	owners, err := s.findReported(ctx, reports)
	if err != nil {
		return nil, nil, err
	}
	heard := make(map[message.ID][]message.Report)
	var ids []message.ID
	for i, r := range reports {
		id := owners[i]
		if id.IsZero() {
			unknown = append(unknown, r)
			continue
		}
		if heard[id] == nil {
			ids = append(ids, id)
		}
		heard[id] = append(heard[id], r)
	}
	if len(ids) == 0 {
		return nil, unknown, nil
	}
	changed, err = s.changeRecords(ctx, ids, func(id message.ID, known message.State) message.State {
		return mergeReports(known, heard[id])
	})
	return changed, unknown, err
}

// mergeReports merges what was reported of one message, the earliest first.
func mergeReports(known message.State, reports []message.Report) message.State {
	slices.SortStableFunc(reports, func(a, b message.Report) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Status, b.Status)) })
	for i := range reports {
		known = known.Merge(reports[i].State())
	}
	return known
}

// namesIn are the ids, ours and the providers', that reports name.
func namesIn(reports []message.Report) (ids []message.ID, providers []string) {
	for _, r := range reports {
		if !r.ID.IsZero() {
			ids = append(ids, r.ID)
		}
		if r.ProviderID != "" {
			providers = append(providers, r.ProviderID)
		}
	}
	return ids, providers
}

// findReported returns the message of each report; zero: it is not known. Our own
// id counts for more than the provider's, but neither outside its channel.
func (s *Store) findReported(ctx context.Context, reports []message.Report) ([]message.ID, error) {
	type name struct {
		channel  message.Channel
		provider string
	}
	ids, providers := namesIn(reports)
	channels, names := make(map[message.ID]message.Channel), make(map[name]message.ID)
	err := s.do(ctx, "find reported", func(ctx context.Context, conn *pgx.Conn) error {
		batch := &pgx.Batch{}
		batch.Queue("/* find reported */ SELECT id, channel, provider_id FROM messages WHERE id = ANY($1)", rawIDs(ids))
		batch.Queue(`/* find provider ids */ SELECT id, channel, provider_id FROM messages
			WHERE provider_id IS NOT NULL AND left(provider_id, 200) = ANY(SELECT left(p, 200) FROM unnest($1::text[]) p)`, providers)
		answers := conn.SendBatch(ctx, batch)
		defer answers.Close()
		for range 2 {
			rows, err := answers.Query()
			if err != nil {
				return err
			}
			for rows.Next() {
				var id [16]byte
				var channel string
				var provider zeronull.Text
				if err := rows.Scan(&id, &channel, &provider); err != nil {
					return &answerError{err}
				}
				c, _ := message.ParseChannel(channel)
				channels[id] = c
				if provider != "" {
					names[name{c, string(provider)}] = id
				}
			}
			if err := rows.Err(); err != nil {
				return err
			}
		}
		return answers.Close()
	})
	if err != nil {
		return nil, err
	}
	owners := make([]message.ID, len(reports))
	for i, r := range reports {
		if c, ok := channels[r.ID]; ok && c == r.Channel {
			owners[i] = r.ID
		} else if r.ProviderID != "" {
			owners[i] = names[name{r.Channel, r.ProviderID}]
		}
	}
	return owners, nil
}

// keepReports makes reports of unknown messages durable. The same twice is kept
// once.
func (s *Store) keepReports(ctx context.Context, reports []message.Report) error {
	elems := [...]uint32{pgtype.TextOID, pgtype.TextOID, pgtype.UUIDOID, pgtype.TextOID, pgtype.TimestamptzOID, pgtype.JSONOID}
	columns := make([]column, len(elems))
	args := []any{time.Now()}
	for c := range columns {
		columns[c].reset(elems[c])
		args = append(args, &columns[c])
	}
	for _, r := range reports {
		columns[0].text(r.Channel.String())
		columns[1].text(r.ProviderID)
		columns[2].id(r.ID)
		columns[3].text(r.Status.String())
		columns[4].time(latest(r.At, time.UnixMilli(1)))
		if r.Failure == nil {
			columns[5].null()
		} else {
			putJSON(&columns[5], failureJSON{cleaned(r.Failure.Code), cleaned(r.Failure.Category), r.Failure.Retryable,
				cleaned(r.Failure.ChannelCode), cleaned(r.Failure.Message)})
		}
	}
	err := s.do(ctx, "keep reports", func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `/* keep reports */ INSERT INTO reports (received_at, channel, provider_id, id, status, at, error)
			SELECT $1, u.* FROM (SELECT unnest($2::text[]) AS channel, unnest($3::text[]) AS provider_id, unnest($4::uuid[]) AS id,
				unnest($5::text[]) AS status, unnest($6::timestamptz[]) AS at, unnest($7::json[]) AS error) u
			WHERE NOT EXISTS (SELECT FROM reports r WHERE r.channel = u.channel AND r.status = u.status AND r.at = u.at
				AND r.provider_id IS NOT DISTINCT FROM u.provider_id AND r.id IS NOT DISTINCT FROM u.id
				AND (left(r.provider_id, 200) = left(u.provider_id, 200) OR r.id = u.id))`, args...)
		return err
	})
	var fault *refusal
	if errors.As(err, &fault) { // nothing in a report is anybody's but the provider's: none is worth stopping for
		s.logger.Error("reports are lost: the database refuses them", "reports", len(reports), "reason", describe(fault.err))
		return nil
	}
	return err
}

// hearEarly merges what was reported of messages that were sent before they were
// stored: the database was away meanwhile.
func (s *Store) hearEarly(ctx context.Context, j *job) error {
	var sent []message.Record
	states := make(map[message.ID]message.State)
	for _, i := range j.rows {
		if r := &j.batch[i]; j.results[i].Outcome == sink.New && (len(r.Attempts) > 0 || r.ProviderID != "") {
			sent = append(sent, message.Record{ID: r.ID})
			states[r.ID] = j.results[i].State
		}
	}
	if len(sent) == 0 {
		return nil
	}
	if err := s.settleEarly(ctx, states, sent); err != nil {
		return err
	}
	for _, r := range sent {
		j.results[j.at[r.ID]].State = states[r.ID]
	}
	return nil
}

// settleEarly merges the reports that were kept for these messages, and puts what
// that made of them into states.
func (s *Store) settleEarly(ctx context.Context, states map[message.ID]message.State, batch []message.Record) error {
	var sought []message.Report
	for i := range batch {
		if state, ok := states[batch[i].ID]; ok && (len(state.Attempts) > 0 || state.ProviderID != "") {
			sought = append(sought, message.Report{ID: batch[i].ID, ProviderID: state.ProviderID})
		}
	}
	if len(sought) == 0 {
		return nil
	}
	kept, numbers, err := s.findKept(ctx, sought)
	if err != nil || len(kept) == 0 {
		return err
	}
	changed, unknown, err := s.applyReports(ctx, kept)
	if err != nil {
		return err
	}
	for _, r := range changed {
		if _, ok := states[r.ID]; ok {
			states[r.ID] = r.State
		}
	}
	if len(unknown) > 0 {
		return nil // of another channel with the same provider's id: they stay
	}
	return s.dropKept(ctx, numbers)
}

// settleKept removes what was kept of reports that have found their messages.
func (s *Store) settleKept(ctx context.Context, reports []message.Report) error {
	kept, numbers, err := s.findKept(ctx, reports)
	if err != nil || len(kept) == 0 {
		return err
	}
	_, unknown, err := s.applyReports(ctx, kept)
	if err != nil || len(unknown) > 0 {
		return err
	}
	return s.dropKept(ctx, numbers)
}

// findKept returns the kept reports that name the same ids.
func (s *Store) findKept(ctx context.Context, sought []message.Report) (kept []message.Report, numbers []int64, err error) {
	ids, providers := namesIn(sought)
	err = s.do(ctx, "find reports", func(ctx context.Context, conn *pgx.Conn) error {
		kept, numbers = nil, nil
		rows, err := conn.Query(ctx, `/* find reports */ SELECT number, channel, provider_id, id, status, at, error FROM reports
			WHERE id = ANY($1) OR provider_id IS NOT NULL AND left(provider_id, 200) = ANY(SELECT left(p, 200) FROM unnest($2::text[]) p)
			ORDER BY number`, rawIDs(ids), providers)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var number int64
			r, err := scanReport(rows, &number)
			if err != nil {
				return &answerError{err}
			}
			kept, numbers = append(kept, r), append(numbers, number)
		}
		return rows.Err()
	})
	return kept, numbers, err
}

func scanReport(rows pgx.Rows, number *int64) (r message.Report, err error) {
	var channel, status string
	var provider zeronull.Text
	var id zeronull.UUID
	var failure []byte
	if err := rows.Scan(number, &channel, &provider, &id, &status, &r.At, &failure); err != nil {
		return r, err
	}
	r.Channel, _ = message.ParseChannel(channel)
	r.Status, _ = message.ParseStatus(status)
	r.ProviderID, r.ID = string(provider), message.ID(id)
	if failure != nil {
		var f failureJSON
		if err := json.Unmarshal(failure, &f); err != nil {
			return r, err
		}
		r.Failure = (*message.Failure)(&f)
	}
	return r, nil
}

func (s *Store) dropKept(ctx context.Context, numbers []int64) error {
	return s.do(ctx, "drop reports", func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "/* drop reports */ DELETE FROM reports WHERE number = ANY($1)", numbers)
		return err
	})
}

// dropReports deletes reports whose messages never came.
func (s *Store) dropReports(ctx context.Context, now time.Time) error {
	return s.deleteRows(ctx, "reports", `/* drop old reports */ DELETE FROM reports WHERE number IN (
		SELECT number FROM reports WHERE received_at <= $1 ORDER BY received_at LIMIT $2 FOR UPDATE SKIP LOCKED)`, now.Add(-sink.EarlyReports))
}
