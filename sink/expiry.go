package sink

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"forebay/wal/message"
)

// What rests on a shelf has no time at which it comes back, and may expire there.
// The soonest ends are kept in memory, an id each; only when all of these are past
// are the shelves read once more for the next. So a long outage costs no reading,
// and a message is told to be expired within seconds, whatever its breaker does.

const (
	deadlineLimit = 1 << 16 // ids in memory; half of them stay when there is no more room
	expiryTick    = time.Second
	expiryAtOnce  = 1000 // looked at before the shelves are asked again
	expiryWorkers = 16   // their ends share a sync of the log
	browseAtOnce  = 1000
)

// deadline is when a message on a shelf expires, in Unix ms.
type deadline struct {
	at int64
	id message.ID
}

// deadlines are the soonest of them.
type deadlines struct {
	soonest deadlineHeap
	// horizon: every message on a shelf that expires before it is in soonest.
	horizon int64
}

type deadlineHeap []deadline

func (h deadlineHeap) Len() int           { return len(h) }
func (h deadlineHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h deadlineHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *deadlineHeap) Push(x any) { *h = append(*h, x.(deadline)) }

// Pop implements heap.Interface.
func (h *deadlineHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// add notes when a message on a shelf expires.
func (l *deadlines) add(r *message.Record) {
	exp := r.ExpiresAt()
	if exp.IsZero() || exp.UnixMilli() >= l.horizon {
		return
	}
	heap.Push(&l.soonest, deadline{exp.UnixMilli(), r.ID})
	if len(l.soonest) <= deadlineLimit {
		return
	}
	slices.SortFunc(l.soonest, func(a, b deadline) int { return cmp.Compare(a.at, b.at) }) // in order it is a heap, too
	l.horizon = l.soonest[deadlineLimit/2].at
	l.soonest = slices.Clip(l.soonest[:deadlineLimit/2])
}

// due takes out up to n whose time has come.
func (l *deadlines) due(now int64, n int) (ids []message.ID) {
	for len(l.soonest) > 0 && l.soonest[0].at <= now && len(ids) < n {
		ids = append(ids, heap.Pop(&l.soonest).(deadline).id)
	}
	return ids
}

// expireResting ends messages that expire on a shelf, until ctx ends.
func (d *Dispatcher) expireResting(ctx context.Context) {
	tick := time.NewTicker(expiryTick)
	defer tick.Stop()
	for {
		if err := d.expireDue(ctx); err != nil {
			d.fail(ctx, err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// expireDue is one look of expireResting.
func (d *Dispatcher) expireDue(ctx context.Context) error {
	for ctx.Err() == nil {
		present := now().UnixMilli()
		d.mu.Lock()
		ids := d.deadlines.due(present, expiryAtOnce)
		blind := d.deadlines.horizon <= present
		d.mu.Unlock()
		if len(ids) == 0 && !blind {
			return nil
		}
		if err := d.expireAll(ctx, ids); err != nil {
			return err
		}
		if blind && len(ids) == 0 {
			if err := d.readDeadlines(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// readDeadlines finds the soonest ends on all shelves. What is put there meanwhile
// is noted by who puts it.
func (d *Dispatcher) readDeadlines(ctx context.Context) error {
	d.mu.Lock()
	d.deadlines = deadlines{horizon: math.MaxInt64}
	d.mu.Unlock()
	shelves, err := d.cfg.Journal.Shelves()
	if err != nil {
		return err
	}
	for _, s := range shelves {
		var after message.ID
		for ctx.Err() == nil {
			entries, err := d.cfg.Journal.Browse(s, after, browseAtOnce)
			if err != nil {
				return err
			}
			if len(entries) == 0 {
				break
			}
			d.mu.Lock()
			for i := range entries {
				after = entries[i].ID
				if r, err := entries[i].Record(); err == nil { // else Fetch reports it
					d.deadlines.add(&r)
				}
			}
			d.mu.Unlock()
		}
	}
	return nil
}

// expireAll ends those of the messages that still rest.
func (d *Dispatcher) expireAll(ctx context.Context, ids []message.ID) error {
	var workers sync.WaitGroup
	errs := make([]error, min(len(ids), expiryWorkers))
	for w := range errs {
		workers.Go(func() {
			for i := w; i < len(ids) && errs[w] == nil; i += len(errs) {
				errs[w] = d.expire(ctx, ids[i])
			}
		})
	}
	workers.Wait()
	return errors.Join(errs...)
}

// expire ends a message that rests. One that is in the queue or further is looked
// at before its attempt; one that is on its way there meets the verdict.
func (d *Dispatcher) expire(ctx context.Context, id message.ID) error {
	entry, err := d.cfg.Journal.Lookup(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	r, err := entry.Record()
	present := now()
	if err != nil || settledStatus(r.Status) || !expired(&r, present) {
		return nil // what cannot be read is reported where it is fetched
	}
	v := &verdict{at: present, end: expiredState}
	d.mu.Lock()
	if d.held[id] != nil || d.cancels[id] != nil {
		d.mu.Unlock()
		return nil
	}
	d.cancels[id] = v
	d.mu.Unlock()
	s := expiredState(r.State, present)
	_, err = d.cfg.Journal.Recall(ctx, id, s.Append(nil))
	d.recalled(&r, err)
	if errors.Is(err, ErrNotFound) {
		return nil // it has met its end meanwhile
	}
	return err
}

// recalled notes how the recall of a message went that nobody held.
func (d *Dispatcher) recalled(r *message.Record, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		delete(d.cancels, r.ID)
		return
	}
	if o := d.outlets[r.Channel]; o != nil && r.HoldReason != "" && o.parked > 0 {
		o.parked-- // its new state does not say that it rested
	}
}
