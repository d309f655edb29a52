package sink

import (
	"context"
	"slices"
	"time"

	"forebay/wal/message"
)

// validate is what is decided about a message before the store has it: whether
// it may go at all, and when.
func (d *Dispatcher) validate(r *message.Record, present time.Time) {
	if r.Status != message.Accepted || r.Channel == message.ChannelStore {
		return
	}
	d.mu.Lock()
	sender := d.outlets[r.Channel].sender
	d.mu.Unlock()
	var why *message.Failure
	if d.cfg.Admit != nil && !r.Callback {
		why = d.cfg.Admit(r.Account, r.Channel)
	}
	if why == nil && sender != nil && !r.Test {
		why = d.checkSafely(sender, r)
	}
	switch {
	case why != nil:
		r.Status, r.FailedAt, r.Error = message.Rejected, present, why
	case r.SendAt.After(present):
		r.Status, r.ScheduledAt, r.NextAttemptAt, r.HoldReason = message.Scheduled, r.SendAt, r.SendAt, HoldScheduled
	}
}

// deliverable reports whether the message may go before the store knows it: one
// with an idempotency key may not, for another node may have the same.
func deliverable(r *message.Record) bool {
	return r.Channel != message.ChannelStore && r.IdempotencyKey == "" && !settledStatus(r.Status)
}

// admit takes messages over from the pipeline: into the queue, or to where they
// rest in the log. It does not wait for a delivery.
func (d *Dispatcher) admit(ctx context.Context, entries []message.Entry, records []message.Record) {
	var s sorted
	present := now()
	entries, records, ok := d.announce(ctx, entries, records, present)
	if !ok {
		return
	}
	d.mu.Lock()
	for i := range records {
		d.sortLocked(&s, &job{entry: entries[i], rec: records[i], since: records[i].StoredAt, stored: !records[i].StoredAt.IsZero()}, present)
	}
	d.mu.Unlock()
	for _, j := range s.later {
		d.park(ctx, j.rec.NextAttemptAt, j)
	}
	for o, jobs := range s.overflow {
		o.shelve(ctx, kindAccount, jobs...)
	}
	for o, jobs := range s.ill {
		o.shelve(ctx, kindHost, jobs...)
	}
	if len(s.recorded) > 0 {
		ended := make([]message.Entry, len(s.recorded))
		for i, j := range s.recorded {
			ended[i] = j.entry
		}
		if err := d.cfg.Journal.Progress(ctx, ended); err != nil {
			d.fail(ctx, err)
			return
		}
	}
	d.settle(ctx, append(s.recorded, s.ended...)...)
	for o := range s.woken {
		signal(o.wake)
	}
	signal(d.fetch)
}

// announce makes it known that messages are queued now which were not before:
// those whose time has come, and those that go without the store. It is told, and
// durable, before they can be sent; where that cannot be, those of which somebody
// wants to know wait for it in the log as they are. It returns those that go on;
// false: the log has failed.
func (d *Dispatcher) announce(ctx context.Context, entries []message.Entry, records []message.Record, present time.Time) ([]message.Entry, []message.Record, bool) {
	at := d.unannounced(entries, records, present)
	if len(at) == 0 {
		return entries, records, true
	}
	told := make([]message.Record, len(at))
	for n, i := range at {
		told[n] = records[i]
		told[n].Status, told[n].HoldReason, told[n].NextAttemptAt = message.Queued, "", time.Time{}
	}
	var untold []int
	if err := d.Changed(ctx, told); err != nil {
		var waiting []*job
		for n, i := range at {
			if d.callbackTo(&told[n]) != "" {
				j := &job{entry: entries[i], rec: records[i]}
				j.become(records[i].State)
				waiting, untold = append(waiting, j), append(untold, i)
			}
		}
		d.log.Warn("Callbacks can't be accepted into the log; the messages they tell of wait.", "err", err, "messages", len(waiting))
		d.park(ctx, time.Now().Add(callbackRest), waiting...)
	}
	var queued []message.Entry
	for n, i := range at {
		if _, waits := slices.BinarySearch(untold, i); !waits {
			records[i], entries[i].Progress = told[n], told[n].State.Append(nil)
			queued = append(queued, entries[i])
		}
	}
	if len(queued) > 0 {
		if err := d.cfg.Journal.Progress(ctx, queued); err != nil {
			d.fail(ctx, err)
			return nil, nil, false
		}
	}
	return without(entries, untold), without(records, untold), true
}

