package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

const (
	unparkBatch = 1000        // records that come back at once
	unparkRest  = time.Second // the longest sleep: the wall clock may jump
	unparkPace  = 10 * time.Millisecond
)

// Complete forgets messages whose final status is in the store. Entries must
// have come from Next, with the Progress last recorded for them, if any was.
// Completing one twice is harmless.
func (l *Log) Complete(ctx context.Context, entries []message.Entry) error {
	return l.change(ctx, entries, func(o *op, e message.Entry) {
		o.kind, o.hasProgress = opComplete, e.Progress != nil
	})
}

// Progress records how far delivery got: each entry's Progress, durable when it
// returns. The messages stay with the caller. ErrTooLarge: see MaxState.
func (l *Log) Progress(ctx context.Context, entries []message.Entry) error {
	return l.change(ctx, entries, func(o *op, e message.Entry) {
		o.kind, o.state = opProgress, e.Progress
	})
}

// Park puts messages that were handed out back on disk until due, with their
// Progress. They take no memory meanwhile, and come back through Next.
// ErrTooLarge: see MaxState.
func (l *Log) Park(ctx context.Context, due time.Time, entries []message.Entry) error {
	return l.park(ctx, uint64(min(max(due.UnixMilli(), 1), int64(shelfBase)-1)), entries)
}

// park copies the records that it writes, so it takes large ones a few at a time.
func (l *Log) park(ctx context.Context, at uint64, entries []message.Entry) error {
	for len(entries) > 0 {
		n := 0
		for left := l.window.batchBytes(); n < len(entries) && left > 0; n++ {
			left -= int64(len(entries[n].Payload))
		}
		err := l.change(ctx, entries[:n], func(o *op, e message.Entry) {
			o.kind, o.state, o.due = opPark, e.Progress, at
			o.record = newRecord(e)
		})
		if err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

func (l *Log) change(ctx context.Context, entries []message.Entry, set func(*op, message.Entry)) error {
	if len(entries) == 0 {
		return nil
	}
	r := &request{done: make(chan struct{}, 1), ops: make([]op, len(entries))}
	for i, e := range entries {
		o := &r.ops[i]
		o.id, o.seq, o.lane, o.size = e.ID, e.Seq, e.ID.Lane(), recordHead+len(e.Payload)
		set(o, e)
		if len(o.state) > MaxState(l.cfg.MemTable) || len(o.record) > MaxRecord(l.cfg.MemTable) {
			return fmt.Errorf("%w: message %s has %d bytes and a state of %d", ErrTooLarge, e.ID, len(e.Payload), len(o.state))
		}
	}
	if r.ops[0].kind != opComplete {
		l.progress.Store(true)
	}
	if err := l.submit(ctx, r); err != nil {
		return err
	}
	return r.err
}

// Lookup returns a message that the log still has, wherever it waits;
// ErrNotFound once it is complete.
func (l *Log) Lookup(id message.ID) (message.Entry, error) {
	e, _, err := l.find(id)
	return e, err
}

// find also says until when the message is parked, in Unix ms; 0: it is not.
func (l *Log) find(id message.ID) (e message.Entry, due uint64, err error) {
	db, err := l.acquire()
	if err != nil {
		return e, 0, err
	}
	defer l.release()
	txn := db.NewTransaction(false)
	defer txn.Discard()
	key := messageKey(nil, id)
	item, err := txn.Get(key)
	if err == nil {
		e, err = l.entry(txn, item, id)
		return e, 0, err
	}
	if !errors.Is(err, badger.ErrKeyNotFound) {
		return e, 0, fmt.Errorf("look up message %s: %w", id, err)
	}
	due, state, err := readProgress(txn, id)
	if err != nil || due == 0 {
		return e, 0, errors.Join(err, ErrNotFound)
	}
	if item, err = txn.Get(parkedKey(nil, due, id)); err == nil {
		if e, err = l.entry(txn, item, id); err == nil {
			e.Progress = state
			return e, due, nil
		}
	}
	return e, 0, fmt.Errorf("look up parked message %s: %w", id, err)
}

// readProgress returns nothing and no error where there is no p key.
func readProgress(txn *badger.Txn, id message.ID) (due uint64, state []byte, err error) {
	key := progressKey(nil, id)
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	err = item.Value(func(v []byte) error {
		due, state, err = openProgress(v, key)
		return err
	})
	if state == nil {
		state = []byte{} // there is one, even if it is empty
	}
	return due, state, err
}

// unparkDue is the goroutine that brings parked messages back when they are
// due, by the wall clock, and as the window has room for them.
func (l *Log) unparkDue(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		n, err := l.unparkSome(ctx, time.Now())
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			l.cfg.Logger.Error("can't bring parked messages back", "err", err)
			timer.Reset(unparkRest)
		case n > 0:
			timer.Reset(unparkPace) // there may be more
		default:
			timer.Reset(l.untilDue())
		}
	}
}

