package wal

import (
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// The window's way back: what did not fit into memory is read from disk, in
// order, when there is room again.

// load reads records of a lane from disk into memory: at least n if there are
// as many. No lock is held meanwhile; the writer goes on behind durable.
func (l *Log) load(p message.Priority, n int) (int, error) {
	w := &l.window
	w.mu.Lock()
	lane := &w.lanes[p]
	from, to, left := lane.loaded, lane.durable, lane.onDisk
	room := w.maxBytes - w.bytes
	w.mu.Unlock()
	if left == 0 {
		return 0, nil
	}
	found, more, err := l.read(p, from, to, max(n, loadAtLeast), max(room, 1<<20))
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range found {
		if _, early := lane.early[e.ID]; early {
			continue
		}
		lane.ready.push(e)
		lane.onDisk--
		w.count++
		w.bytes += int64(len(e.Payload))
	}
	if len(found) > 0 {
		lane.passed(found[len(found)-1].ID)
	}
	if err == nil && !more && to == lane.durable && lane.onDisk > 0 {
		err = fmt.Errorf("%w: %d records of lane %s are not where they were written", errDamaged, lane.onDisk, p)
		lane.onDisk = 0
		l.fail(err)
	}
	return len(found), err
}

// read returns records of a lane after from and up to to, at most n of them and
// about maxBytes. A record that fails its check is reported, left where it is,
// and ends the log.
func (l *Log) read(p message.Priority, from, to message.ID, n int, maxBytes int64) (found []message.Entry, more bool, err error) {
	db, err := l.acquire()
	if err != nil {
		return nil, false, err
	}
	defer l.release()
	txn := db.NewTransaction(false)
	defer txn.Discard()
	it := newLaneIterator(txn, p)
	defer it.Close()
	found = make([]message.Entry, 0, n)
	for it.seek(from); it.Valid(); it.next() {
		item := it.Item()
		id, err := recordID(item.Key())
		switch {
		case err == nil && id == from:
			continue
		case err == nil && id.Compare(to) > 0:
			return found, false, nil
		case len(found) == n || maxBytes <= 0:
			return found, true, nil
		}
		var e message.Entry
		if err == nil {
			e, err = l.entry(txn, item, id)
		}
		if err != nil {
			err = fmt.Errorf("read record % x: %w", item.Key(), err)
			l.fail(err)
			return found, true, err
		}
		found = append(found, e)
		maxBytes -= int64(len(e.Payload))
	}
	return found, false, nil
}

// entry reads and checks a record with its progress.
func (l *Log) entry(txn *badger.Txn, item *badger.Item, id message.ID) (e message.Entry, err error) {
	value, err := item.ValueCopy(nil)
	if err != nil {
		return e, err
	}
	e.ID = id
	if e.Seq, e.Payload, err = openRecord(value, id); err != nil {
		return e, err
	}
	if l.progress.Load() {
		_, e.Progress, err = readProgress(txn, id)
	}
	return e, err
}
