package embedded

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// blockSpan is how many sequence numbers a block stands for.
const blockSpan = 1024

const (
	blockWords = blockSpan / 64
	blockLen   = 4 + 2*blockWords*8
)

// block says which of blockSpan sequence numbers are in the store, and which of
// these belong to messages that are final.
type block struct {
	present, final [blockWords]uint64
}

func blockKey(node uint16, number uint64) []byte {
	key := append(make([]byte, 0, 11), prefixBlock)
	key = binary.BigEndian.AppendUint16(key, node)
	return binary.BigEndian.AppendUint64(key, number)
}

func blockPrefix(node uint16) []byte { return blockKey(node, 0)[:3] }

// blockNode and blockNumber are the parts of a block's key.
func blockNode(key []byte) uint16   { return binary.BigEndian.Uint16(key[1:]) }
func blockNumber(key []byte) uint64 { return binary.BigEndian.Uint64(key[3:]) }

// set notes whether the sequence number is in the store, and final.
func (b *block) set(seq uint64, present, final bool) {
	word, bit := seq%blockSpan/64, uint64(1)<<(seq%64)
	b.present[word] &^= bit
	b.final[word] &^= bit
	if present {
		b.present[word] |= bit
	}
	if present && final {
		b.final[word] |= bit
	}
}

func (b *block) has(seq uint64) bool { return b.present[seq%blockSpan/64]>>(seq%64)&1 == 1 }

func (b *block) empty() bool { return b.present == [blockWords]uint64{} }

// count counts the sequence numbers from the first to the last of the block
// that are in the store, and how many are final.
func (b *block) count(first, last uint64) (stored, final uint64) {
	for w := range uint64(blockWords) {
		lo, hi := w*64, w*64+63
		if hi < first || lo > last {
			continue
		}
		mask := ^uint64(0) << (max(first, lo) - lo) & (^uint64(0) >> (hi - min(last, hi)))
		stored += uint64(bits.OnesCount64(b.present[w] & mask))
		final += uint64(bits.OnesCount64(b.final[w] & mask))
	}
	return stored, final
}

func (b *block) append(dst, key []byte) []byte {
	dst = append(dst, 0, 0, 0, 0)
	for _, words := range []*[blockWords]uint64{&b.present, &b.final} {
		for _, w := range words {
			dst = binary.BigEndian.AppendUint64(dst, w)
		}
	}
	binary.BigEndian.PutUint32(dst, sum(key, dst[4:]))
	return dst
}

func decodeBlock(key, value []byte) (*block, error) {
	var err error
	switch {
	case len(value) != blockLen:
		err = fmt.Errorf("%d bytes, want %d", len(value), blockLen)
	case binary.BigEndian.Uint32(value) != sum(key, value[4:]):
		err = errSum
	}
	if err != nil {
		return nil, &DamagedError{fmt.Sprintf("block %d of node %d", blockNumber(key), blockNode(key)), err}
	}
	b := new(block)
	rest := value[4:]
	for _, words := range []*[blockWords]uint64{&b.present, &b.final} {
		for i := range words {
			words[i], rest = binary.BigEndian.Uint64(rest), rest[8:]
		}
	}
	return b, nil
}
