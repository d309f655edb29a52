package wal

import (
	"context"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// findLooks is how many messages Find reads between two looks at its context.
const findLooks = 256

// Find returns the messages of the log, waiting or at rest, whose payloads match. It
// reads the whole log, as it is at one moment, so it is for what is seldom asked;
// match must not keep what it is given. It returns early when ctx ends, with the
// cause. A record that fails its check ends the log.
func (l *Log) Find(ctx context.Context, match func(payload []byte) bool) ([]message.ID, error) {
	db, err := l.acquire()
	if err != nil {
		return nil, err
	}
	defer l.release()
	txn := db.NewTransaction(false)
	defer txn.Discard()
	var found []message.ID
	for _, prefix := range []byte{prefixMessage, prefixParked} {
		if found, err = l.findIn(ctx, txn, prefix, match, found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (l *Log) findIn(ctx context.Context, txn *badger.Txn, prefix byte, match func([]byte) bool, found []message.ID) ([]message.ID, error) {
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{prefix}, PrefetchValues: true, PrefetchSize: findLooks})
	defer it.Close()
	looked := 0
	for it.Rewind(); it.Valid(); it.Next() {
		if looked++; looked%findLooks == 1 && ctx.Err() != nil {
			return nil, fmt.Errorf("search the log: %w", context.Cause(ctx))
		}
		item := it.Item()
		id, err := recordID(item.Key())
		if err == nil {
			err = item.Value(func(value []byte) error {
				_, payload, err := openRecord(value, id)
				if err == nil && match(payload) {
					found = append(found, id)
				}
				return err
			})
		}
		if err != nil {
			err = fmt.Errorf("read record % x: %w", item.Key(), err)
			l.fail(err)
			return nil, err
		}
	}
	return found, nil
}
