package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"forebay/wal/message"
)

// The first byte of every key says what it is.
const (
	prefixMessage  = 'a' // before all others, see lane.go
	prefixFormer   = 'm' // what prefixMessage was in format 1
	prefixParked   = 'd'
	prefixProgress = 'p'
	prefixKey      = 'k'
	prefixMeta     = 'x'
)

var (
	keyFormat = []byte("xformat")
	keyHead   = []byte("xhead")
)

const (
	formatVersion = 2

	idSize        = len(message.ID{})
	parkedKeySize = 1 + 8 + idSize
)

func parkedKey(dst []byte, due uint64, id message.ID) []byte {
	dst = append(dst, prefixParked)
	dst = binary.BigEndian.AppendUint64(dst, due)
	return append(dst, id[:]...)
}

func progressKey(dst []byte, id message.ID) []byte {
	return append(append(dst, prefixProgress), id[:]...)
}

// idempotencyKey cannot be ambiguous: an account has no NUL in it.
func idempotencyKey(dst []byte, account, key string) []byte {
	dst = append(append(dst, prefixKey), account...)
	return append(append(dst, 0), key...)
}

func chunkKey(dst []byte, chunk uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, prefixMeta, 'c'), chunk)
}

// padKey is the key of one of the values that fill a memtable. They mean
// nothing and may be left over from a crash.
func padKey(i uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefixMeta, 'p'}, i)
}

// recordID returns the ID inside a message key, of this format or the former one,
// or a parked key.
func recordID(key []byte) (message.ID, error) {
	if id, ok := formerID(key); ok {
		return id, nil
	}
	var want int
	if len(key) > 0 {
		switch key[0] {
		case prefixMessage:
			want = messageKeySize
		case prefixParked:
			want = parkedKeySize
		}
	}
	if want == 0 || len(key) != want {
		return message.ID{}, fmt.Errorf("key % x is none of a record", key)
	}
	id := message.ID(key[want-idSize:])
	if !id.Valid() || key[0] == prefixMessage && !bytes.Equal(key, messageKey(make([]byte, 0, messageKeySize), id)) {
		return message.ID{}, fmt.Errorf("key % x holds no message id", key)
	}
	return id, nil
}

// A record, and every other value of ours, on disk:
//
//	4 bytes  length of what follows the sum, big endian
//	4 bytes  CRC-32C of a salt (the record's id; else the key) and what follows
//	8 bytes  sequence number            records only
//	         payload
//
// The salt of a record is its id, not its key: parking moves a record to
// another key without touching it.
const (
	sealSize   = 8
	recordHead = sealSize + 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged is wrapped by everything that fails a check of ours.
var errDamaged = errors.New("damaged")

// seal fills in length and sum of a value whose first sealSize bytes are free.
func seal(value, salt []byte) {
	binary.BigEndian.PutUint32(value, uint32(len(value)-sealSize))
	sum := crc32.Update(crc32.Checksum(salt, castagnoli), castagnoli, value[sealSize:])
	binary.BigEndian.PutUint32(value[4:], sum)
}

// unseal checks a value and returns what follows the sum.
func unseal(value, salt []byte) ([]byte, error) {
	switch {
	case len(value) == 0:
		return nil, fmt.Errorf("%w: the value is empty", errDamaged)
	case len(value) < sealSize || int(binary.BigEndian.Uint32(value)) != len(value)-sealSize:
		return nil, fmt.Errorf("%w: the value has %d bytes and says otherwise", errDamaged, len(value))
	}
	sum := crc32.Update(crc32.Checksum(salt, castagnoli), castagnoli, value[sealSize:])
	if sum != binary.BigEndian.Uint32(value[4:]) {
		return nil, fmt.Errorf("%w: the checksum does not match", errDamaged)
	}
	return value[sealSize:], nil
}

// sealRecord completes a record whose payload starts at recordHead.
func sealRecord(value []byte, id message.ID, seq uint64) {
	binary.BigEndian.PutUint64(value[sealSize:], seq)
	seal(value, id[:])
}

// newRecord makes a record from its parts.
func newRecord(e message.Entry) []byte {
	value := make([]byte, recordHead, recordHead+len(e.Payload))
	value = append(value, e.Payload...)
	sealRecord(value, e.ID, e.Seq)
	return value
}

// openRecord checks a record and returns its parts; they share value's bytes.
func openRecord(value []byte, id message.ID) (seq uint64, payload []byte, err error) {
	body, err := unseal(value, id[:])
	if err != nil {
		return 0, nil, err
	}
	if len(body) < 8 {
		return 0, nil, fmt.Errorf("%w: a record of %d bytes", errDamaged, len(body))
	}
	return binary.BigEndian.Uint64(body), body[8:], nil
}

// recordSeq is the number of a record whose sum is not checked; 0: none.
func recordSeq(value []byte) uint64 {
	if len(value) < recordHead {
		return 0
	}
	return binary.BigEndian.Uint64(value[sealSize:])
}

// progress is the value under p: the time it is parked until (Unix ms, 0: it is
// not) and the encoded state.
func newProgress(key []byte, due uint64, state []byte) []byte {
	value := make([]byte, sealSize, sealSize+8+len(state))
	value = binary.BigEndian.AppendUint64(value, due)
	value = append(value, state...)
	seal(value, key)
	return value
}

func openProgress(value, key []byte) (due uint64, state []byte, err error) {
	body, err := unseal(value, key)
	if err != nil {
		return 0, nil, err
	}
	if len(body) < 8 {
		return 0, nil, fmt.Errorf("%w: a progress of %d bytes", errDamaged, len(body))
	}
	return binary.BigEndian.Uint64(body), bytes.Clone(body[8:]), nil
}

// claim is the value under k.
type claim struct {
	id          message.ID
	fingerprint message.Fingerprint
	expiry      uint64 // log time, Unix ms
}

func (c claim) value(key []byte) []byte {
	value := make([]byte, sealSize, sealSize+2*idSize+8)
	value = append(value, c.id[:]...)
	value = append(value, c.fingerprint[:]...)
	value = binary.BigEndian.AppendUint64(value, c.expiry)
	seal(value, key)
	return value
}

func openClaim(value, key []byte) (c claim, err error) {
	body, err := unseal(value, key)
	if err != nil {
		return c, err
	}
	if len(body) != 2*idSize+8 {
		return c, fmt.Errorf("%w: a claim of %d bytes", errDamaged, len(body))
	}
	copy(c.id[:], body)
	copy(c.fingerprint[:], body[idSize:])
	c.expiry = binary.BigEndian.Uint64(body[2*idSize:])
	return c, nil
}

// head is the value under x head.
type head struct {
	seq  uint64     // last sequence number issued
	id   message.ID // last ID issued
	done uint64     // how many of them are complete
}

func (h head) value() []byte {
	value := make([]byte, sealSize, sealSize+16+idSize)
	value = binary.BigEndian.AppendUint64(value, h.seq)
	value = binary.BigEndian.AppendUint64(value, h.done)
	value = append(value, h.id[:]...)
	seal(value, keyHead)
	return value
}

func openHead(value []byte) (h head, err error) {
	body, err := unseal(value, keyHead)
	if err != nil {
		return h, err
	}
	if len(body) != 16+idSize {
		return h, fmt.Errorf("%w: a head of %d bytes", errDamaged, len(body))
	}
	h.seq = binary.BigEndian.Uint64(body)
	h.done = binary.BigEndian.Uint64(body[8:])
	copy(h.id[:], body[16:])
	return h, nil
}
