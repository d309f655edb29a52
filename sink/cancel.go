package sink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"forebay/wal/message"
)

// ErrTooLate: the message is being sent, or has been, or has come to another end.
var ErrTooLate = errors.New("too late to cancel")

// verdict is the end of a message that the dispatcher does not hold: it is on
// its way through the pipeline, or rests in the log.
type verdict struct {
	at    time.Time
	end   func(message.State, time.Time) message.State
	taken bool // the message has met it
}

// flight is a batch that is being inserted.
type flight struct{ records []message.Record }

// cancelRetry is how long Cancel looks again at a message that is just between
// the queue and its attempt, where it may yet be put back.
const cancelRetry = 2 * time.Millisecond

// Cancel ends a message that is not being sent yet, and decides it once: what
// Cancel has answered with nil is never sent, durably, whether or not the store
// is up; and an attempt that has begun makes it ErrTooLate. Canceling again what
// is canceled is no error. It returns the message as it then stands.
// ErrNotFound; *Down where only the store could know the message and is down.
func (d *Dispatcher) Cancel(ctx context.Context, id message.ID) (message.Record, error) {
	for {
		r, again, err := d.cancel(ctx, id)
		if !again {
			return r, err
		}
		if err := wait(ctx, cancelRetry); err != nil {
			return r, err
		}
	}
}

func (d *Dispatcher) cancel(ctx context.Context, id message.ID) (r message.Record, again bool, err error) {
	r, again, err = d.end(ctx, id, canceledState)
	switch {
	case errors.Is(err, ErrNotFound):
		return d.canceledAlready(ctx, id)
	case errors.Is(err, ErrTooLate) && r.Status == message.Canceled:
		return r, false, nil
	}
	return r, again, err
}

// end gives a message that is not being sent the state that it ends with, durably,
// wherever it is: in the queue, on its way there, or at rest in the log. It returns
// the message as it then stands. again: it is just being moved. ErrNotFound: the log
// does not have it any more; ErrTooLate.
func (d *Dispatcher) end(ctx context.Context, id message.ID, end func(message.State, time.Time) message.State) (r message.Record, again bool, err error) {
	entry, err := d.cfg.Journal.Lookup(id)
	if err == nil {
		r, err = entry.Record()
	}
	if err != nil {
		return r, false, fmt.Errorf("end message %s: %w", id, err)
	}
	if settledStatus(r.Status) {
		return r, false, ErrTooLate
	}
	v := &verdict{at: now(), end: end}
	j, again, err := d.decide(&r, v)
	if again || err != nil {
		return r, again, err
	}
	before := r
	r.State = v.end(r.State, v.at)
	_, err = d.cfg.Journal.Recall(ctx, id, r.State.Append(nil))
	if j != nil {
		if err != nil {
			d.fail(ctx, err)
			return r, false, err
		}
		j.become(r.State)
		d.settle(ctx, j)
		return r, false, nil
	}
	d.recalled(&before, err)
	if errors.Is(err, ErrNotFound) {
		d.mu.Lock()
		taken := v.taken
		d.mu.Unlock()
		if taken {
			return r, false, nil
		}
	}
	return r, false, err
}

// decide is the moment of the decision. It returns the job that now belongs to
// the caller, or nil where the message will meet the verdict; again: the message
// is just being moved.
func (d *Dispatcher) decide(r *message.Record, v *verdict) (j *job, again bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if j := d.held[r.ID]; j != nil {
		switch j.phase {
		case waiting:
			j.phase = canceled
			r.State = j.rec.State
			return j, false, nil
		case picked:
			return nil, true, nil
		case canceled:
			return nil, true, nil // another cancel is making it durable
		}
		return nil, false, ErrTooLate // its state belongs to who sends or settles it
	}
	if r.Channel == message.ChannelStore {
		for f := range d.flights {
			for i := range f.records {
				if f.records[i].ID == r.ID {
					return nil, false, ErrTooLate // it may be stored by now
				}
			}
		}
	}
	if d.cancels[r.ID] != nil {
		return nil, true, nil
	}
	d.cancels[r.ID] = v
	return nil, false, nil
}

// canceledAlready answers for a message that the log does not have.
func (d *Dispatcher) canceledAlready(ctx context.Context, id message.ID) (message.Record, bool, error) {
	r, err := d.cfg.Archive.Get(ctx, "", id)
	if err == nil && r.Status != message.Canceled {
		err = ErrTooLate
	}
	return r, false, err
}

func canceledState(s message.State, at time.Time) message.State {
	s.Status, s.FailedAt, s.HoldReason, s.NextAttemptAt, s.Error = message.Canceled, time.Time{}, "", time.Time{}, nil
	return s
}

// takeOff begins an insert: records that are canceled are stored so. land ends
// it. In between nobody may cancel what an insert decides for good.
func (d *Dispatcher) takeOff(records []message.Record) *flight {
	f := &flight{records}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.cancels) > 0 {
		for i := range records {
			if v := d.cancels[records[i].ID]; v != nil && records[i].Channel == message.ChannelStore {
				v.taken = true
				records[i].State = v.end(records[i].State, v.at)
			}
		}
	}
	d.flights[f] = struct{}{}
	return f
}

func (d *Dispatcher) land(f *flight) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.flights, f)
}

// forgetFinal drops the verdicts on records that have come to their end.
func (d *Dispatcher) forgetFinal(records []message.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.cancels) == 0 {
		return
	}
	for i := range records {
		if records[i].Status.Final() {
			delete(d.cancels, records[i].ID)
		}
	}
}
