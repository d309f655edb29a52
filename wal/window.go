package wal

import (
	"context"
	"sync"
	"time"

	"forebay/wal/message"
)

const (
	// starving is how long a lane's oldest message may wait before the lane
	// gets its share of every batch, whatever waits above it.
	starving      = 30 * time.Second
	starvingShare = 10 // a tenth

	// loadAtLeast records are read at once when a lane is read back from disk:
	// fewer, and the seek is most of the cost.
	loadAtLeast = 2048

	// batchShare of WindowBytes is what one call hands out, or brings back, at most.
	batchShare = 4
)

// window hands records to the pipeline: from memory while they fit, and what
// did not fit from disk, in order. Every message key of a lane up to and with
// loaded is in memory here or taken by the pipeline; every one after it is on
// disk only. So memory is bounded, and nothing is looked for twice.
type window struct {
	gather chan struct{} // one gatherer at a time; capacity 1
	wake   chan struct{} // something was committed; capacity 1
	closed chan struct{}
	once   sync.Once

	mu        sync.Mutex
	capacity  int
	maxBytes  int64
	threshold int
	lanes     [message.Lanes]lane
	taken     map[message.ID]int64 // handed out and not complete, with their size
	count     int                  // records in memory, waiting
	bytes     int64                // of count and taken
	tight     bool                 // backpressure is on

	recalled map[message.ID][]byte // states of messages that may be here without them
}

type lane struct {
	returned queue      // came back from parking: served before ready
	ready    queue      // ascending ids
	loaded   message.ID // see window
	durable  message.ID // last one on disk
	onDisk   int        // how many are in (loaded, durable]

	// early are the IDs on their way back from parking. Their record is, or
	// soon will be, under a message key again; where that lies after loaded,
	// load would find and hand it out a second time. true: it came back, to
	// returned, and ahead counts these.
	early map[message.ID]bool
	ahead int
}

func (l *lane) waiting() int { return l.returned.len() + l.ready.len() + l.onDisk }

// oldest is about when the lane's first message was accepted; 0: none waits.
func (l *lane) oldest() (ms uint64) {
	switch {
	case l.ready.len() > 0:
		ms = l.ready.first().ID.Millis()
	case l.onDisk > 0:
		ms = l.loaded.Millis() // not known before it is read; not older than this
	}
	if l.returned.len() > 0 {
		if back := l.returned.first().ID.Millis(); ms == 0 || back < ms {
			ms = back
		}
	}
	return ms
}

func (w *window) init(cfg Config, rec *recovered) {
	w.capacity, w.threshold, w.maxBytes = cfg.Capacity, cfg.Threshold, cfg.WindowBytes
	w.gather, w.wake, w.closed = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{})
	w.taken = map[message.ID]int64{}
	for i := range w.lanes {
		w.lanes[i].onDisk = rec.lanes[i].count
		w.lanes[i].durable = rec.lanes[i].last
		w.lanes[i].loaded = before(rec.lanes[i].first)
		w.lanes[i].early = map[message.ID]bool{}
	}
	w.judgeLocked()
	signal(w.wake)
}

// before is the largest ID smaller than id; the zero ID has none.
func before(id message.ID) message.ID {
	for i := len(id) - 1; i >= 0; i-- {
		id[i]--
		if id[i] != 0xff {
			return id
		}
	}
	return message.ID{}
}

func (w *window) close() { w.once.Do(func() { close(w.closed) }) }

// committed takes what the writer made durable. It runs in the writer.
func (w *window) committed(ops []*op, spill bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.judgeLocked()
	for _, o := range ops {
		switch o.kind {
		case opAppend:
			w.appended(o, spill)
		case opUnpark:
			switch _, recalled := w.recalled[o.id]; {
			case o.stale && recalled:
				w.lanes[o.lane].settle(o.id)
			case o.stale:
				delete(w.lanes[o.lane].early, o.id)
			default:
				w.cameBack(o)
			}
		case opRecall:
			w.recalledNow(o)
		case opComplete, opPark:
			if size, ok := w.taken[o.id]; ok {
				delete(w.taken, o.id)
				w.bytes -= size
			}
			if o.kind == opComplete {
				delete(w.recalled, o.id)
			}
		}
	}
	signal(w.wake)
}

// cameBack takes a message that is no longer parked.
func (w *window) cameBack(o *op) {
	l := &w.lanes[o.lane]
	seq, payload, err := openRecord(o.record, o.id)
	if err != nil { // readParked does not submit a damaged one
		delete(l.early, o.id)
		return
	}
	l.returned.push(message.Entry{ID: o.id, Seq: seq, Payload: payload, Progress: o.state})
	w.count++
	w.bytes += int64(len(payload))
	if o.id.Compare(l.loaded) <= 0 {
		delete(l.early, o.id)
	} else {
		if !l.early[o.id] {
			l.ahead++
		}
		l.early[o.id] = true
	}
}

func (w *window) appended(o *op, spill bool) {
	l := &w.lanes[o.lane]
	l.durable = o.id
	size := int64(len(o.record))
	if spill || w.tight || l.onDisk > 0 || w.count >= w.capacity || w.bytes+size > w.maxBytes {
		if l.onDisk++; l.onDisk == 1 {
			l.passed(before(o.id)) // all that came before is in memory
		}
		return
	}
	l.ready.push(message.Entry{ID: o.id, Seq: o.seq, Payload: o.record[recordHead:]})
	l.passed(o.id)
	w.count++
	w.bytes += size
}

// passed moves loaded on, and forgets what it was waiting to pass.
func (l *lane) passed(id message.ID) {
	l.loaded = id
	if l.ahead == 0 {
		return // on the way of every append
	}
	for id, back := range l.early {
		if back && id.Compare(l.loaded) <= 0 {
			delete(l.early, id)
			l.ahead--
		}
	}
}

