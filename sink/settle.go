package sink

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"forebay/wal/message"
)

const (
	settlers     = 2
	settleAtOnce = 500
	settleLinger = 5 * time.Millisecond // for some more
	settleSome   = 8
	settleLatest = 50 * time.Millisecond // for all of a batch
)

// conclude makes the end of a job durable in the log, and hands it on to the
// settlers, which bring it into the store.
func (d *Dispatcher) conclude(ctx context.Context, j *job, s message.State) {
	d.mu.Lock()
	j.phase, j.tried = settling, j.phase == sending
	d.outlets[j.rec.Channel].overLocked(j)
	d.mu.Unlock()
	j.become(s)
	if err := d.cfg.Journal.Progress(ctx, []message.Entry{j.entry}); err != nil {
		d.fail(ctx, err)
		return
	}
	d.settle(ctx, j)
}

// settle hands jobs whose end is durable in the log to the settlers.
func (d *Dispatcher) settle(ctx context.Context, jobs ...*job) {
	for _, j := range jobs {
		select {
		case d.settler <- j:
		case <-ctx.Done():
			return // the log hands it out again
		}
	}
}

// settleAll brings the ends of jobs into the store, in batches, until ctx ends
// and nothing is left.
func (d *Dispatcher) settleAll(ctx context.Context) {
	work := context.WithoutCancel(ctx)
	for {
		batch := d.gather(ctx)
		if len(batch) == 0 {
			return
		}
		if err := d.settleBatch(work, batch); err != nil {
			d.fail(work, err)
			return
		}
	}
}

// gather waits for a batch; none: ctx has ended and nothing waits.
func (d *Dispatcher) gather(ctx context.Context) (batch []*job) {
	select {
	case j := <-d.settler:
		batch = append(batch, j)
	default:
		select {
		case j := <-d.settler:
			batch = append(batch, j)
		case <-ctx.Done():
			return nil
		}
	}
	timer := time.NewTimer(settleLinger)
	defer timer.Stop()
	latest := time.Now().Add(settleLatest)
	for len(batch) < settleAtOnce {
		select {
		case j := <-d.settler:
			batch = append(batch, j)
			if len(batch)%settleSome == 0 {
				timer.Reset(min(settleLinger, time.Until(latest)))
			}
		case <-timer.C:
			return batch
		}
	}
	return batch
}

// settleBatch brings the ends of jobs into the store, tells of them as the store
// then has them, and lets the log forget. The store goes first, for it knows what a
// provider has reported meanwhile: whoever was told that a message is delivered
// must not hear after that that it is sent. Where one of these cannot be done now,
// the jobs rest in the log with the end they have, and come back for it. An error:
// the log has failed.
func (d *Dispatcher) settleBatch(ctx context.Context, jobs []*job) error {
	if until := d.knock.closedUntil(); !until.IsZero() {
		d.putOff(ctx, until, jobs)
		return nil
	}
	s := sieve{d: d}
	s.sift(ctx, jobs)
	if left := jobs[len(s.taken)+len(s.refused):]; len(left) > 0 {
		until := d.knock.failed(s.err)
		if !errors.As(s.err, new(*Down)) {
			d.log.Error("The store refused the ends of messages. They wait in the log and are tried again; an operator must look at it.",
				"err", s.err, "again_at", until, "messages", len(left))
		}
		d.putOff(ctx, until, left)
	} else {
		d.knock.answered()
	}
	if len(s.refused) > 0 {
		d.log.Error("The store refused the ends of some messages and took others. They wait in the log and are tried again; an operator must look at it.",
			"err", s.err, "again_in", refusedRest, "ids", ids(recordsOf(s.refused)))
		d.putOff(ctx, time.Now().Add(refusedRest), s.refused)
	}
	return d.finish(ctx, s.taken)
}

// finish tells of jobs as the store has them, and lets the log forget them.
func (d *Dispatcher) finish(ctx context.Context, jobs []*job) error {
	if jobs = d.tellOrPark(ctx, jobs); len(jobs) == 0 {
		return nil
	}
	entries := make([]message.Entry, len(jobs))
	for i, j := range jobs {
		entries[i] = j.entry
		d.metrics.final(j.rec.Channel, j.rec.Status)
	}
	if err := d.cfg.Journal.Complete(ctx, entries); err != nil {
		return err
	}
	d.drop(jobs...)
	return nil
}

const (
	// refusedRest is how long a message waits whose end alone the store refused.
	refusedRest = time.Minute
	// refusalsInARow are more than one message at fault can cause in the largest
	// batch: after them it is the store.
	refusalsInARow = 16
)

// sieve finds the messages of a batch whose ends the store refuses, for what is
// wrong with one of them must not keep back the others. It goes in order: those
// that it has not come to stand after the others.
type sieve struct {
	d              *Dispatcher
	taken, refused []*job
	inARow         int   // refusals
	err            error // the last
}

