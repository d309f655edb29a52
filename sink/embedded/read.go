package embedded

import (
	"context"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"forebay/sink"
	"forebay/wal/message"
)

// readRecord reads a message by its key; sink.ErrNotFound.
func readRecord(txn *badger.Txn, key []byte) (r message.Record, err error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return r, sink.ErrNotFound
	}
	if err != nil {
		return r, fmt.Errorf("read message: %w", err)
	}
	err = item.Value(func(v []byte) (err error) {
		r, err = decodeRecord(key, v)
		return err
	})
	return r, err
}

// readSummary reads what an index says of a message.
func readSummary(item *badger.Item) (brief summary, err error) {
	err = item.Value(func(v []byte) error {
		if len(v) != len(brief) {
			return &DamagedError{"index of message " + keyID(item.Key()).String(), errShort}
		}
		brief = summary(v)
		return nil
	})
	return brief, err
}

// readClaim reads which message a claim belongs to; sink.ErrNotFound.
func readClaim(txn *badger.Txn, key []byte) (holder message.ID, err error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return holder, sink.ErrNotFound
	}
	if err != nil {
		return holder, fmt.Errorf("read claim: %w", err)
	}
	err = item.Value(func(v []byte) (err error) {
		holder, err = decodeClaim(key, v)
		return err
	})
	return holder, err
}

// readBlock reads a block; one that is not there is empty.
func readBlock(txn *badger.Txn, key []byte) (b *block, err error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return new(block), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read block: %w", err)
	}
	err = item.Value(func(v []byte) (err error) {
		b, err = decodeBlock(key, v)
		return err
	})
	return b, err
}

// checkEvery is how many keys a scan passes between two looks at its context.
const checkEvery = 1024

// errEnough ends a scan that has found what it looked for.
var errEnough = errors.New("enough")

// scan calls visit with all keys under a prefix and not before from, in order,
// until one fails. from nil: all.
func scan(ctx context.Context, txn *badger.Txn, prefix, from []byte, visit func(*badger.Item) error) error {
	opts := badger.DefaultIteratorOptions
	opts.Prefix, opts.PrefetchValues = prefix, false // a goroutine for each value is what costs
	it := txn.NewIterator(opts)
	defer it.Close()
	n := 0
	for it.Seek(from); it.Valid(); it.Next() {
		if n++; n%checkEvery == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := visit(it.Item()); err != nil {
			return err
		}
	}
	return nil
}
