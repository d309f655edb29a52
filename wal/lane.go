package wal

import (
	"encoding/binary"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// The key of a message that waits, in order of size:
//
//	1 byte    a
//	5 bytes   span: the id's time in units of 4,096 ms
//	1 byte    lane
//	16 bytes  id
//
// Within a span each lane is one range: a drain by priority deletes whole ranges.
// The span comes first, so that what is written now lies behind all that waits.
// With the lane first every memtable, which has some of each lane, spans the older
// records of all lanes but one; Badger then merges each with all of those, and a
// long backlog is rewritten again and again under the commits. For the same reason
// no other kind of key comes before this one.
const (
	spanBits       = 12
	maxSpan        = 1<<40 - 1
	laneAt         = 1 + 5
	messageKeySize = laneAt + 1 + idSize
)

func messageKey(dst []byte, id message.ID) []byte {
	return append(laneKey(dst, spanOf(id), id.Lane()), id[:]...)
}

func spanOf(id message.ID) uint64 { return id.Millis() >> spanBits }

// laneKey is the beginning of all keys of a lane in a span.
func laneKey(dst []byte, span uint64, p message.Priority) []byte {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], span)
	dst = append(append(dst, prefixMessage), b[3:]...)
	return append(dst, byte(p))
}

// laneIterator walks over the messages of one lane in the order of their ids.
type laneIterator struct {
	*badger.Iterator
	lane message.Priority
	key  []byte
}

func newLaneIterator(txn *badger.Txn, p message.Priority) *laneIterator {
	return &laneIterator{Iterator: txn.NewIterator(badger.IteratorOptions{Prefix: []byte{prefixMessage}}), lane: p}
}

// seek goes to the first message of the lane whose id is not smaller.
func (l *laneIterator) seek(id message.ID) {
	l.key = append(laneKey(l.key[:0], spanOf(id), l.lane), id[:]...)
	l.Seek(l.key)
	l.skip()
}

func (l *laneIterator) next() {
	l.Next()
	l.skip()
}

// skip passes over other lanes, a whole range at a time. It stops at a key that
// is none of a message, for its caller to complain of.
func (l *laneIterator) skip() {
	for l.Valid() {
		key := l.Item().Key()
		if len(key) != messageKeySize || key[laneAt] == byte(l.lane) || key[laneAt] >= message.Lanes {
			return
		}
		var b [8]byte
		copy(b[3:], key[1:laneAt])
		span := binary.BigEndian.Uint64(b[:])
		if key[laneAt] > byte(l.lane) {
			span++
		}
		if l.key = laneKey(l.key[:0], span, l.lane); span > maxSpan {
			l.key = append(l.key[:0], prefixMessage+1)
		}
		l.Seek(l.key)
	}
}
