package wal

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"forebay/wal/message"
)

type opKind uint8

const (
	opAppend   opKind = iota + 1 // record, perhaps with a key
	opComplete                   // the message's final status is in the store
	opProgress                   // how far delivery got
	opPark                       // wait on disk until due
	opUnpark                     // due: back into the lane
	opRecall                     // another state, and back into the lane wherever it is
	opForget                     // an idempotency key has expired
	opPad                        // fills the memtable; without a record: takes the pad away
)

// op is one change to one message. It goes into one transaction whole.
type op struct {
	kind        opKind
	lane        message.Priority
	id          message.ID // opAppend: issued by the writer; opForget: of the message that had the key
	seq         uint64
	record      []byte // opAppend, opPark, opUnpark: the sealed record; opAppend: sealed by the writer
	state       []byte // opProgress, opPark, opUnpark: encoded message.State
	due         uint64 // opPark: until when; opUnpark, opRecall: until when it was parked
	key         []byte // opAppend: idempotency key or nil; opForget
	fingerprint message.Fingerprint
	size        int  // of the record, for the count of live bytes
	hasProgress bool // opComplete: there is a p key
	stale       bool // set by the writer: the message was complete already, nothing is written
}

// request is a group of ops of one caller, answered together.
type request struct {
	ops  []op
	next int // ops before it are committed
	err  error
	done chan struct{} // capacity 1: one answer

	// between, if set, is called by the writer between two commits; such a
	// request has no ops.
	between func()
}

// writer is the state of the one goroutine that writes. Only the fields under
// mu are read by others.
type writer struct {
	node   uint16
	random *rand.ChaCha8
	ledger *ledger
	last   message.ID // last issued
	memory int64      // memtable size, for the tide mark

	maxBytes, maxCount int64 // of one transaction

	recalled map[message.ID][]byte // states that hold until the message is complete

	mu      sync.Mutex
	durable tide  // as of the last commit
	stats   tally // as of the last commit
}

// tally counts what the log holds.
type tally struct {
	live, liveBytes int64 // records under a and d
	parked          int64
	appended        uint64 // since Open
	completed       uint64
	commits         uint64
}

func (w *writer) init(cfg Config, rec *recovered) {
	w.node, w.random, w.memory = cfg.Node, newRandom(), cfg.MemTable
	w.ledger, w.last = rec.ledger, rec.head.id
	w.maxBytes, w.maxCount = maxTxnShare(cfg.MemTable), maxTxnShare(cfg.MemTable)/100
	w.durable = tide{Format: formatVersion, Node: cfg.Node, Seq: rec.head.seq, ID: rec.head.id, Lowest: rec.tide.Lowest, MemTable: cfg.MemTable, Open: true}
	w.stats = tally{live: rec.live, liveBytes: rec.liveBytes, parked: rec.parked}
}

// tide returns the mark as of the last commit.
func (w *writer) tide() tide {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.durable
}

func (w *writer) tally() tally {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats
}

// write is the writer's goroutine: it runs until the inbox is closed and empty.
func (l *Log) write(ctx context.Context) {
	var spare []*request
	for {
		reqs, closed := l.inbox.take(spare)
		reqs = l.answerBetween(reqs)
		if len(reqs) > 0 {
			l.stall.begin()
			for rest := reqs; len(rest) > 0; {
				rest = l.commitBatch(rest)
			}
			l.stall.end()
		}
		clear(reqs)
		spare = reqs
		if len(reqs) == 0 {
			if closed {
				return
			}
			<-l.inbox.wake // closing wakes it, too
		}
	}
}

// answerBetween serves the requests that only want to stand between two commits
// and returns the others.
func (l *Log) answerBetween(reqs []*request) []*request {
	kept := reqs[:0]
	for _, r := range reqs {
		if r.between == nil {
			kept = append(kept, r)
			continue
		}
		if r.err = l.Err(); r.err == nil {
			r.between()
		}
		r.done <- struct{}{}
	}
	return kept
}

// commitBatch writes as many ops as fit one transaction, answers the requests
// that are whole, and returns those that are not.
func (l *Log) commitBatch(reqs []*request) (rest []*request) {
	started := time.Now()
	b := &batch{now: l.clock.now(), claimMS: uint64(l.limits.Load().IdempotencyTTL.Milliseconds()), chunks: map[uint64]struct{}{}}
	whole, err := 0, l.Err()
	if err == nil {
		b.txn = l.db.NewTransaction(true)
		whole = l.fill(b, reqs)
		err = l.finish(b)
	}
	if err != nil {
		l.fail(err)
		err = l.Err()
		for _, r := range reqs {
			l.refuse(r, err)
		}
		return nil
	}
	l.publish(b)
	l.metrics.committed(time.Since(started), b)
	for _, r := range reqs[:whole] {
		r.done <- struct{}{}
	}
	return reqs[whole:]
}

// fill adds ops to the batch until it is full and returns how many requests
// are whole.
func (l *Log) fill(b *batch, reqs []*request) (whole int) {
	for _, r := range reqs {
		for r.next < len(r.ops) {
			if o := &r.ops[r.next]; !l.writer.add(b, o) {
				return whole
			}
			r.next++
		}
		whole++
	}
	return whole
}

// refuse answers a request that will not be written.
func (l *Log) refuse(r *request, err error) {
	r.err = err
	for i := range r.ops {
		l.keys.drop(r.ops[i].key)
	}
	r.done <- struct{}{}
}