// untilDue is how long the unparker may sleep.
func (l *Log) untilDue() time.Duration {
	if l.writer.tally().parked == 0 {
		return unparkRest / 4
	}
	return unparkRest / 20
}

// unparkSome brings back up to unparkBatch messages that are due at now.
func (l *Log) unparkSome(ctx context.Context, now time.Time) (int, error) {
	at := uint64(now.UnixMilli())
	if l.writer.tally().parked == 0 || !l.marks.due(at) || !l.window.hasRoom() {
		return 0, nil
	}
	back, _, err := l.bringBack(ctx, 0, at, unparkBatch, l.window.batchBytes())
	return back, err
}

// bringBack lets up to n messages of a region come back that are parked until to
// or earlier, no more of them than maxBytes allow, but one, and returns how many
// and how large they are.
func (l *Log) bringBack(ctx context.Context, region, to uint64, n int, maxBytes int64) (back int, bytes int64, err error) {
	r, next, err := l.readParked(l.marks.begin(region), to, n, maxBytes)
	if err != nil {
		return 0, 0, err
	}
	for i := range r.ops { // the request is the writer's once it is submitted
		back, bytes = back+1, bytes+int64(r.ops[i].size)
	}
	if back > 0 {
		l.window.expect(r.ops)
		if err := l.submit(ctx, r); err != nil {
			return 0, 0, err
		}
		if r.err != nil {
			return 0, 0, r.err
		}
	}
	if next != nil && regionOf(dueOf(next)) != region {
		next = nil
	}
	l.marks.end(region, next)
	return back, bytes, nil
}

// readParked reads up to n messages, and about maxBytes, from a parked key on that
// are parked until to or earlier, and returns where the next look has to begin;
// nil: there are no more parked ones.
func (l *Log) readParked(from []byte, to uint64, n int, maxBytes int64) (r *request, next []byte, err error) {
	r = &request{done: make(chan struct{}, 1)}
	db, err := l.acquire()
	if err != nil {
		return nil, nil, err
	}
	defer l.release()
	txn := db.NewTransaction(false)
	defer txn.Discard()
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{prefixParked}})
	defer it.Close()
	for it.Seek(from); it.Valid(); it.Next() {
		item := it.Item()
		next = item.KeyCopy(next[:0])
		if len(r.ops) == n || maxBytes <= 0 || dueOf(next) > to {
			return r, next, nil
		}
		id, err := recordID(item.Key())
		if err != nil {
			return nil, nil, err
		}
		o := op{kind: opUnpark, id: id, lane: id.Lane(), due: binary.BigEndian.Uint64(item.Key()[1:])}
		if o.record, err = item.ValueCopy(nil); err != nil {
			return nil, nil, err
		}
		if o.seq, _, err = openRecord(o.record, id); err != nil {
			err = fmt.Errorf("read parked message %s: %w", id, err)
			l.fail(err)
			return nil, nil, err
		}
		if _, o.state, err = readProgress(txn, id); err != nil {
			err = fmt.Errorf("read progress of parked message %s: %w", id, err)
			l.fail(err)
			return nil, nil, err
		}
		o.size = len(o.record)
		maxBytes -= int64(o.size)
		r.ops = append(r.ops, o)
	}
	return r, nil, nil
}

// hasRoom says whether another batch may come back from parking.
func (w *window) hasRoom() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count < w.capacity && w.bytes < w.maxBytes
}

// expect notes that these messages are about to be under message keys again.
func (w *window) expect(ops []op) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range ops {
		l := &w.lanes[ops[i].lane]
		if l.early[ops[i].id] {
			l.ahead-- // it comes back once more
		}
		l.early[ops[i].id] = false
	}
}
