package sink

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"forebay/wal/message"
)

// rested is what was put to rest over an outage of the store: looked at once,
// found to need the store, and put on a shelf of its lane, so that nothing is
// read or written again before the store is back.
type rested struct {
	some   [message.Lanes]bool // on the lane's shelf; of the detour's goroutine
	coming atomic.Int64        // fetched, and not taken from the log yet
	asked  time.Time           // when coming last grew
}

// kindOutage is the kind of a shelf for what waits for the store. Its channel is
// the store, for which the dispatcher has no outlet: it leaves them alone.
const kindOutage = 3

func outageShelf(lane int) uint64 {
	return shelfID(message.ChannelStore, kindOutage, message.Priority(lane), 0)
}

// restAtOnce is how many come back from the shelves before the first of them are
// taken: what the workers take between two looks, and little memory.
const restAtOnce = 4096

// findRested learns what an earlier run has put to rest.
func (p *Pipeline) findRested() error {
	shelves, err := p.cfg.Dispatcher.cfg.Journal.Shelves()
	if err != nil {
		return err
	}
	for lane := range p.rested.some {
		p.rested.some[lane] = slices.Contains(shelves, outageShelf(lane))
	}
	return nil
}

// shed lets batches rest in the log until the store is back.
func (p *Pipeline) shed(work context.Context, held []batch) error {
	var byLane [message.Lanes][]message.Entry
	for _, b := range held {
		for i := range b.records {
			s := b.records[i].State
			s.HoldReason = HoldStoreDown
			b.entries[i].Progress = s.Append(nil)
			lane := b.entries[i].ID.Lane()
			byLane[lane] = append(byLane[lane], b.entries[i])
		}
	}
	for lane, entries := range byLane {
		for some := range slices.Chunk(entries, restChunk) {
			if err := p.cfg.Dispatcher.cfg.Journal.Shelve(work, outageShelf(lane), some); err != nil {
				return &completeError{err}
			}
			p.rested.some[lane] = true
		}
	}
	return nil
}

// restChunk is how many are put to rest in one call: new messages wait for it.
const restChunk = 200

// fetchRested lets come back what there is room for, the highest lane first.
func (p *Pipeline) fetchRested(ctx context.Context) error {
	r := &p.rested
	for lane := range r.some {
		if !r.some[lane] {
			continue
		}
		if time.Since(r.asked) > arrival {
			r.coming.Store(0) // what has not come by now came as something else (canceled)
		}
		room := restAtOnce - int(max(r.coming.Load(), 0))
		if room < restAtOnce/2 {
			return nil // few at a time cost much
		}
		n, more, err := p.cfg.Dispatcher.cfg.Journal.Fetch(ctx, outageShelf(lane), room)
		if err != nil {
			return err
		}
		r.coming.Add(int64(n))
		r.asked = time.Now()
		r.some[lane] = more
	}
	return nil
}

// arrived notes that a record came back from the log.
func (r *rested) arrived(was *message.Record) {
	if was.HoldReason == HoldStoreDown && r.coming.Load() > 0 {
		r.coming.Add(-1)
	}
}
