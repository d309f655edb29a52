package sink

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"forebay/wal/message"
)

// What does not fit into the queue, and what may not go because a breaker is
// open, rests on shelves of the log: on disk, in order, without memory. It comes
// back when there is room, or when the service answers again, and not by the
// clock to be put away once more.
//
//	4 bits  channel    4 bits  kind    4 bits  priority    48 bits  hash of the name

// The kinds of a shelf.
const (
	kindAccount = 1 // the account's part of the queue is full
	kindHost    = 2 // the service is not to be called
)

func shelfID(c message.Channel, kind uint64, p message.Priority, hash uint64) uint64 {
	return uint64(c)<<56 | kind<<52 | uint64(p)<<48 | hash&(1<<48-1)
}

// hashOf is a part of SHA-256: clients choose hosts, and one who could make two names
// share a shelf would have another's messages wait behind those to a dead host.
func hashOf(name string) uint64 {
	sum := sha256.Sum256([]byte(name))
	return binary.BigEndian.Uint64(sum[:]) >> 16
}

// shelf is what is known of one that is not empty.
type shelf struct {
	id      uint64
	channel message.Channel
	kind    uint64
	p       message.Priority
	hash    uint64
	added   uint64 // how often something was put there
	coming  int    // fetched, and not here yet
	asked   time.Time
	stray   bool // what is on it has another number now: an earlier build put it there
}

// arrival is how long what was fetched may take to arrive: what has not come by
// then came as something else (canceled), and no room is kept for it any longer.
const arrival = 5 * time.Second

// arrivedLocked notes that a message came back from the shelf where it rested.
func (d *Dispatcher) arrivedLocked(o *outlet, r *message.Record) {
	kind := uint64(kindAccount)
	switch r.HoldReason {
	case HoldBreaker, HoldStopped:
		kind = kindHost
	case HoldCap, HoldOff:
	default:
		return
	}
	id, known := o.shelfOf(kind, r)
	if s := d.shelves[id]; known && s != nil && s.coming > 0 {
		s.coming--
	}
}

// shelfOf is the shelf of that kind where a message rests; false: the channel is
// switched off, and nobody knows the service.
func (o *outlet) shelfOf(kind uint64, r *message.Record) (id uint64, known bool) {
	name := r.Account
	if kind == kindHost {
		if o.sender == nil {
			return 0, false
		}
		name = o.sender.Service(&r.Message)
	}
	return shelfID(o.channel, kind, r.ID.Lane(), hashOf(name)), true
}

// findShelves notes what an earlier process has put to rest.
func (d *Dispatcher) findShelves() error {
	ids, err := d.cfg.Journal.Shelves()
	if err != nil {
		return fmt.Errorf("list shelves: %w", err)
	}
	for _, id := range ids {
		first, err := d.cfg.Journal.Browse(id, message.ID{}, 1)
		if err != nil {
			return fmt.Errorf("look at shelf %x: %w", id, err)
		}
		d.mu.Lock()
		s := d.shelfLocked(id)
		s.stray = len(first) > 0 && d.strayLocked(s, first[0])
		d.mu.Unlock()
	}
	return nil
}

// strayLocked reports whether what is on the shelf would rest on another one now.
func (d *Dispatcher) strayLocked(s *shelf, first message.Entry) bool {
	if int(s.channel) >= len(d.outlets) || d.outlets[s.channel] == nil {
		return false
	}
	r, err := first.Record() // an error is for Fetch to report
	id, known := d.outlets[s.channel].shelfOf(s.kind, &r)
	return err == nil && known && id != s.id
}

func (d *Dispatcher) shelfLocked(id uint64) *shelf {
	s := d.shelves[id]
	if s == nil {
		s = &shelf{id: id, channel: message.Channel(id >> 56), kind: id >> 52 & 15, p: message.Priority(id >> 48 & 3), hash: id & (1<<48 - 1)}
		d.shelves[id] = s
	}
	return s
}

// shelve puts jobs to rest, with the state they have.
func (o *outlet) shelve(ctx context.Context, kind uint64, jobs ...*job) {
	byShelf := map[uint64][]*job{}
	for _, j := range jobs {
		hash := hashOf(j.service)
		if kind == kindAccount {
			hash = hashOf(j.rec.Account)
		}
		id := shelfID(o.channel, kind, j.rec.ID.Lane(), hash)
		byShelf[id] = append(byShelf[id], j)
	}
	for id, on := range byShelf {
		if !o.d.rest(ctx, on, func(entries []message.Entry) error { return o.d.cfg.Journal.Shelve(ctx, id, entries) }) {
			return
		}
		o.d.mu.Lock()
		o.d.shelfLocked(id).added++
		for _, j := range on {
			o.d.deadlines.add(&j.rec)
		}
		o.d.mu.Unlock()
	}
}