// relief is the hysteresis of backpressure: it goes off an eighth below the
// threshold.
const relief = 8

// judgeLocked switches backpressure by the backlog: what waits, in memory and
// on disk, and what is taken.
func (w *window) judgeLocked() {
	backlog := len(w.taken)
	for i := range w.lanes {
		backlog += w.lanes[i].waiting()
	}
	if w.tight {
		w.tight = backlog >= w.threshold-w.threshold/relief
	} else {
		w.tight = backlog >= w.threshold
	}
}

// Backpressure reports whether the backlog has reached Config.Threshold. It
// goes off again an eighth below. While it is on, new records stay on disk.
func (l *Log) Backpressure() bool {
	l.window.mu.Lock()
	defer l.window.mu.Unlock()
	return l.window.tight
}

// waiting counts what has not been handed out.
func (w *window) waiting() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.lanes {
		n += w.lanes[i].waiting()
	}
	return n
}

// Waiting is how many messages wait to be handed out, in memory and on disk;
// those that are parked or taken do not count.
func (l *Log) Waiting() int { return l.window.waiting() }

// Next hands out messages: it blocks until one waits, then for at most linger
// until there are max, and returns what there is. Higher lanes go first and
// within a lane the order is that of acceptance; but a lane whose oldest
// message has waited 30 s gets a tenth of each batch. A batch of large messages
// ends at a quarter of Config.WindowBytes. Each entry belongs to the caller until
// Complete, Park, or the end of the process.
//
// Errors: the cause of ctx, ErrClosed, or a failure to read the log.
func (l *Log) Next(ctx context.Context, max int, linger time.Duration) ([]message.Entry, error) {
	w := &l.window
	select { // one caller gathers, the others wait in line
	case w.gather <- struct{}{}:
		defer func() { <-w.gather }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-w.closed:
		return nil, ErrClosed
	}
	var expired <-chan time.Time
	for {
		n := w.waiting()
		if n >= max || n > 0 && linger <= 0 {
			return l.collect(max)
		}
		if n > 0 && expired == nil {
			timer := time.NewTimer(linger)
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case <-w.wake:
		case <-expired:
			return l.collect(max)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-w.closed:
			return nil, ErrClosed
		}
	}
}

// batchBytes is how large a batch may be, a record more or less; at least 1.
func (w *window) batchBytes() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return max(w.maxBytes/batchShare, 1)
}

// collect takes up to max records, reading back what is on disk only. It is
// called by the gatherer alone.
func (l *Log) collect(max int) ([]message.Entry, error) {
	w := &l.window
	var out []message.Entry
	for i, n := range w.shares(max, l.clock.now()) {
		var err error
		if out, err = l.takeFrom(message.Priority(i), n, w.batchBytes()*int64(n)/int64(max), out); err != nil {
			if len(out) > 0 { // they are taken: they must reach the caller
				l.cfg.Logger.Error("can't read the log back", "lane", message.Priority(i).String(), "err", err)
				return out, nil
			}
			return nil, err
		}
	}
	return out, nil
}

// shares says how many of a batch of max each lane gives: strictly by priority,
// after those lanes that have waited too long got their tenth.
func (w *window) shares(max int, now uint64) (share [message.Lanes]int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := max
	for i := range w.lanes {
		l := &w.lanes[i]
		if at := l.oldest(); i > 0 && at != 0 && now > at+uint64(starving.Milliseconds()) {
			share[i] = min(l.waiting(), (max+starvingShare-1)/starvingShare, left)
			left -= share[i]
		}
	}
	for i := range w.lanes {
		n := min(w.lanes[i].waiting()-share[i], left)
		share[i] += n
		left -= n
	}
	return share
}

// takeFrom adds up to n records of the lane to out, and no more of them than
// bytes allow, but one.
func (l *Log) takeFrom(p message.Priority, n int, bytes int64, out []message.Entry) ([]message.Entry, error) {
	w := &l.window
	for n > 0 && bytes >= 0 {
		before := len(out)
		out, bytes = w.take(p, n, bytes, out)
		if n -= len(out) - before; n == 0 || bytes < 0 {
			return out, nil
		}
		if loaded, err := l.load(p, n); err != nil || loaded == 0 {
			return out, err
		}
	}
	return out, nil
}

// take moves up to n records of the lane from memory to the caller, until bytes
// are used up, and returns what is left of them.
func (w *window) take(p message.Priority, n int, bytes int64, out []message.Entry) ([]message.Entry, int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := &w.lanes[p]
	for ; n > 0 && bytes >= 0; n-- {
		q := &l.returned
		if q.len() == 0 {
			q = &l.ready
		}
		if q.len() == 0 {
			break
		}
		e := q.pop()
		if len(w.recalled) > 0 {
			if state, ok := w.recalled[e.ID]; ok {
				e.Progress = state
			}
		}
		w.taken[e.ID] = int64(len(e.Payload))
		w.count--
		bytes -= int64(len(e.Payload))
		out = append(out, e)
	}
	return out, bytes
}

// queue is a first-in, first-out list that reuses its array.
type queue struct {
	items []message.Entry
	head  int
}

func (q *queue) len() int              { return len(q.items) - q.head }
func (q *queue) first() *message.Entry { return &q.items[q.head] }

func (q *queue) push(e message.Entry) {
	if q.head > 1024 && q.head > len(q.items)/2 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, e)
}

func (q *queue) pop() message.Entry {
	e := q.items[q.head]
	q.items[q.head] = message.Entry{}
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return e
}
