package wal

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
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
// It holds only chunks in which some number is not complete; so its size
// follows the spread of what waits (1 KiB for 8,192 numbers), not the history.
// A chunk that is full is forgotten; that it was full, and not lost, is proved
// by the total count, which the head keeps.
type ledger struct {
	last uint64 // last number issued; numbers start at 1
	done uint64 // how many are complete
	// open has every chunk up to last's that is not full, even if it is empty.
	open map[uint64]*bitmap
}

func place(seq uint64) (chunk, bit uint64) { return (seq - 1) / chunkSeqs, (seq - 1) % chunkSeqs }

// issue returns the next number.
func (l *ledger) issue() uint64 {
	l.last++
	if chunk, bit := place(l.last); bit == 0 {
		l.open[chunk] = new(bitmap)
	}
	return l.last
}

// isDone reports whether seq is complete.
func (l *ledger) isDone(seq uint64) bool {
	chunk, bit := place(seq)
	b := l.open[chunk]
	return b == nil || b.get(bit)
}

// complete marks seq and returns its chunk, or false if it was marked before or
// never issued.
func (l *ledger) complete(seq uint64) (chunk uint64, fresh bool) {
	chunk, bit := place(seq)
	if seq == 0 || seq > l.last || l.isDone(seq) {
		return chunk, false
	}
	l.open[chunk].set(bit)
	l.done++
	return chunk, true
}

// settle forgets the chunk if it is full, and returns its bitmap otherwise.
func (l *ledger) settle(chunk uint64) *bitmap {
	b := l.open[chunk]
	if b != nil && b.count() == chunkSeqs {
		delete(l.open, chunk)
		return nil
	}
	return b
}

// lowest is the lowest number that is not complete; 0: there is none.
func (l *ledger) lowest() uint64 {
	for _, chunk := range slices.Sorted(maps.Keys(l.open)) {
		for bit := range uint64(chunkSeqs) {
			if seq := chunk*chunkSeqs + 1 + bit; seq <= l.last && !l.open[chunk].get(bit) {
				return seq
			}
		}
	}
	return 0
}

// clone copies the ledger: 1 KiB for each chunk in which something waits.
func (l *ledger) clone() *ledger {
	c := &ledger{last: l.last, done: l.done, open: make(map[uint64]*bitmap, len(l.open))}
	for chunk, b := range l.open {
		copied := *b
		c.open[chunk] = &copied
	}
	return c
}

// compare holds the records that are there against the ledger. missing is
// called for every number that is neither there nor complete, in ascending
// order; risen for every one that is both, if the ledger still has its chunk.
func (l *ledger) compare(c *census, missing, risen func(seq uint64)) {
	for _, chunk := range slices.Sorted(maps.Keys(l.open)) {
		b, seen, first := l.open[chunk], c.seen[chunk], chunk*chunkSeqs+1
		if seen == nil {
			seen = new(bitmap)
		}
		for i := range b {
			same := b[i] ^ seen[i] // a bit is 0 where both or neither say yes
			if same == ^uint64(0) {
				continue
			}
			for bit := uint64(i) * 64; bit < uint64(i)*64+64 && first+bit <= l.last; bit++ {
				switch {
				case b.get(bit) && seen.get(bit):
					risen(first + bit)
				case !b.get(bit) && !seen.get(bit):
					missing(first + bit)
				}
			}
		}
	}
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
// are there. A chunk of which nothing is stored and nothing is there counts as
// full, and the last as empty; the error says that the total belies it.
func adopt(h head, chunks map[uint64]*bitmap, c *census) (*ledger, error) {
	l := &ledger{last: h.seq, open: chunks}
	for chunk := range c.seen {
		if l.open[chunk] == nil {
			l.open[chunk] = new(bitmap)
		}
	}
	if last, bit := place(h.seq + 1); bit != 0 && l.open[last] == nil {
		l.open[last] = new(bitmap)
	}
	total := (h.seq + chunkSeqs - 1) / chunkSeqs
	l.done = (total - min(total, uint64(len(l.open)))) * chunkSeqs
	for _, b := range l.open {
		l.done += uint64(b.count())
	}
	if l.done != h.done {
		return l, fmt.Errorf("%w: the ledger counts %d complete messages, the head says %d: chunks of %d numbers are gone whole", errDamaged, l.done, h.done, chunkSeqs)
	}
	return l, nil
}
