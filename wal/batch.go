package wal

import (
	"errors"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// batch is one transaction in the making.
type batch struct {
	claimMS uint64 // how long an idempotency key that is claimed now lives
	txn     *badger.Txn
	now     uint64
	ops     []*op
	bytes   int64
	count   int64
	chunks  map[uint64]struct{} // of the ledger, changed
	change  tally
	keys    []byte // arena of the keys
	err     error  // the first of set and delete
}

// forget deletes an idempotency key, unless another message has taken it since
// it was seen to be expired.
func (b *batch) forget(o *op) {
	item, err := b.txn.Get(o.key)
	if err == nil {
		err = item.Value(func(v []byte) error {
			c, err := openClaim(v, o.key)
			if err == nil && c.id == o.id {
				b.delete(o.key)
			}
			return err
		})
	}
	if err != nil && !errors.Is(err, badger.ErrKeyNotFound) && b.err == nil {
		b.err = err
	}
}

func (b *batch) key(make func([]byte, message.ID) []byte, id message.ID) []byte {
	return b.arena(func(dst []byte) []byte { return make(dst, id) })
}

func (b *batch) parkedKey(due uint64, id message.ID) []byte {
	return b.arena(func(dst []byte) []byte { return parkedKey(dst, due, id) })
}

// arena cuts keys from one allocation: Badger keeps them until the commit.
func (b *batch) arena(put func([]byte) []byte) []byte {
	const block = 4096
	if cap(b.keys)-len(b.keys) < parkedKeySize {
		b.keys = make([]byte, 0, block)
	}
	from := len(b.keys)
	b.keys = put(b.keys)
	return b.keys[from:len(b.keys):len(b.keys)]
}

func (b *batch) set(key, value []byte) {
	if err := b.txn.SetEntry(badger.NewEntry(key, value)); err != nil && b.err == nil {
		b.err = err
	}
}

func (b *batch) delete(key []byte) {
	if err := b.txn.Delete(key); err != nil && b.err == nil {
		b.err = err
	}
}
