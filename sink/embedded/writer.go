package embedded

import (
	"context"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"forebay/sink"
)

// writer makes changes in one transaction after another, as many as they need.
// It holds the turn from begin to end.
type writer struct {
	store  *Store
	db     *badger.DB
	txn    *badger.Txn
	blocks map[string]*block // changed in this transaction, by key
	counts map[string]uint64 // of deleted messages, changed in this transaction, by key
	before *badger.Txn       // how things stood when the turn began; may be nil

	keys, bytes int // in this transaction, blocks left out
}

// Room for what a transaction has besides: blocks, and Badger's own marks.
const (
	txnShare     = 0.8 // of what Badger allows, since it counts a little more than we do
	blockCost    = blockLen + 32
	keyOverhead  = 32
	maxTxnBlocks = 512
)

// begin waits for the turn to write.
func (s *Store) begin(ctx context.Context) (*writer, error) {
	db, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		s.exit()
		return nil, context.Cause(ctx)
	}
	w := &writer{store: s, db: db}
	w.renew()
	return w, nil
}

func (w *writer) renew() {
	w.txn = w.db.NewTransaction(true)
	w.blocks, w.counts = make(map[string]*block), make(map[string]uint64)
	w.keys, w.bytes = 0, 0
}

// end gives the turn back. What is not committed is forgotten.
func (w *writer) end() {
	if w.txn == nil {
		return // a commit that nobody waited for does it
	}
	w.txn.Discard()
	w.giveBack()
}

func (w *writer) giveBack() {
	<-w.store.turn
	w.store.exit()
}

// room makes sure that the transaction has room for so many keys and bytes more,
// one message's, all of which must be in one: it commits and begins another if
// need be.
func (w *writer) room(ctx context.Context, keys, bytes int) error {
	blocks := len(w.blocks) + len(w.counts) + 1
	count := float64(w.keys + keys + blocks)
	size := float64(w.bytes + bytes + (w.keys+keys)*keyOverhead + blocks*blockCost)
	if w.keys == 0 || blocks <= maxTxnBlocks && count < txnShare*float64(w.db.MaxBatchCount()) && size < txnShare*float64(w.db.MaxBatchSize()) {
		return nil
	}
	if err := w.commit(ctx); err != nil {
		return err
	}
	w.renew()
	return nil
}

func (w *writer) set(key, value []byte) error {
	w.keys, w.bytes = w.keys+1, w.bytes+len(key)+len(value)
	return w.txn.Set(key, value)
}

func (w *writer) delete(key []byte) error {
	w.keys, w.bytes = w.keys+1, w.bytes+len(key)
	return w.txn.Delete(key)
}

// mark notes in its block whether a message is in the store, and final.
func (w *writer) mark(node uint16, seq uint64, present, final bool) error {
	if seq == 0 {
		return nil // not numbered: nobody counts it
	}
	key := blockKey(node, seq/blockSpan)
	b, ok := w.blocks[string(key)]
	if !ok {
		var err error
		var damaged *DamagedError
		switch b, err = readBlock(w.txn, key); {
		case errors.As(err, &damaged):
			w.store.log.Error("A count in the store is damaged and will be made anew.", "err", err)
			w.store.miscounted.Store(true)
			b = new(block)
		case err != nil:
			return err
		}
		w.blocks[string(key)] = b
	}
	b.set(seq, present, final)
	return nil
}

// commit makes the transaction durable. If ctx ends first, the commit goes on
// and gives the turn back itself: Badger cannot be told to stop.
func (w *writer) commit(ctx context.Context) error {
	for key, b := range w.blocks {
		var err error
		if b.empty() {
			err = w.txn.Delete([]byte(key))
		} else {
			err = w.txn.Set([]byte(key), b.append(make([]byte, 0, blockLen), []byte(key)))
		}
		if err != nil {
			return fmt.Errorf("write block: %w", err)
		}
	}
	for key, n := range w.counts {
		if err := w.txn.Set([]byte(key), appendCount([]byte(key), n)); err != nil {
			return fmt.Errorf("write count: %w", err)
		}
	}
	done := make(chan error, 1)
	w.txn.CommitWith(func(err error) { done <- err })
	select {
	case err := <-done:
		return w.committed(err)
	case <-ctx.Done():
		w.txn = nil
		w.store.stragglers.Go(func() {
			<-done // an error of Badger's is in its log, and so has failed the store
			w.giveBack()
		})
		return context.Cause(ctx)
	}
}

// committed says what came of a commit. An error does not mean that nothing was
// written; but after any the store trusts Badger no more.
func (w *writer) committed(err error) error {
	if err == nil {
		err = w.store.sync.Check()
	}
	if err != nil {
		w.store.fail(err.Error())
	}
	if w.store.broken.Load() != nil {
		return &sink.Down{Err: errors.New(w.store.complaint(false))}
	}
	return nil
}
