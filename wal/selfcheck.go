package wal

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"forebay/wal/message"
)

// checkPad is the pad that a self-check writes; no flush has that many.
const checkPad = math.MaxUint64

// SelfCheck goes the way of a message without being one: the writer commits and
// syncs it, and it is read back. It returns an error when that does not happen
// within ctx: the log, its disk or its writer is stuck. A watchdog asks it.
// While the disk limit is reached nothing is written, and only the writer has
// to answer.
func (l *Log) SelfCheck(ctx context.Context) error {
	if l.Full() {
		_, _ = l.LowestHeld(ctx)
		return ctx.Err()
	}
	mark := binary.BigEndian.AppendUint64(nil, l.checks.Add(1))
	r := &request{done: make(chan struct{}, 1), ops: []op{{kind: opPad, seq: checkPad, lane: message.Critical, record: mark}}}
	if err := l.submit(ctx, r); err != nil {
		return fmt.Errorf("write self-check: %w", err)
	}
	if r.err != nil {
		return fmt.Errorf("write self-check: %w", r.err)
	}
	db, err := l.acquire()
	if err != nil {
		return err
	}
	defer l.release()
	txn := db.NewTransaction(false)
	defer txn.Discard()
	item, err := txn.Get(padKey(checkPad))
	if err != nil {
		return fmt.Errorf("read self-check: %w", err)
	}
	return item.Value(func(got []byte) error {
		// Another check may have written since, a later number then.
		if bytes.Compare(got, mark) < 0 {
			return fmt.Errorf("read self-check: wrote %x, read %x", mark, got)
		}
		return nil
	})
}
