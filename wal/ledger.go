package wal

import (
	"fmt"
	"math/bits"
)

// chunkSeqs is how many sequence numbers one chunk of the ledger covers.
const chunkSeqs = 8192

type bitmap [chunkSeqs / 64]uint64

func (b *bitmap) get(i uint64) bool { return b[i/64]>>(i%64)&1 == 1 }
func (b *bitmap) set(i uint64)      { b[i/64] |= 1 << (i % 64) }

func (b *bitmap) count() (n int) {
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// ledger knows, for each sequence number ever issued, whether its message is
// complete. It is what makes a missing record visible: the numbers are dense,
// so what is neither complete nor there is lost.
//
// It holds only chunks in which some numbers are complete and some are not; so
// its size follows the spread of what waits (1 KiB for 8,192 numbers), not the
// history. A chunk that is full is forgotten; that it was full, and not lost,
// is proved by the total count, which the head keeps.
type ledger struct {
	last    uint64 // last number issued; numbers start at 1
	done    uint64 // how many are complete
	partial map[uint64]*bitmap
	full    map[uint64]bool // full chunks above floor
	floor   uint64          // every chunk below is full
}

func newLedger() *ledger {
	return &ledger{partial: map[uint64]*bitmap{}, full: map[uint64]bool{}}
}

func place(seq uint64) (chunk, bit uint64) { return (seq - 1) / chunkSeqs, (seq - 1) % chunkSeqs }

// isDone reports whether seq is complete.
func (l *ledger) isDone(seq uint64) bool {
	chunk, bit := place(seq)
	if chunk < l.floor || l.full[chunk] {
		return true
	}
	b := l.partial[chunk]
	return b != nil && b.get(bit)
}

// complete marks seq and returns its chunk, or false if it was marked before.
func (l *ledger) complete(seq uint64) (chunk uint64, fresh bool) {
	chunk, bit := place(seq)
	if seq == 0 || seq > l.last || l.isDone(seq) {
		return chunk, false
	}
	b := l.partial[chunk]
	if b == nil {
		b = new(bitmap)
		l.partial[chunk] = b
	}
	b.set(bit)
	l.done++
	return chunk, true
}

// settle forgets the chunk if it is full, and returns its bitmap otherwise.
func (l *ledger) settle(chunk uint64) *bitmap {
	b := l.partial[chunk]
	if b == nil || b.count() < chunkSeqs {
		return b
	}
	delete(l.partial, chunk)
	l.full[chunk] = true
	for l.full[l.floor] {
		delete(l.full, l.floor)
		l.floor++
	}
	return nil
}

// value is a chunk on disk.
func (b *bitmap) value(key []byte) []byte {
	value := make([]byte, sealSize+8*len(b))
	for i, w := range b {
		for j := range 8 {
			value[sealSize+8*i+j] = byte(w >> (8 * j))
		}
	}
	seal(value, key)
	return value
}

func openBitmap(value, key []byte) (*bitmap, error) {
	body, err := unseal(value, key)
	if err != nil {
		return nil, err
	}
	b := new(bitmap)
	if len(body) != 8*len(b) {
		return nil, fmt.Errorf("%w: a chunk of %d bytes", errDamaged, len(body))
	}
	for i := range b {
		for j := range 8 {
			b[i] |= uint64(body[8*i+j]) << (8 * j)
		}
	}
	return b, nil
}

// census holds what a scan found against the ledger.
type census struct {
	seen map[uint64]*bitmap // by chunk: the numbers that are there
}

func newCensus() *census { return &census{seen: map[uint64]*bitmap{}} }

// add notes a record and reports whether its number is new.
func (c *census) add(seq uint64) bool {
	chunk, bit := place(seq)
	b := c.seen[chunk]
	if b == nil {
		b = new(bitmap)
		c.seen[chunk] = b
	}
	if b.get(bit) {
		return false
	}
	b.set(bit)
	return true
}

// adopt builds a ledger from the head, the stored chunks and the records that
// are there. missing is called for every number that is neither there nor
// complete, in ascending order; risen for every one that is both. The error
// says that whole chunks are gone.
func adopt(h head, chunks map[uint64]*bitmap, c *census, missing, risen func(seq uint64)) (*ledger, error) {
	l := &ledger{last: h.seq, partial: chunks, full: map[uint64]bool{}}
	total := (h.seq + chunkSeqs - 1) / chunkSeqs
	for chunk := range total {
		b, seen := chunks[chunk], c.seen[chunk]
		if b == nil && seen == nil && chunk < h.seq/chunkSeqs {
			l.full[chunk] = true
			l.done += chunkSeqs
			continue
		}
		if b == nil {
			b = new(bitmap)
		}
		if seen == nil {
			seen = new(bitmap)
		}
		first := chunk*chunkSeqs + 1
		for bit := range min(chunkSeqs, h.seq-chunk*chunkSeqs) {
			switch {
			case b.get(bit) && seen.get(bit):
				risen(first + bit)
			case !b.get(bit) && !seen.get(bit):
				missing(first + bit)
			}
		}
		l.done += uint64(b.count())
	}
	for l.full[l.floor] {
		delete(l.full, l.floor)
		l.floor++
	}
	if l.done != h.done {
		return l, fmt.Errorf("%w: the ledger counts %d complete messages, the head says %d: whole chunks of %d numbers are gone", errDamaged, l.done, h.done, chunkSeqs)
	}
	return l, nil
}
