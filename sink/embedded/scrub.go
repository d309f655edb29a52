package embedded

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/dgraph-io/badger/v4"
)

// scrub compares, in one snapshot, how many messages of each node there are
// with how many the blocks have counted. It reads keys and blocks only. If they
// differ, it finds out what is missing, says so, and corrects the blocks, so
// that Count and Missing tell of what there is.
func (s *Store) scrub(ctx context.Context) error {
	found, counted := make(map[uint16]uint64), make(map[uint16]uint64)
	err := s.view(ctx, "scrub", func(txn *badger.Txn) error {
		err := scan(ctx, txn, []byte{prefixMessage}, nil, func(item *badger.Item) error {
			found[keyID(item.Key()).Node()]++
			return nil
		})
		if err != nil {
			return err
		}
		return scanBlocks(ctx, txn, func(key []byte, b *block) {
			stored, _ := b.count(0, blockSpan-1)
			counted[blockNode(key)] += stored
		})
	})
	var damaged *DamagedError
	if err != nil && !errors.As(err, &damaged) {
		return err
	}
	if err == nil && maps.Equal(found, counted) {
		return nil
	}
	return s.recount(ctx)
}

// recount sets the blocks right from the messages, and reports what was in the
// blocks and is not there. Nobody writes meanwhile: what was lost is worth the
// wait.
func (s *Store) recount(ctx context.Context) error {
	w, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer w.end()
	if err := s.writable(s.settings.Load().MinFreeBytes); err != nil {
		return err
	}
	there := make(map[string]*block)
	var unreadable error
	err = scan(ctx, w.txn, []byte{prefixMessage}, nil, func(item *badger.Item) error {
		key := item.KeyCopy(nil)
		return item.Value(func(v []byte) error {
			r, err := decodeRecord(key, v)
			if err != nil {
				unreadable = errors.Join(unreadable, err)
				return nil
			}
			if r.Seq != 0 {
				k := string(blockKey(r.ID.Node(), r.Seq/blockSpan))
				if there[k] == nil {
					there[k] = new(block)
				}
				there[k].set(r.Seq, true, r.Final())
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	lost, names, err := w.correct(ctx, there)
	if err != nil {
		return err
	}
	if unreadable != nil {
		s.log.Error("Messages in the store cannot be read. They stay; an operator must look at them.", "err", unreadable)
	}
	if lost > 0 {
		s.log.Error("The store has lost messages. Restore them from a backup.", "lost", lost, "among_them", names)
		s.metrics.lost.Add(float64(lost))
	}
	return nil
}

// namesOfLost is how many lost messages are named in the log. The audit names
// them all.
const namesOfLost = 20

// correct writes the blocks that differ from what is there.
func (w *writer) correct(ctx context.Context, there map[string]*block) (lost int, names []string, err error) {
	had := make(map[string]*block)
	err = scan(ctx, w.txn, []byte{prefixBlock}, nil, func(item *badger.Item) error {
		key := item.KeyCopy(nil)
		b := new(block)
		if err := item.Value(func(v []byte) (err error) {
			b, err = decodeBlock(key, v)
			return err
		}); err != nil {
			w.store.log.Error("A count in the store was damaged and is made anew.", "err", err)
			b = &block{final: [blockWords]uint64{1}} // unlike any that is right
		}
		had[string(key)] = b
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	for key, b := range had {
		now := there[key]
		if now == nil {
			now = new(block)
			there[key] = now
		}
		for i := range uint64(blockSpan) {
			if b.has(i) && !now.has(i) {
				if lost++; len(names) < namesOfLost {
					names = append(names, fmt.Sprintf("node %d seq %d", blockNode([]byte(key)), blockNumber([]byte(key))*blockSpan+i))
				}
			}
		}
	}
	for key, now := range there {
		if b := had[key]; b != nil && *b == *now {
			continue
		}
		if err := w.room(ctx, 0, 0); err != nil {
			return 0, nil, err
		}
		w.blocks[key] = now
		w.keys++ // so that the transaction counts as begun
	}
	return lost, names, w.commit(ctx)
}

// scanBlocks calls visit with every block; a *DamagedError ends it.
func scanBlocks(ctx context.Context, txn *badger.Txn, visit func(key []byte, b *block)) error {
	return scan(ctx, txn, []byte{prefixBlock}, nil, func(item *badger.Item) error {
		return item.Value(func(v []byte) error {
			b, err := decodeBlock(item.Key(), v)
			if err == nil {
				visit(item.Key(), b)
			}
			return err
		})
	})
}
