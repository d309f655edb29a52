package embedded

import (
	"context"
	"errors"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"forebay/sink"
)

// Numbered implements sink.Store. There is no index by number: it looks at one
// message after the other, until it has found those that there are.
func (s *Store) Numbered(ctx context.Context, node uint16, seqs []uint64) (found []sink.Found, err error) {
	asked := slices.Compact(slices.Sorted(slices.Values(seqs)))
	if len(asked) == 0 {
		return nil, nil
	}
	err = s.view(ctx, "numbered", func(txn *badger.Txn) error {
		var wanted []uint64
		found = found[:0]
		err := walkBlocks(ctx, txn, node, asked[0], asked[len(asked)-1], func(number uint64, b *block) bool {
			at, _ := slices.BinarySearch(asked, number*blockSpan)
			for ; at < len(asked) && asked[at]/blockSpan == number; at++ {
				if b.has(asked[at]) {
					wanted = append(wanted, asked[at])
				}
			}
			return true
		})
		if err != nil {
			return err
		}
		return scan(ctx, txn, []byte{prefixMessage}, []byte{prefixMessage}, func(item *badger.Item) error {
			if len(found) == len(wanted) {
				return errEnough
			}
			id := keyID(item.Key())
			if id.Node() != node {
				return nil
			}
			r, err := readRecord(txn, messageKey(id))
			if err = s.legible(err); errors.Is(err, sink.ErrNotFound) {
				return nil
			}
			if _, there := slices.BinarySearch(wanted, r.Seq); err == nil && there {
				found = append(found, sink.Found{Seq: r.Seq, ID: id, Status: r.Status})
			}
			return err
		})
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return found, nil // a node's ids and numbers rise together
}