// add puts one op into the batch; false: it is full. The first op always fits,
// MaxRecord sees to that.
func (w *writer) add(b *batch, o *op) bool {
	const perEntry = 64 // key, version and Badger's own head, rather more than less
	size, count := int64(len(o.state)+len(o.key)), int64(3)
	switch o.kind {
	case opAppend:
		size, count = size+int64(len(o.record)), 2
	case opComplete:
		if chunk, _ := place(o.seq); !has(b.chunks, chunk) {
			size += chunkSeqs / 8
		}
	default:
		size += int64(len(o.record))
	}
	size += count * perEntry
	if len(b.ops) > 0 && (b.bytes+size > w.maxBytes-chunkSeqs/8-2*perEntry || b.count+count > w.maxCount) {
		return false
	}
	b.bytes, b.count = b.bytes+size, b.count+count
	b.ops = append(b.ops, o)
	switch o.kind {
	case opAppend:
		w.append(b, o)
	case opComplete:
		w.complete(b, o)
	case opForget:
		b.forget(o)
	case opPad:
		if k := padKey(o.seq); o.record != nil {
			b.set(k, o.record)
		} else {
			b.delete(k)
		}
	default:
		// What is complete stays so, whoever comes late with a message in hand.
		if o.stale = w.ledger.isDone(o.seq); !o.stale {
			if w.overrule(b, o); !o.stale {
				w.move(b, o)
			}
		} else if o.kind == opUnpark {
			b.delete(b.parkedKey(o.due, o.id))
			b.change.parked--
		}
	}
	return true
}

// move records how far a message got, and puts it to rest or brings it back.
func (w *writer) move(b *batch, o *op) {
	if o.kind == opRecall {
		w.recall(b, o)
		return
	}
	k := b.key(progressKey, o.id)
	due := uint64(0)
	switch o.kind {
	case opPark:
		due = o.due
		b.delete(b.key(messageKey, o.id))
		b.set(b.parkedKey(o.due, o.id), o.record)
		b.change.parked++
	case opUnpark:
		b.delete(b.parkedKey(o.due, o.id))
		b.set(b.key(messageKey, o.id), o.record)
		b.change.parked--
	}
	b.set(k, newProgress(k, due, o.state))
}

func has(set map[uint64]struct{}, v uint64) bool {
	_, ok := set[v]
	return ok
}

func (w *writer) append(b *batch, o *op) {
	o.seq, o.id = w.ledger.issue(), w.issue(b.now, o.lane)
	sealRecord(o.record, o.id, o.seq)
	b.set(b.key(messageKey, o.id), o.record)
	if o.key != nil {
		c := claim{id: o.id, fingerprint: o.fingerprint, expiry: b.now + b.claimMS}
		b.set(o.key, c.value(o.key))
	}
	b.change.live++
	o.size = len(o.record)
	b.change.liveBytes += int64(o.size)
	b.change.appended++
}

func (w *writer) complete(b *batch, o *op) {
	chunk, fresh := w.ledger.complete(o.seq)
	if o.stale = !fresh; o.stale {
		return
	}
	b.chunks[chunk] = struct{}{}
	b.delete(b.key(messageKey, o.id))
	if _, recalled := w.recalled[o.id]; o.hasProgress || recalled {
		b.delete(b.key(progressKey, o.id))
		delete(w.recalled, o.id)
	}
	b.change.live--
	b.change.liveBytes -= int64(o.size)
	b.change.completed++
}

// issue makes the next ID: later than all before it, whatever the clock does.
func (w *writer) issue(now uint64, lane message.Priority) message.ID {
	ms, counter := now, uint16(0)
	if last := w.last.Millis(); ms <= last {
		if ms, counter = last, w.last.Counter()+1; counter > 4095 {
			ms, counter = last+1, 0 // borrowed from the next millisecond
		}
	}
	w.last = message.NewID(ms, counter, w.node, lane, w.random.Uint64())
	return w.last
}

// finish adds ledger and head, and commits.
func (l *Log) finish(b *batch) error {
	w := &l.writer
	for chunk := range b.chunks {
		k := chunkKey(nil, chunk)
		if bits := w.ledger.settle(chunk); bits != nil {
			b.set(k, bits.value(k))
		} else {
			b.delete(k)
		}
	}
	h := head{seq: w.ledger.last, id: w.last, done: w.ledger.done}
	b.set(keyHead, h.value())
	if b.err != nil {
		b.txn.Discard()
		return b.err
	}
	if err := l.cfg.commit(b.txn); err != nil {
		return err
	}
	if err := l.watch.err(); err != nil { // a sync that failed and was only logged
		return err
	}
	return l.sync.Check() // a sync that failed and was called a success
}

// publish makes a committed batch visible: counts, window, keys.
func (l *Log) publish(b *batch) {
	w := &l.writer
	w.mu.Lock()
	w.durable.Seq, w.durable.ID = w.ledger.last, w.last
	s, c := &w.stats, b.change
	s.live, s.liveBytes, s.parked = s.live+c.live, s.liveBytes+c.liveBytes, s.parked+c.parked
	s.appended, s.completed = s.appended+c.appended, s.completed+c.completed
	s.commits++
	w.mu.Unlock()
	l.window.committed(b.ops, l.spill.Load())
	for _, o := range b.ops {
		switch {
		case o.kind == opAppend:
			l.keys.drop(o.key)
		case o.kind == opPark && !o.stale:
			l.marks.note(o.due, o.id)
		}
	}
	l.wroteBytes(b.bytes)
}
