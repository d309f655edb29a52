package sink

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"forebay/wal/message"
)

// While the store is down the workers wait at its gate, each with a batch. What
// may go without the store goes on all the same, by this detour: out of those
// batches, and out of what still comes from the log. What may not is held, up to
// a bound, and beyond it rests on shelves of the log until the store is back
// (rested.go).

const (
	outageLook   = 50 * time.Millisecond
	heldLimit    = 5000            // entries in memory during an outage, beside the workers' batches; see Config.HeldBytes
	heldPatience = 5 * time.Second // before the bound is passed where nothing could go anyway
)

// route hands to the dispatcher what has no need of an insert, and validates the
// rest.
func (p *Pipeline) route(work context.Context, b *batch) {
	d := p.cfg.Dispatcher
	if d == nil {
		return
	}
	present := now()
	p.divert(work, b, func(r *message.Record) bool {
		if !r.StoredAt.IsZero() || settledStatus(r.Status) {
			return true
		}
		p.rested.arrived(r)
		if r.Status == message.Accepted {
			r.HoldReason, r.NextAttemptAt = "", time.Time{}
		}
		*r = archived(*r)
		d.validate(r, present)
		return false
	})
}

// bypass hands to the dispatcher what may go while the store is down.
func (p *Pipeline) bypass(work context.Context, b *batch) (n int) {
	if p.cfg.Dispatcher == nil {
		return 0
	}
	return p.divert(work, b, deliverable)
}

// divert moves the records that leave says so of from the batch to the
// dispatcher.
func (p *Pipeline) divert(work context.Context, b *batch, leave func(*message.Record) bool) int {
	var entries []message.Entry
	var records []message.Record
	kept := 0
	for i := range b.records {
		if leave(&b.records[i]) {
			entries, records = append(entries, b.entries[i]), append(records, b.records[i])
			b.bytes -= len(b.entries[i].Payload)
			continue
		}
		b.entries[kept], b.records[kept] = b.entries[i], b.records[i]
		kept++
	}
	if len(records) == 0 {
		return 0
	}
	b.entries, b.records = b.entries[:kept], b.records[:kept]
	p.cfg.Dispatcher.admit(work, entries, records)
	return len(records)
}

// detour takes from the log while the store is down, until taking ends.
func (p *Pipeline) detour(taking, work context.Context) error {
	if err := p.findRested(); err != nil {
		return &completeError{err}
	}
	look := time.NewTicker(outageLook)
	defer look.Stop()
	for {
		select {
		case <-taking.Done():
			return nil
		case <-look.C:
		}
		pass := p.fetchRested
		if !p.gate.since().IsZero() {
			if !p.cfg.Dispatcher.delivers() {
				continue // nothing could go
			}
			pass = func(context.Context) error { return p.outage(taking, work) }
		}
		if err := pass(work); err != nil {
			if taking.Err() != nil && !errors.As(err, new(*completeError)) {
				return nil
			}
			return err
		}
	}
}

// outage lets go what may go until the store is up, and then stores what it has
// held meanwhile.
func (p *Pipeline) outage(taking, work context.Context) error {
	var held []batch
	count, bytes, useful := 0, 0, false
	full := time.Time{} // since when the bound is reached
	for !p.gate.since().IsZero() && taking.Err() == nil {
		if count >= heldLimit || bytes >= p.Tuning().HeldBytes {
			if full.IsZero() {
				full = time.Now()
			}
			if !useful && time.Since(full) < heldPatience {
				if err := wait(taking, outageLook); err != nil {
					return err
				}
				continue
			}
			if err := p.shed(work, held); err != nil {
				return err
			}
			held, count, bytes, useful, full = nil, 0, 0, false, time.Time{}
		}
		ctx, cancel := context.WithTimeoutCause(taking, 5*outageLook, errLook)
		entries, err := p.take(ctx)
		cancel()
		if errors.Is(err, errLook) {
			continue
		}
		if err != nil {
			return err
		}
		for _, b := range p.decode(entries) {
			p.route(work, &b)
			useful = p.bypass(work, &b) > 0 || useful
			if len(b.records) > 0 {
				held, count, bytes = append(held, b), count+len(b.records), bytes+b.bytes
			}
		}
	}
	now := p.Tuning()
	for _, b := range byImportance(held, now.BatchSize, now.MaxBatchBytes) {
		if err := p.settle(taking, work, b); err != nil {
			return err
		}
	}
	return nil
}

// byImportance puts what was taken over a whole outage into the order in which
// the log would hand it out now: what came last may be the most important.
func byImportance(held []batch, size, maxBytes int) []batch {
	type taken struct {
		entry  message.Entry
		record message.Record
	}
	var all []taken
	for _, b := range held {
		for i := range b.records {
			all = append(all, taken{b.entries[i], b.records[i]})
		}
	}
	slices.SortFunc(all, func(x, y taken) int {
		if order := cmp.Compare(x.record.ID.Lane(), y.record.ID.Lane()); order != 0 {
			return order
		}
		return x.record.ID.Compare(y.record.ID)
	})
	var batches []batch
	var b batch
	for _, t := range all {
		if n := len(b.records); n > 0 && (n >= size || b.bytes+len(t.entry.Payload) > maxBytes) {
			batches = append(batches, b)
			b = batch{}
		}
		b.entries, b.records, b.bytes = append(b.entries, t.entry), append(b.records, t.record), b.bytes+len(t.entry.Payload)
	}
	if len(b.records) > 0 {
		batches = append(batches, b)
	}
	return batches
}

var errLook = errors.New("time to look whether the store is up")
