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
// again. One whose attempt is under way has its report already where its end will be.
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