// sift brings jobs into the store, and reports whether the store is worth asking
// further.
func (s *sieve) sift(ctx context.Context, jobs []*job) bool {
	err := s.d.archive(ctx, jobs)
	if err == nil {
		s.taken, s.inARow = append(s.taken, jobs...), 0
		return true
	}
	s.err = err
	if s.inARow++; s.inARow > refusalsInARow || errors.As(err, new(*Down)) {
		return false
	}
	if len(jobs) == 1 {
		s.refused = append(s.refused, jobs[0])
		return true
	}
	half := len(jobs) / 2
	return s.sift(ctx, jobs[:half]) && s.sift(ctx, jobs[half:])
}

// putOff lets jobs rest whose end the store does not take now. That is told
// already: no report can overtake it while there is no store to report to.
func (d *Dispatcher) putOff(ctx context.Context, until time.Time, jobs []*job) {
	if jobs = d.tellOrPark(ctx, jobs); len(jobs) > 0 {
		d.park(ctx, until, jobs...)
	}
}

// tellOrPark tells of the jobs' changes. Where that cannot be made durable, those of
// which somebody wants to know rest; it returns the others.
func (d *Dispatcher) tellOrPark(ctx context.Context, jobs []*job) (told []*job) {
	if len(jobs) == 0 {
		return nil
	}
	err := d.tell(ctx, jobs)
	if err == nil {
		return jobs
	}
	var untold []*job
	for _, j := range jobs {
		if j.told || d.callbackTo(&j.rec) == "" {
			told = append(told, j)
			continue
		}
		j.become(j.rec.State)
		untold = append(untold, j)
	}
	d.log.Warn("Callbacks can't be accepted into the log; the messages they tell of wait.", "err", err, "messages", len(untold))
	d.park(ctx, time.Now().Add(callbackRest), untold...)
	return told
}

// archive brings the states of jobs into the store: what it does not have is
// inserted, and what it has is updated. The jobs then have the states that the
// store has.
func (d *Dispatcher) archive(ctx context.Context, jobs []*job) error {
	var known, fresh []*job
	for _, j := range jobs {
		if j.stored {
			known = append(known, j)
		} else {
			fresh = append(fresh, j)
		}
	}
	behind, err := d.insert(ctx, fresh)
	if err != nil {
		return err
	}
	if known = append(known, behind...); len(known) == 0 {
		return nil
	}
	states, err := d.cfg.Archive.Update(ctx, recordsOf(known))
	if err != nil {
		return err
	}
	var gone []*job
	for i, s := range states {
		if !s.Status.Valid() { // the store has lost it, or never had it
			known[i].stored = false
			gone = append(gone, known[i])
			continue
		}
		known[i].adopt(s)
	}
	_, err = d.insert(ctx, gone)
	return err
}

// insert stores jobs, and returns those that the store had already in another
// state.
func (d *Dispatcher) insert(ctx context.Context, jobs []*job) (behind []*job, err error) {
	if len(jobs) == 0 {
		return nil, nil
	}
	results, err := d.cfg.Archive.Insert(ctx, recordsOf(jobs))
	if err != nil {
		return nil, err
	}
	for i, res := range results {
		jobs[i].stored = true
		if res.Outcome == Known && res.State.Status != jobs[i].rec.Status {
			behind = append(behind, jobs[i])
			continue
		}
		jobs[i].adopt(res.State)
	}
	return behind, nil
}

func recordsOf(jobs []*job) []message.Record {
	records := make([]message.Record, len(jobs))
	for i, j := range jobs {
		records[i] = archived(j.rec)
	}
	return records
}

// archived is the record as the store is to have it. A callback's key is the
// log's alone, which keeps it from being accepted twice: it claims nothing in
// the store, so that it need not wait for one.
func archived(r message.Record) message.Record {
	if r.Callback {
		r.IdempotencyKey, r.Fingerprint = "", message.Fingerprint{}
	}
	return r
}

// knock keeps the settlers from knocking at a store that is down more often than
// a backoff allows.
type knock struct {
	mu       sync.Mutex // guards what follows
	until    time.Time
	failures int
}

func (k *knock) closedUntil() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Now().Before(k.until) {
		return k.until
	}
	return time.Time{}
}

func (k *knock) failed(err error) time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	backoff := Backoff{time.Second, 30 * time.Second}
	if !errors.As(err, new(*Down)) {
		backoff = Backoff{5 * time.Second, 5 * time.Minute}
	}
	k.failures++
	k.until = time.Now().Add(backoff.Ceiling(k.failures)/2 + backoff.Delay(k.failures, rand.Uint64())/2)
	return k.until
}

func (k *knock) answered() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failures = 0
}
