package sink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"forebay/wal/message"
)

// Reported takes messages of which a provider has reported, as the store has them
// now. One that this node still has in its log, to be tried once more because nobody
// knew how its attempt had ended, has been sent, as the report shows, and is not sent
// again. One whose attempt is under way has its report already where its end will be,
// or is looked for there before it is tried once more.
func (d *Dispatcher) Reported(ctx context.Context, records []message.Record) error {
	for i := range records {
		if !settledStatus(records[i].Status) {
			continue
		}
		if err := d.reported(ctx, &records[i]); err != nil {
			return fmt.Errorf("end message %s by its report: %w", records[i].ID, err)
		}
	}
	return nil
}

func (d *Dispatcher) reported(ctx context.Context, r *message.Record) error {
	end := func(s message.State, _ time.Time) message.State { return s.Merge(r.State) }
	for {
		_, again, err := d.end(ctx, r.ID, end)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrTooLate) {
			return nil
		}
		if !again || err != nil {
			return err
		}
		if err := wait(ctx, cancelRetry); err != nil {
			return err
		}
	}
}

// reportedLimit is how long the store gets to say what it has heard of a message.
// Without an answer the message is tried once more, as if there had been no report.
const reportedLimit = 2 * time.Second

// reportedRest is for how long nobody asks after that: where the store is away, every
// attempt would have to wait for it.
const reportedRest = 5 * time.Second

// reported asks the store, before a message is tried once more, whether its provider
// has reported of it: during its last attempt, or to another node, or while this one
// was away. Then it was sent. It returns the state that the message ends with.
func (o *outlet) reported(ctx context.Context, j *job) (s message.State, ok bool) {
	o.d.mu.Lock()
	reports := o.reports && !time.Now().Before(o.unheard)
	o.d.mu.Unlock()
	if !reports || j.rec.Test || attemptsOf(&j.rec.State) == 0 {
		return s, false
	}
	ctx, cancel := context.WithTimeout(ctx, reportedLimit)
	defer cancel()
	r, err := o.d.cfg.Archive.Get(ctx, "", j.rec.ID)
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			o.d.mu.Lock()
			o.unheard = time.Now().Add(reportedRest)
			o.d.mu.Unlock()
		}
		if !errors.Is(err, ErrNotFound) && !errors.As(err, new(*Down)) && ctx.Err() == nil {
			o.d.log.Warn("The store cannot say whether a message was reported of; it is tried once more.", "id", j.rec.ID, "err", err)
		}
		return s, false
	}
	return j.rec.State.Merge(r.State), settledStatus(r.Status)
}