// park puts jobs to rest until a time, with the state they have.
func (d *Dispatcher) park(ctx context.Context, until time.Time, jobs ...*job) {
	d.rest(ctx, jobs, func(entries []message.Entry) error { return d.cfg.Journal.Park(ctx, until, entries) })
}

// rest puts jobs away by a call to the journal, and forgets them first: as soon
// as that is durable they may come back as others.
func (d *Dispatcher) rest(ctx context.Context, jobs []*job, put func([]message.Entry) error) bool {
	const atOnce = 1000
	for len(jobs) > 0 {
		some := jobs[:min(len(jobs), atOnce)]
		jobs = jobs[len(some):]
		entries := make([]message.Entry, 0, len(some))
		d.mu.Lock()
		for _, j := range some {
			if o := d.outlets[j.rec.Channel]; o != nil {
				o.parked++
				o.overLocked(j)
			}
			entries = append(entries, j.entry)
			d.forgetLocked(j)
		}
		d.mu.Unlock()
		if err := put(entries); err != nil {
			d.fail(ctx, err)
			return false
		}
	}
	return true
}

const (
	fetchTick  = time.Second
	fetchRest  = 10 * time.Millisecond // between two looks, while attempts end
	fetchAtOne = 1024
)

// fetchRoom brings back from the shelves what there is room for, the highest
// priority first, until ctx ends.
func (d *Dispatcher) fetchRoom(ctx context.Context) {
	timer := time.NewTimer(fetchTick)
	defer timer.Stop()
	for ctx.Err() == nil {
		for _, w := range d.wants(time.Now()) {
			n, more, err := d.cfg.Journal.Fetch(ctx, w.id, w.n)
			if err != nil {
				d.fail(ctx, err)
				return
			}
			d.mu.Lock()
			if s := d.shelves[w.id]; s != nil {
				s.coming = max(s.coming-(w.n-n), 0)
				if !more && s.added == w.added {
					delete(d.shelves, w.id) // empty
				}
			}
			d.mu.Unlock()
		}
		timer.Reset(fetchTick)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			continue
		case <-d.fetch:
		}
		timer.Reset(fetchRest) // not at once for each attempt that ends
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
	}
}

// want is a wish for n messages of a shelf.
type want struct {
	id    uint64
	n     int
	added uint64
}

func (d *Dispatcher) wants(now time.Time) (all []want) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, s := range d.shelves {
		if int(s.channel) >= len(d.outlets) || d.outlets[s.channel] == nil {
			delete(d.shelves, id)
			continue
		}
		if n := d.outlets[s.channel].wantLocked(s, now); n > 0 {
			s.coming, s.asked = s.coming+n, now
			all = append(all, want{id, n, s.added})
		}
	}
	slices.SortFunc(all, func(a, b want) int { return int(int64(a.id>>48&3) - int64(b.id>>48&3)) })
	return all
}

// wantLocked is how many messages of the shelf there is room for.
func (o *outlet) wantLocked(s *shelf, now time.Time) int {
	if !o.openLocked(now) || o.bytes >= o.d.delivery.QueueBytes {
		return 0
	}
	if now.Sub(s.asked) > arrival {
		s.coming = 0
	}
	if s.kind == kindAccount {
		room := o.roomLocked(o.accounts.hashed[s.hash], s.p) - s.coming
		if room < o.accountLimit()/4 {
			return 0 // few at a time cost much
		}
		return min(room, fetchAtOne)
	}
	if s.stray { // what may not go yet goes to its own shelf
		return min(fetchAtOne, o.d.cfg.QueueLimit-o.queued[s.p]) - s.coming
	}
	h := o.hosts.hashed[s.hash]
	if h == nil {
		return max(1-s.coming, 0) // its name comes with it
	}
	if o.d.cfg.Breakers != nil && o.d.cfg.Breakers.RetryAt(h.name).After(now) {
		return 0
	}
	if h.ill || o.stops > 0 {
		return max(1-h.queued-s.coming, 0) // a probe
	}
	return min(h.credit-h.queued-s.coming, fetchAtOne, o.d.cfg.QueueLimit-o.queued[s.p])
}
