package wal

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// Receipt says what an append did with one message.
type Receipt struct {
	ID       message.ID
	Seq      uint64
	Replayed bool  // the ID is of an earlier message with the same idempotency key
	Err      error // AppendBatch only: why this message was not taken
}

// Append makes the message durable and returns its name. It returns when the
// commit that holds it is synced, and never before.
//
// With an IdempotencyKey that an earlier message of the account carried within
// Config.IdempotencyTTL it writes nothing: the earlier ID if the fingerprints
// are equal, ErrKeyMismatch if not, ErrInProgress while the earlier one is
// being written.
//
// Other errors: ErrFull, ErrStalled, ErrTooLarge, ErrFailed, ErrClosed. If ctx
// ends first, or the disk does not answer within twice Config.CommitLimit
// (ErrUnanswered), the outcome is unknown: the message may have been taken.
func (l *Log) Append(ctx context.Context, m *message.Message) (Receipt, error) {
	r := l.requests.Get().(*request)
	r.ops = append(r.ops[:0], op{})
	o := &r.ops[0]
	receipt, write, err := l.prepare(o, m)
	if err != nil || !write {
		l.requests.Put(r)
		return receipt, err
	}
	if err := l.submitWithin(ctx, r, *l.stall.over.Load()); err != nil {
		return Receipt{}, err // r may still be the writer's: not reused
	}
	receipt, err = Receipt{ID: o.id, Seq: o.seq}, r.err
	o.record = nil
	l.requests.Put(r)
	if err != nil {
		return Receipt{}, err
	}
	return receipt, nil
}

// AppendBatch appends messages as one group, in order; each is atomic for
// itself. out must be as long as ms and takes one receipt each. The error is
// one that spared none of those without a receipt.
func (l *Log) AppendBatch(ctx context.Context, ms []*message.Message, out []Receipt) error {
	r := &request{done: make(chan struct{}, 1), ops: make([]op, 0, len(ms))}
	at := make([]int, 0, len(ms))
	for i, m := range ms {
		var o op
		receipt, write, err := l.prepare(&o, m)
		receipt.Err = err
		if out[i] = receipt; write {
			r.ops = append(r.ops, o)
			at = append(at, i)
		}
	}
	if len(r.ops) == 0 {
		return nil
	}
	err := l.submitWithin(ctx, r, *l.stall.over.Load())
	if err == nil {
		err = r.err
	}
	for j, i := range at {
		if err != nil {
			out[i] = Receipt{Err: err}
		} else {
			out[i] = Receipt{ID: r.ops[j].id, Seq: r.ops[j].seq}
		}
	}
	return err
}

// maxKey bounds account and idempotency key together: MaxRecord leaves room for
// them in a transaction.
const maxKey = 2048

// prepare encodes the message into o. It returns write = false with an answer
// that needs no write: a replay or an error. When it returns true the key, if
// there is one, is held until the writer has committed or refused it.
func (l *Log) prepare(o *op, m *message.Message) (answer Receipt, write bool, err error) {
	switch {
	case l.failure.Load() != nil:
		return answer, false, l.Err()
	case l.full.Load() && !(m.Callback && l.roomForCallbacks()):
		return answer, false, ErrFull
	case l.stall.late.Load():
		return answer, false, ErrStalled
	}
	buf := make([]byte, recordHead, recordHead+m.SizeHint())
	o.kind, o.lane, o.record = opAppend, m.Priority, m.Append(buf)
	if len(o.record) > MaxRecord(l.cfg.MemTable) {
		return answer, false, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(o.record), MaxRecord(l.cfg.MemTable))
	}
	if m.IdempotencyKey == "" {
		return answer, true, nil
	}
	if o.key = idempotencyKey(nil, m.Account, m.IdempotencyKey); len(o.key) > maxKey {
		return answer, false, fmt.Errorf("%w: an idempotency key of %d bytes", ErrTooLarge, len(m.IdempotencyKey))
	}
	o.fingerprint = m.Fingerprint
	if !l.keys.hold(o.key) {
		o.key = nil
		return answer, false, ErrInProgress
	}
	earlier, found, err := l.claimed(o.key)
	if err == nil && !found {
		return answer, true, nil
	}
	l.keys.drop(o.key)
	o.key = nil
	switch {
	case err != nil:
		return answer, false, err
	case earlier.fingerprint != m.Fingerprint:
		return answer, false, ErrKeyMismatch
	}
	return Receipt{ID: earlier.id, Replayed: true}, false, nil
}

// roomForCallbacks reports whether a log that is full takes a callback all the same,
// from the space that is kept for what it does itself. The message that the callback
// tells of stays in the log until then: were none taken, a log that is full of such
// messages would never have space again.
func (l *Log) roomForCallbacks() bool {
	return l.free.Load()-3*l.written.Load() >= reserve(l.cfg.MemTable)/2
}

// claimed looks an idempotency key up. A key past its expiry is not found, and
// is overwritten by the message that comes with it.
func (l *Log) claimed(key []byte) (c claim, found bool, err error) {
	db, err := l.acquire()
	if err != nil {
		return c, false, err
	}
	defer l.release()
	err = db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(key)
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error {
			c, err = openClaim(v, key)
			return err
		})
	})
	switch {
	case errors.Is(err, badger.ErrKeyNotFound):
		return c, false, nil
	case err != nil:
		return c, false, fmt.Errorf("look up idempotency key: %w", err)
	}
	return c, c.expiry > l.clock.now(), nil
}

// submit gives the request to the writer and waits for its commit.
func (l *Log) submit(ctx context.Context, r *request) error { return l.submitWithin(ctx, r, nil) }

// submitWithin is submit for those who stop waiting when over is closed.
func (l *Log) submitWithin(ctx context.Context, r *request, over <-chan struct{}) error {
	r.next, r.err = 0, nil
	if !l.inbox.put(r) {
		for i := range r.ops {
			l.keys.drop(r.ops[i].key)
		}
		return ErrClosed
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-over:
		return ErrUnanswered
	}
}

// keysInFlight are the idempotency keys whose first message is being written.
type keysInFlight struct {
	mu   sync.Mutex
	held map[string]struct{}
}

func (k *keysInFlight) hold(key []byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, taken := k.held[string(key)]; taken {
		return false
	}
	k.held[string(key)] = struct{}{}
	return true
}

func (k *keysInFlight) drop(key []byte) {
	if key == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.held, string(key))
}

func fillRandom(b []byte) { _, _ = crand.Read(b) } // crypto/rand.Read never fails
