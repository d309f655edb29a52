package wal

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// A shelf is parking without a time: messages stand on it until they are
// fetched, in the order of their ids. What a shelf means is the caller's.
//
//	d due id   due < 2^62: parked until then (Unix ms)
//	           else 2^62 + shelf
type Shelf uint64

// MaxShelf is the largest number of a shelf.
const MaxShelf Shelf = 1<<62 - 1

const shelfBase = uint64(1) << 62

// Shelve puts messages that were handed out back on disk, with their Progress,
// until Fetch asks for the shelf. ErrTooLarge: see MaxState.
func (l *Log) Shelve(ctx context.Context, shelf Shelf, entries []message.Entry) error {
	if shelf > MaxShelf {
		return fmt.Errorf("shelf %d, at most %d", shelf, MaxShelf)
	}
	return l.park(ctx, shelfBase+uint64(shelf), entries)
}

// Fetch lets up to n messages of the shelf, those accepted first, come back
// through Next, and returns how many, and whether it may have more: large ones
// come only as many at once as a batch of Next holds. It must not be called for
// one shelf twice at once.
func (l *Log) Fetch(ctx context.Context, shelf Shelf, n int) (fetched int, more bool, err error) {
	if l.writer.tally().parked == 0 || n <= 0 {
		return 0, false, nil
	}
	due := shelfBase + uint64(shelf)
	for left := l.window.batchBytes(); fetched < n && left > 0; {
		back, bytes, err := l.bringBack(ctx, due, due, min(n-fetched, unparkBatch), left)
		if err != nil || back == 0 {
			return fetched, false, err
		}
		fetched += back
		left -= bytes
	}
	return fetched, true, nil
}

// Browse reads up to n messages of the shelf with ids after that one, in order,
// and leaves them there. They have no Progress. None: there are no more; large
// ones come only as many at once as a batch of Next holds.
func (l *Log) Browse(shelf Shelf, after message.ID, n int) ([]message.Entry, error) {
	db, err := l.acquire()
	if err != nil {
		return nil, err
	}
	defer l.release()
	txn := db.NewTransaction(false)
	defer txn.Discard()
	due := shelfBase + uint64(shelf)
	it := txn.NewIterator(badger.IteratorOptions{Prefix: binary.BigEndian.AppendUint64([]byte{prefixParked}, due)})
	defer it.Close()
	from := parkedKey(nil, due, after)
	if low := l.marks.low(due); bytes.Compare(from, low) < 0 {
		from = low
	}
	var entries []message.Entry
	left := l.window.batchBytes()
	for it.Seek(from); it.Valid() && len(entries) < n && left > 0; it.Next() {
		id, err := recordID(it.Item().Key())
		if err != nil {
			return nil, err
		}
		if id.Compare(after) <= 0 {
			continue
		}
		record, err := it.Item().ValueCopy(nil)
		if err != nil {
			return nil, err
		}
		e := message.Entry{ID: id}
		if e.Seq, e.Payload, err = openRecord(record, id); err != nil {
			return nil, fmt.Errorf("read parked message %s: %w", id, err)
		}
		entries = append(entries, e)
		left -= int64(len(record))
	}
	return entries, nil
}

// Shelves lists the shelves that have something on them, ascending. It costs
// one seek for each.
func (l *Log) Shelves() ([]Shelf, error) {
	db, err := l.acquire()
	if err != nil {
		return nil, err
	}
	defer l.release()
	txn := db.NewTransaction(false)
	defer txn.Discard()
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{prefixParked}})
	defer it.Close()
	var shelves []Shelf
	from := shelfBase
	for {
		it.Seek(binary.BigEndian.AppendUint64([]byte{prefixParked}, from))
		if !it.Valid() {
			return shelves, nil
		}
		due := binary.BigEndian.Uint64(it.Item().Key()[1:])
		shelves = append(shelves, Shelf(due-shelfBase))
		from = due + 1
	}
}

// Recall gives a message that the caller does not hold the state, durably, and
// hands it out with that state: at once if it was parked or on a shelf, in its
// turn if it waits. A message that somebody holds keeps the state whatever its
// holder records later, until it is complete. It returns the message as it was
// before; ErrNotFound once it is complete. ErrTooLarge: see MaxState.
func (l *Log) Recall(ctx context.Context, id message.ID, state []byte) (message.Entry, error) {
	if len(state) > MaxState(l.cfg.MemTable) {
		return message.Entry{}, fmt.Errorf("%w: a state of %d bytes", ErrTooLarge, len(state))
	}
	e, due, err := l.find(id)
	if err != nil {
		return e, err
	}
	l.progress.Store(true)
	r := &request{done: make(chan struct{}, 1), ops: []op{{kind: opRecall, id: id, seq: e.Seq, lane: id.Lane(),
		state: state, record: newRecord(e), size: recordHead + len(e.Payload)}}}
	if due > 0 {
		l.window.expect(r.ops)
	}
	if err := l.submit(ctx, r); err != nil {
		return e, err
	}
	if r.err != nil {
		return e, r.err
	}
	if r.ops[0].stale {
		return message.Entry{}, ErrNotFound
	}
	return e, nil
}

// recall is the writer's part. It looks where the message is now: since Recall
// looked it may have come back, or have been parked.
func (w *writer) recall(b *batch, o *op) {
	due, _, err := readProgress(b.txn, o.id)
	if err != nil {
		if b.err == nil {
			b.err = err
		}
		return
	}
	if w.recalled == nil {
		w.recalled = map[message.ID][]byte{}
	}
	w.recalled[o.id] = o.state
	if o.due = due; due > 0 {
		b.delete(b.parkedKey(due, o.id))
		b.set(b.key(messageKey, o.id), o.record)
		b.change.parked--
	}
	b.set(b.key(progressKey, o.id), newProgress(b.key(progressKey, o.id), 0, o.state))
}

// overrule makes a recalled message keep its state: what comes to be parked
// returns at once, and what was found parked before it was recalled has come
// back already.
func (w *writer) overrule(b *batch, o *op) {
	state, recalled := w.recalled[o.id]
	if !recalled {
		return
	}
	switch o.kind {
	case opPark:
		o.due, o.state = 1, state
	case opProgress:
		o.state = state
	case opUnpark:
		due, _, err := readProgress(b.txn, o.id)
		if err != nil && b.err == nil {
			b.err = err
		}
		o.state, o.stale = state, due != o.due
	}
}

// recalledNow is the window's part: it hands out the state, and what was parked.
func (w *window) recalledNow(o *op) {
	if o.stale {
		delete(w.lanes[o.lane].early, o.id)
		return
	}
	if w.recalled == nil {
		w.recalled = map[message.ID][]byte{}
	}
	w.recalled[o.id] = o.state // in place of the state of an earlier recall
	if o.due > 0 {
		w.cameBack(o)
		return
	}
	w.lanes[o.lane].settle(o.id)
}

// settle ends an expectation that came to nothing: the message had come back
// already, and load must not find it a second time.
func (l *lane) settle(id message.ID) {
	if back, expected := l.early[id]; !expected || back {
		return
	}
	if id.Compare(l.loaded) <= 0 {
		delete(l.early, id)
		return
	}
	l.early[id] = true
	l.ahead++
}
