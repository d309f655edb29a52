package sink

import (
	"context"
	"fmt"
	"time"

	"forebay/wal/message"
)

// tell makes the jobs' changes known that have not been told: the callbacks are
// durable in the log when it returns.
func (d *Dispatcher) tell(ctx context.Context, jobs []*job) error {
	var changed []message.Record
	for _, j := range jobs {
		if j.told {
			continue
		}
		changed = append(changed, j.rec)
	}
	if err := d.Changed(ctx, changed); err != nil {
		return err
	}
	for _, j := range jobs {
		j.told = true
	}
	return nil
}

// publish tells OnChange that a message is being sent, or queued once more. That it is
// being sent has its callback before (tellSending); a status that a message comes to
// once more has no other.
func (d *Dispatcher) publish(j *job) {
	if d.cfg.OnChange != nil {
		d.cfg.OnChange([]message.Record{j.rec})
	}
}

// tellSending makes durable that a message is about to be sent, if somebody wants to
// know. Where that cannot be, the message waits for it in the log. One that was tried
// before was told of then: its key may be forgotten by now, and would be claimed anew.
func (o *outlet) tellSending(ctx context.Context, j *job, s message.State) bool {
	if len(s.Attempts) > 0 {
		return true
	}
	r := j.rec
	r.State = s
	err := o.d.Callbacks(ctx, []message.Record{r})
	if err == nil {
		return true
	}
	if ctx.Err() == nil { // else the log hands it out again
		o.d.log.Warn("A callback can't be accepted into the log; the message that it tells of waits.", "id", r.ID, "err", err)
		o.hold(ctx, j, HoldRetry, time.Now().Add(callbackRest))
	}
	return false
}

// Changed tells of records whose status has changed: to OnChange, and to the
// callback of each that has one, as a message of the log, durable when Changed
// returns. A repeat of the same id and status accepts no second callback for as
// long as the log remembers idempotency keys.
func (d *Dispatcher) Changed(ctx context.Context, records []message.Record) error {
	if len(records) == 0 {
		return nil
	}
	if d.cfg.OnChange != nil {
		d.cfg.OnChange(records)
	}
	return d.Callbacks(ctx, records)
}

// Callbacks makes the callbacks of Changed durable and tells nobody else: for
// records whose change may have been told only in part before a crash.
func (d *Dispatcher) Callbacks(ctx context.Context, records []message.Record) error {
	if d.cfg.Append == nil || d.cfg.Render == nil {
		return nil
	}
	var all []*message.Message
	for i := range records {
		m, err := d.callback(&records[i])
		if err != nil {
			d.log.Error("A callback can't be rendered; it is left out.", "id", records[i].ID, "err", err)
		}
		if m != nil {
			all = append(all, m)
		}
	}
	if len(all) == 0 {
		return nil
	}
	if err := d.cfg.Append(ctx, all); err != nil {
		return fmt.Errorf("accept %d callbacks, the first of message %s: %w", len(all), records[0].ID, err)
	}
	return nil
}

// callback is the message that tells of the record's status; nil: nobody wants
// to know.
func (d *Dispatcher) callback(r *message.Record) (*message.Message, error) {
	to := d.callbackTo(r)
	if to == "" {
		return nil, nil
	}
	body, err := d.cfg.Render(r)
	if err != nil {
		return nil, err
	}
	m := &message.Message{Account: r.Account, Channel: message.ChannelWebhook, Priority: r.Priority, Callback: true, To: to,
		Body: string(body), TTL: callbackTTL, TraceParent: r.TraceParent, RequestID: r.RequestID,
		// No client's key begins with a control character.
		IdempotencyKey: "\x01" + r.ID.String() + "." + changeOf(r)}
	m.Fingerprint[0] = 1 // the same for every body: the first one counts
	return m, nil
}

// callbackTo is where the record's status is to be told; empty: nowhere.
func (d *Dispatcher) callbackTo(r *message.Record) string {
	switch {
	case r.Callback || r.Status == message.Accepted || d.cfg.Append == nil || d.cfg.Render == nil:
		return ""
	case d.cfg.CallbackURL != nil:
		return d.cfg.CallbackURL(r)
	}
	return r.CallbackURL
}

// changeOf names the change of a record to the state that it has. A message that
// is given up stays sent, which it was told to be before.
func changeOf(r *message.Record) string {
	if r.Status == message.Sent && r.Final() {
		return r.Status.String() + "." + message.CodeNoReport
	}
	return r.Status.String()
}

const callbackTTL = 72 * 60 * 60 * 1e9 // ns: three days, the schedule's length and more
