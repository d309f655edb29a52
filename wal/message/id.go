package message

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"time"
)

// ID names a message. It is a UUIDv7 (RFC 9562 §5.7) that is its own address:
//
//	48 bits  Unix time in ms        when it was accepted
//	 4 bits  version = 7
//	12 bits  counter                within the millisecond
//	 2 bits  variant = 0b10
//	16 bits  node                   which appliance has it, 1–65535
//	 2 bits  lane                   its priority there
//	44 bits  random
//
// IDs of one node sort in the order of acceptance, byte by byte.
type ID [16]byte

// ErrBadID is returned for text that is not an ID of ours.
var ErrBadID = errors.New("not a message id")

const (
	maxCounter = 1<<12 - 1
	randomBits = 44
)

// NewID puts an ID together. ms is Unix time in milliseconds, counter at most
// 4095; of random the low 44 bits are used.
func NewID(ms uint64, counter, node uint16, lane Priority, random uint64) ID {
	var id ID
	hi := ms<<16 | 7<<12 | uint64(counter&maxCounter)
	lo := uint64(0b10)<<62 | uint64(node)<<46 | uint64(lane&3)<<randomBits | random&(1<<randomBits-1)
	binary.BigEndian.PutUint64(id[:8], hi)
	binary.BigEndian.PutUint64(id[8:], lo)
	return id
}

func (id ID) hi() uint64 { return binary.BigEndian.Uint64(id[:8]) }
func (id ID) lo() uint64 { return binary.BigEndian.Uint64(id[8:]) }

// Millis is the time of acceptance as Unix time in milliseconds.
func (id ID) Millis() uint64 { return id.hi() >> 16 }

// Time is the time of acceptance, in UTC.
func (id ID) Time() time.Time { return time.UnixMilli(int64(id.Millis())).UTC() }

// Counter is the number of the message within its millisecond, 0–4095.
func (id ID) Counter() uint16 { return uint16(id.hi()) & maxCounter }

// Node is the number of the appliance that issued the ID.
func (id ID) Node() uint16 { return uint16(id.lo() >> 46) }

// Lane is the priority that the message was accepted with.
func (id ID) Lane() Priority { return Priority(id.lo() >> randomBits & 3) }

// Compare orders IDs byte by byte: those of one node by acceptance.
func (id ID) Compare(other ID) int { return bytes.Compare(id[:], other[:]) }

// IsZero reports whether the ID is not set.
func (id ID) IsZero() bool { return id == ID{} }

// Valid reports whether version, variant and node are those of an ID of ours.
func (id ID) Valid() bool { return id[6]>>4 == 7 && id[8]>>6 == 0b10 && id.Node() != 0 }

// AppendText appends the canonical form, 36 characters, to dst.
func (id ID) AppendText(dst []byte) ([]byte, error) {
	dst = hex.AppendEncode(dst, id[0:4])
	dst = hex.AppendEncode(append(dst, '-'), id[4:6])
	dst = hex.AppendEncode(append(dst, '-'), id[6:8])
	dst = hex.AppendEncode(append(dst, '-'), id[8:10])
	dst = hex.AppendEncode(append(dst, '-'), id[10:16])
	return dst, nil
}

// String returns the canonical form.
func (id ID) String() string {
	var buf [36]byte
	text, _ := id.AppendText(buf[:0])
	return string(text)
}

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return id.AppendText(make([]byte, 0, 36)) }

// UnmarshalText implements encoding.TextUnmarshaler; ErrBadID. The nil UUID is
// the zero ID.
func (id *ID) UnmarshalText(text []byte) error {
	if string(text) == (ID{}).String() {
		*id = ID{}
		return nil
	}
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// ParseID reads the canonical form, in either case; ErrBadID otherwise, also
// for a UUID that we cannot have issued.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return ID{}, ErrBadID
	}
	var digits [32]byte
	n := copy(digits[:], s[0:8])
	n += copy(digits[n:], s[9:13])
	n += copy(digits[n:], s[14:18])
	n += copy(digits[n:], s[19:23])
	copy(digits[n:], s[24:36])
	if _, err := hex.Decode(id[:], digits[:]); err != nil || !id.Valid() {
		return ID{}, ErrBadID
	}
	return id, nil
}
