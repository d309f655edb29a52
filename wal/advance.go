package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// Issued is how far a node's numbers and names have come, by what somebody else
// has seen of them.
type Issued struct {
	Seq uint64
	ID  message.ID
}

// advance has a log that was restored go on behind what its node had issued when
// it was lost: a number that stood for two messages would let the store's row of
// the one hide that the other is missing. The numbers in between count as
// complete and are noted as a gap: this log does not have them, and of those that
// the store does not have either nothing is left.
func advance(db *badger.DB, h head, to Issued) (head, error) {
	if to.ID.Compare(h.id) > 0 {
		h.id = to.ID
	}
	from := h.seq
	h.seq = max(from, to.Seq)
	h.done += h.seq - from
	err := db.Update(func(txn *badger.Txn) error {
		if h.seq > from {
			first, _ := place(from + 1)
			last, _ := place(h.seq)
			// Only the ends are written: a chunk between them is full, and so it
			// is not there.
			for _, chunk := range []uint64{first, last} {
				if err := completeIn(txn, chunk, from+1, h.seq); err != nil {
					return err
				}
			}
			if err := txn.Set(gapKey(from+1), newGap(Gap{from + 1, h.seq})); err != nil {
				return err
			}
		}
		return txn.Set(keyHead, h.value())
	})
	if err != nil {
		return h, fmt.Errorf("advance the log's numbers: %w", err)
	}
	return h, nil
}

// Gap are the numbers from From to To: given out by a life of the log that ended
// with its disk, after the backup that this one was made of.
type Gap struct{ From, To uint64 }

// Gaps are those of the log, ascending.
func (l *Log) Gaps() []Gap { return slices.Clone(l.gaps) }

// gapKey is the key of the gap that begins with that number; its last is the value.
func gapKey(from uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefixMeta, 'g'}, from)
}

func newGap(g Gap) []byte {
	value := binary.BigEndian.AppendUint64(make([]byte, sealSize), g.To)
	seal(value, gapKey(g.From))
	return value
}

func openGap(key, value []byte) (g Gap, err error) {
	body, err := unseal(value, key)
	if err != nil {
		return g, err
	}
	if len(body) != 8 {
		return g, fmt.Errorf("%w: a gap of %d bytes", errDamaged, len(body))
	}
	return Gap{binary.BigEndian.Uint64(key[2:]), binary.BigEndian.Uint64(body)}, nil
}

// completeIn marks those of the numbers that are in the chunk.
func completeIn(txn *badger.Txn, chunk, from, to uint64) error {
	key, bits := chunkKey(nil, chunk), new(bitmap)
	item, err := txn.Get(key)
	if err == nil {
		err = item.Value(func(v []byte) error {
			bits, err = openBitmap(v, key)
			return err
		})
	}
	if err != nil && !errors.Is(err, badger.ErrKeyNotFound) {
		return err
	}
	for bit := range uint64(chunkSeqs) {
		if seq := chunk*chunkSeqs + 1 + bit; seq >= from && seq <= to {
			bits.set(bit)
		}
	}
	if bits.count() == chunkSeqs {
		return txn.Delete(key)
	}
	return txn.Set(key, bits.value(key))
}