// callbackRest is how long messages wait whose callbacks the log does not take.
const callbackRest = 5 * time.Second

// unannounced finds the messages that are queued from now on.
func (d *Dispatcher) unannounced(entries []message.Entry, records []message.Record, present time.Time) (at []int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range records {
		r := &records[i]
		o := d.outlets[r.Channel]
		if o == nil || d.cancels[r.ID] != nil || r.Status != message.Accepted && (r.Status != message.Scheduled || r.SendAt.After(present)) {
			continue
		}
		if r.Status == message.Scheduled && entries[i].Progress != nil && o.parked > 0 {
			o.parked--
		}
		at = append(at, i)
	}
	return at
}

// without returns list less the places in at, which ascend.
func without[T any](list []T, at []int) []T {
	if len(at) == 0 {
		return list
	}
	kept := make([]T, 0, len(list)-len(at))
	for i := range list {
		if len(at) > 0 && at[0] == i {
			at = at[1:]
			continue
		}
		kept = append(kept, list[i])
	}
	return kept
}

// sorted is where each of the messages that were handed over goes.
type sorted struct {
	ended    []*job // their end is in the log
	recorded []*job // their end is not yet
	later    []*job
	overflow map[*outlet][]*job
	ill      map[*outlet][]*job
	woken    map[*outlet]bool
}

func (d *Dispatcher) sortLocked(s *sorted, j *job, present time.Time) {
	r := &j.rec
	o := d.outlets[r.Channel]
	if o != nil && r.HoldReason != "" && r.HoldReason != HoldScheduled || r.Status == message.Scheduled && j.entry.Progress != nil {
		if o != nil && o.parked > 0 {
			o.parked--
		}
	}
	if o != nil {
		d.arrivedLocked(o, r)
	}
	if v := d.cancels[r.ID]; v != nil && !settledStatus(r.Status) {
		v.taken = true
		j.become(v.end(r.State, v.at))
	}
	delete(d.cancels, r.ID)
	switch {
	case settledStatus(r.Status) || o == nil:
		j.phase = settling
		s.ended = append(s.ended, j)
	case r.Status == message.Sending && o.policy == PolicyFail:
		// The process ended during the attempt.
		j.phase = settling
		st := r.State
		st.Status, st.FailedAt = message.Failed, present
		st.Error = &message.Failure{Code: "outcome_unknown", Category: "channel", Retryable: true,
			Message: "the appliance stopped during the attempt, and whether the message was sent is not known"}
		j.become(st)
		s.recorded = append(s.recorded, j)
	case r.Status == message.Scheduled && r.SendAt.After(present):
		j.become(r.State)
		s.later = append(s.later, j)
		return
	default:
		d.enqueueLocked(s, o, j, present)
		return
	}
	d.held[r.ID] = j
}

// enqueueLocked puts a job into the queue, or has it shelved.
func (d *Dispatcher) enqueueLocked(s *sorted, o *outlet, j *job, present time.Time) {
	r := &j.rec
	st := r.State
	st.Status, st.HoldReason, st.NextAttemptAt = message.Queued, "", time.Time{}
	j.rec.State = st
	j.service = string(o.channel.String())
	if o.sender != nil {
		j.service = o.sender.Service(&r.Message)
	}
	hold := func(into *map[*outlet][]*job, reason string) {
		st.HoldReason = reason
		j.become(st)
		if *into == nil {
			*into = map[*outlet][]*job{}
		}
		(*into)[o] = append((*into)[o], j)
	}
	h := o.hosts.named[j.service]
	switch {
	case o.sender == nil:
		hold(&s.overflow, HoldOff)
	case present.Before(o.stoppedUntil):
		hold(&s.ill, HoldStopped)
	case h != nil && (h.ill || o.stops > 0) && h.queued > 0 && !r.Test:
		hold(&s.ill, HoldBreaker)
	case o.roomLocked(o.accounts.named[r.Account], r.ID.Lane()) <= 0:
		hold(&s.overflow, HoldCap)
	default:
		d.held[r.ID] = j
		o.pushLocked(j)
		if s.woken == nil {
			s.woken = map[*outlet]bool{}
		}
		s.woken[o] = true
	}
}
