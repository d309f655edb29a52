package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"

	"forebay/wal/message"
)

// formatVersion is the version of the keys and values that doc.go draws.
const formatVersion = 2

var formatKey = []byte("xformat")

// The first byte of a key says what it is.
const (
	prefixMessage = 'm'
	prefixAccount = 'a'
	prefixRef     = 'r'
	prefixClaim   = 'c'
	prefixBlock   = 's'
)

const idLen = len(message.ID{})

// DamagedError says that a value does not verify.
type DamagedError struct {
	What string // which one
	Err  error
}

// Error implements error.
func (e *DamagedError) Error() string { return "damaged " + e.What + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *DamagedError) Unwrap() error { return e.Err }

var (
	errShort = errors.New("too short")
	errSum   = errors.New("checksum mismatch")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum is the checksum of a value under its key, so that a value that turns up
// under another key does not verify either.
func sum(key, rest []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, rest)
}

func messageKey(id message.ID) []byte {
	return append(append(make([]byte, 0, 1+idLen), prefixMessage), id[:]...)
}

// accountPrefix begins the keys of one account. room is how many bytes will be
// appended.
func accountPrefix(kind byte, account string, room int) []byte {
	key := make([]byte, 0, 1+binary.MaxVarintLen64+len(account)+room)
	key = append(key, kind)
	key = binary.AppendUvarint(key, uint64(len(account)))
	return append(key, account...)
}

func accountKey(account string, id message.ID) []byte {
	return append(accountPrefix(prefixAccount, account, idLen), id[:]...)
}

// refPrefix begins the keys of an account's messages with one client_ref, and
// of any other that has the same hash.
func refPrefix(account, ref string, room int) []byte {
	h := fnv.New64a()
	h.Write([]byte(ref))
	return h.Sum(accountPrefix(prefixRef, account, 8+room))
}

func refKey(account, ref string, id message.ID) []byte {
	return append(refPrefix(account, ref, idLen), id[:]...)
}

func claimKey(account, key string) []byte {
	return append(accountPrefix(prefixClaim, account, len(key)), key...)
}

// keyID is the id at the end of a key.
func keyID(key []byte) message.ID { return message.ID(key[len(key)-idLen:]) }

// recordHead is the length of what stands before the part that a record's
// length counts.
const recordHead = 8

// appendRecord appends a record's value to dst, which must be empty.
func appendRecord(dst, key []byte, r *message.Record) []byte {
	dst = append(dst, make([]byte, recordHead)...)
	dst = binary.AppendUvarint(dst, r.Seq)
	state := r.State.Append(make([]byte, 0, 64))
	dst = binary.AppendUvarint(dst, uint64(len(state)))
	dst = append(dst, state...)
	dst = r.Message.Append(dst)
	binary.BigEndian.PutUint32(dst[4:], uint32(len(dst)-recordHead))
	binary.BigEndian.PutUint32(dst, sum(key, dst[4:]))
	return dst
}

// decodeRecord reads and verifies what appendRecord wrote. It copies.
func decodeRecord(key, value []byte) (message.Record, error) {
	id := keyID(key)
	r, err := parseRecord(key, value)
	if err != nil {
		return message.Record{}, &DamagedError{"message " + id.String(), err}
	}
	r.ID = id
	return r, nil
}

func parseRecord(key, value []byte) (r message.Record, err error) {
	if len(value) < recordHead {
		return r, errShort
	}
	if n := binary.BigEndian.Uint32(value[4:]); int(n) != len(value)-recordHead {
		return r, fmt.Errorf("length %d, want %d", len(value)-recordHead, n)
	}
	if binary.BigEndian.Uint32(value) != sum(key, value[4:]) {
		return r, errSum
	}
	rest := value[recordHead:]
	seq, n := binary.Uvarint(rest)
	if n <= 0 {
		return r, errShort
	}
	rest = rest[n:]
	size, n := binary.Uvarint(rest)
	if n <= 0 || size > uint64(len(rest)-n) {
		return r, errShort
	}
	rest = rest[n:]
	r.Seq = seq
	if r.State, err = message.DecodeState(rest[:size]); err != nil {
		return r, fmt.Errorf("state: %w", err)
	}
	r.Message, err = message.Decode(rest[size:])
	return r, err
}

// appendClaim returns the value of a claim: the id, and a CRC-32C of the key and
// that.
func appendClaim(key []byte, id message.ID) []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, idLen+4), id[:]...), sum(key, id[:]))
}

func decodeClaim(key, value []byte) (message.ID, error) {
	if len(value) != idLen+4 || binary.BigEndian.Uint32(value[idLen:]) != sum(key, value[:idLen]) {
		return message.ID{}, &DamagedError{fmt.Sprintf("claim %q", key), errSum}
	}
	return message.ID(value[:idLen]), nil
}

// summary is what an index knows of a message, so that a query reads only
// records that it will return, but for a rare collision of hashes.
type summary [6]byte

func newSummary(r *message.Record) summary {
	var s summary
	s[0], s[1] = byte(r.Status), byte(r.Channel)
	if r.Test {
		s[1] |= summaryTest
	}
	if r.Callback {
		s[1] |= summaryCallback
	}
	binary.BigEndian.PutUint32(s[2:], hashTo(r.To))
	return s
}

// What marks a test message, and one that tells of another's status, in the byte
// of the channel.
const (
	summaryTest     = 0x80
	summaryCallback = 0x40
)

func (s summary) status() message.Status { return message.Status(s[0]) }
func (s summary) channel() message.Channel {
	return message.Channel(s[1] &^ (summaryTest | summaryCallback))
}

// counts reports whether the message is one that its account has used.
func (s summary) counts() bool { return s[1]&(summaryTest|summaryCallback) == 0 }

func hashTo(to string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(to))
	return h.Sum32()
}

// mayMatch reports whether a message with this summary can match the query.
func (s summary) mayMatch(q *message.Query, to uint32) bool {
	status := s.status()
	due := q.Status == message.Queued && status == message.Scheduled // perhaps, see message.State.StatusAt
	return (q.Status == 0 || status == q.Status || due) && (q.Channel == 0 || s.channel() == q.Channel) &&
		(q.To == "" || binary.BigEndian.Uint32(s[2:]) == to)
}
