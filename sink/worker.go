package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"forebay/wal/message"
)

// batch is what one insert is made of: records, and the entries they came from.
type batch struct {
	entries []message.Entry
	records []message.Record
	bytes   int // of payload
}

// work takes batches and stores them until taking ends. What is under way then
// goes on until work ends.
func (p *Pipeline) work(taking, work context.Context) error {
	for {
		entries, err := p.take(taking)
		if err != nil {
			if taking.Err() != nil {
				return nil // stopped, or another worker failed and says why
			}
			return fmt.Errorf("take from log: %w", err)
		}
		for _, b := range p.decode(entries) {
			if err := p.settle(taking, work, b); err != nil {
				if taking.Err() != nil && !errors.As(err, new(*completeError)) {
					return nil // not stored in time: the log hands it out again
				}
				return err
			}
		}
	}
}

// take returns the next entries, as many as fit the moment.
func (p *Pipeline) take(ctx context.Context) ([]message.Entry, error) {
	select {
	case p.taking <- struct{}{}:
		defer func() { <-p.taking }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if ctx.Err() != nil { // select chooses at random where both are ready
		return nil, context.Cause(ctx)
	}
	return p.cfg.Source.Next(ctx, p.sizer.next(p.cfg.Source.Waiting()), p.Tuning().BatchTimeout)
}

// decode turns entries into batches, several where one would have too many
// bytes. An entry that cannot be read is reported and left out: it stays in
// the log, and holds up nobody.
func (p *Pipeline) decode(entries []message.Entry) []batch {
	var batches []batch
	limit := p.Tuning().MaxBatchBytes
	b := batch{records: make([]message.Record, 0, len(entries)), entries: make([]message.Entry, 0, len(entries))}
	for _, e := range entries {
		record, err := e.Record()
		if err != nil {
			p.metrics.unreadable.Inc()
			p.log.Error("An entry of the log cannot be read. It stays there; an operator must look at it.",
				"id", e.ID, "seq", e.Seq, "err", err)
			if p.cfg.OnUnreadable != nil {
				p.cfg.OnUnreadable(e, err)
			}
			continue
		}
		if len(b.records) > 0 && b.bytes+len(e.Payload) > limit {
			batches = append(batches, b)
			b = batch{}
		}
		b.records, b.entries, b.bytes = append(b.records, record), append(b.entries, e), b.bytes+len(e.Payload)
	}
	if len(b.records) > 0 {
		batches = append(batches, b)
	}
	return batches
}

// completeError is a failure of the log to forget what is stored.
type completeError struct{ err error }

func (e *completeError) Error() string { return "complete entries: " + e.err.Error() }
func (e *completeError) Unwrap() error { return e.err }

// settle brings a batch to where the log may forget it, and what has still to be
// delivered to the dispatcher.
func (p *Pipeline) settle(taking, work context.Context, b batch) error {
	p.route(work, &b)
	results, err := p.insert(taking, work, &b)
	if err != nil || len(results) == 0 {
		return err
	}
	came := make([]message.State, len(results))
	for i, res := range results {
		p.metrics.rows[res.Outcome].Inc()
		came[i] = b.records[i].State
		adopt(&b.records[i], res)
		if res.Outcome == SetAside {
			p.log.Error("The store refused a message for its own fault. It is kept there as failed.",
				"id", b.records[i].ID, "reason", res.State.Error)
		}
	}
	p.meter.add(time.Now(), len(results))
	if p.cfg.OnStored != nil {
		p.cfg.OnStored(b.records)
	}
	if err := p.tell(work, &b, came); err != nil {
		return err
	}
	var final, open batch
	for i := range b.records {
		switch {
		case b.records[i].Status.Final():
			final.entries, final.records = append(final.entries, b.entries[i]), append(final.records, b.records[i])
		case p.cfg.Dispatcher != nil:
			open.entries, open.records = append(open.entries, b.entries[i]), append(open.records, b.records[i])
		}
	}
	if err := p.complete(work, final); err != nil {
		return err
	}
	if len(open.records) > 0 {
		p.cfg.Dispatcher.admit(work, open.entries, open.records)
	}
	return nil
}

// adopt takes over the state that the store has. What was tried while the store
// was down stays known.
func adopt(r *message.Record, res Result) {
	attempts, cause := r.Attempts, r.Error
	r.State = res.State
	if len(attempts) > len(r.Attempts) {
		r.Attempts, r.Error = attempts, cause
	}
}

// tell makes the records' changes known. Where that cannot be made durable, those of
// which somebody wants to know leave the batch: one that is final rests with its end,
// another as it came, so that it is told of before it is sent.
func (p *Pipeline) tell(work context.Context, b *batch, came []message.State) error {
	d := p.cfg.Dispatcher
	if d == nil {
		return nil
	}
	d.forgetFinal(b.records)
	err := d.Changed(work, b.records)
	if err == nil {
		return nil
	}
	var untold []message.Entry
	kept := 0
	for i, r := range b.records {
		if d.callbackTo(&r) == "" {
			b.entries[kept], b.records[kept] = b.entries[i], r
			kept++
			continue
		}
		s := came[i]
		if r.Status.Final() {
			s = r.State
		}
		e := b.entries[i]
		e.Progress = s.Append(nil)
		untold = append(untold, e)
	}
	b.entries, b.records = b.entries[:kept], b.records[:kept]
	if len(untold) == 0 {
		return nil // nobody wants to know any more
	}
	p.log.Warn("Callbacks can't be accepted into the log; the messages they tell of wait.", "err", err, "messages", len(untold))
	return p.logged(work, d.cfg.Journal.Park(work, time.Now().Add(callbackRest), untold))
}

// complete lets the log forget what is final.
func (p *Pipeline) complete(work context.Context, final batch) error {
	if len(final.entries) == 0 {
		return nil
	}
	if d := p.cfg.Dispatcher; d != nil {
		for i := range final.records {
			d.metrics.final(final.records[i].Channel, final.records[i].Status)
		}
	}
	return p.logged(work, p.cfg.Source.Complete(work, final.entries))
}

// logged tells a log that has failed from one that had no time left.
func (p *Pipeline) logged(work context.Context, err error) error {
	if err != nil && work.Err() != nil {
		return context.Cause(work) // it is stored, and will be known
	}
	if err != nil {
		return &completeError{err}
	}
	return nil
}

// insert stores a batch, for as long as it takes, less what leaves it for the
// dispatcher while the store is down. Once taking has ended it returns an error
// rather than try again.
func (p *Pipeline) insert(taking, work context.Context, b *batch) ([]Result, error) {
	for refused := 0; ; {
		if !p.gate.since().IsZero() {
			p.bypass(work, b)
		}
		if len(b.records) == 0 {
			return nil, nil
		}
		pass, err := p.gate.enter(taking)
		if err != nil {
			return nil, err
		}
		results, took, err := p.fly(work, b.records)
		var down *Down
		switch {
		case err == nil:
			p.answered(pass)
			p.sizer.observe(len(b.records), p.cfg.Source.Waiting(), took)
			p.meter.insert(len(b.records), took)
			return results, nil
		case work.Err() != nil:
			p.gate.abandon(pass)
			return nil, err
		case errors.As(err, &down):
			p.metrics.errorsDown.Inc()
			if p.gate.leaveDown(pass, down) {
				p.log.Error("The store is down. Accepted messages wait in the log.", "err", down.Err)
			}
			if taking.Err() != nil {
				return nil, err
			}
		default:
			p.answered(pass)
			refused++
			p.metrics.errorsFault.Inc()
			delay := p.cfg.Slow.Delay(refused, rand.Uint64())
			p.log.Error("The store refused a whole batch. It will be tried again; an operator must look at it.",
				"err", err, "attempt", refused, "again_in", delay, "ids", ids(b.records))
			if err := wait(taking, delay); err != nil {
				return nil, err
			}
		}
	}
}

// answered leaves the gate after a call that the store answered.
func (p *Pipeline) answered(pass pass) {
	if outage := p.gate.leave(pass); outage > 0 {
		p.log.Info("The store is up again.", "down_for", outage.Round(time.Millisecond))
	}
}

// fly makes one call to the store that no cancel may cross.
func (p *Pipeline) fly(work context.Context, records []message.Record) ([]Result, time.Duration, error) {
	if d := p.cfg.Dispatcher; d != nil {
		defer d.land(d.takeOff(records))
	}
	return p.try(work, records)
}

// try makes one call to the store, and holds the store to its contract.
func (p *Pipeline) try(ctx context.Context, records []message.Record) ([]Result, time.Duration, error) {
	start := time.Now()
	results, err := p.cfg.Store.Insert(ctx, records)
	took := time.Since(start)
	p.metrics.duration.Observe(took.Seconds())
	p.metrics.batch.Observe(float64(len(records)))
	if err != nil {
		return nil, took, err
	}
	if len(results) != len(records) {
		return nil, took, fmt.Errorf("insert %d records: the store answered for %d", len(records), len(results))
	}
	for i, res := range results {
		if res.Outcome < New || res.Outcome > SetAside || !res.State.Status.Valid() {
			return nil, took, fmt.Errorf("insert %s: the store answered %v, %v", records[i].ID, res.Outcome, res.State.Status)
		}
	}
	return results, took, nil
}

// wait waits for d, or returns the cause of ctx.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// ids names records in a log line, and is evaluated only where it is written.
type ids []message.Record

func (r ids) LogValue() slog.Value {
	names := make([]string, len(r))
	for i := range r {
		names[i] = r[i].ID.String()
	}
	return slog.AnyValue(names)
}
