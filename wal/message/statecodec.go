package message

import (
	"encoding/binary"
	"fmt"
	"time"
)

// The tags of a state's fields.
const (
	tagStoredAt = iota + 1 // Unix ms, as all times below
	tagScheduledAt
	tagSentAt
	tagDeliveredAt
	tagReadAt
	tagFailedAt
	tagNextAttemptAt
	tagHoldReason
	tagProviderID
	tagDuplicateOf
	tagError   // code, category, retryable, channel code, message
	tagAttempt // repeated: n, at, outcome, channel code, duration in µs
)

// Append appends the state's encoding to dst and returns the longer slice.
func (s *State) Append(dst []byte) []byte {
	dst = append(dst, codecVersion, byte(s.Status))
	dst = appendTime(dst, tagStoredAt, s.StoredAt)
	dst = appendTime(dst, tagScheduledAt, s.ScheduledAt)
	dst = appendTime(dst, tagSentAt, s.SentAt)
	dst = appendTime(dst, tagDeliveredAt, s.DeliveredAt)
	dst = appendTime(dst, tagReadAt, s.ReadAt)
	dst = appendTime(dst, tagFailedAt, s.FailedAt)
	dst = appendTime(dst, tagNextAttemptAt, s.NextAttemptAt)
	dst = appendString(dst, tagHoldReason, s.HoldReason)
	dst = appendString(dst, tagProviderID, s.ProviderID)
	if !s.DuplicateOf.IsZero() {
		dst = appendField(dst, tagDuplicateOf, s.DuplicateOf[:])
	}
	if e := s.Error; e != nil {
		var sub []byte
		for _, v := range []string{e.Code, e.Category, boolText(e.Retryable), e.ChannelCode, e.Message} {
			sub = appendField(sub, 1, v)
		}
		dst = appendField(dst, tagError, sub)
	}
	for _, a := range s.Attempts {
		sub := binary.AppendUvarint(make([]byte, 0, 48), uint64(a.N))
		sub = binary.AppendUvarint(sub, uint64(a.At.UnixMilli()))
		sub = binary.AppendUvarint(sub, uint64(a.Duration.Microseconds()))
		sub = appendField(sub, 1, a.Outcome)
		sub = appendField(sub, 1, a.ChannelCode)
		dst = appendField(dst, tagAttempt, sub)
	}
	return dst
}

// DecodeState reads what State.Append wrote.
func DecodeState(b []byte) (State, error) {
	if len(b) < 2 {
		return State{}, errTruncated
	}
	if b[0] != codecVersion {
		return State{}, fmt.Errorf("version %d, this program knows %d", b[0], codecVersion)
	}
	s := State{Status: Status(b[1])}
	if !s.Status.Valid() {
		return State{}, fmt.Errorf("status %d", b[1])
	}
	r := reader{rest: string(b[2:])}
	for r.rest != "" {
		tag, v, err := r.field()
		if err == nil {
			err = s.set(tag, v)
		}
		if err != nil {
			return State{}, err
		}
	}
	return s, nil
}

func (s *State) set(tag byte, v string) (err error) {
	switch tag {
	case tagStoredAt:
		s.StoredAt, err = parseTime(v)
	case tagScheduledAt:
		s.ScheduledAt, err = parseTime(v)
	case tagSentAt:
		s.SentAt, err = parseTime(v)
	case tagDeliveredAt:
		s.DeliveredAt, err = parseTime(v)
	case tagReadAt:
		s.ReadAt, err = parseTime(v)
	case tagFailedAt:
		s.FailedAt, err = parseTime(v)
	case tagNextAttemptAt:
		s.NextAttemptAt, err = parseTime(v)
	case tagHoldReason:
		s.HoldReason = v
	case tagProviderID:
		s.ProviderID = v
	case tagDuplicateOf:
		err = parseInto(s.DuplicateOf[:], v)
	case tagError:
		s.Error, err = decodeFailure(v)
	case tagAttempt:
		var a Attempt
		a, err = decodeAttempt(v)
		s.Attempts = append(s.Attempts, a)
	default:
		err = fmt.Errorf("unknown field %d: written by a newer version", tag)
	}
	return err
}

func decodeFailure(v string) (*Failure, error) {
	r := reader{rest: v}
	var part [5]string
	for i := range part {
		var err error
		if _, part[i], err = r.field(); err != nil {
			return nil, err
		}
	}
	if r.rest != "" {
		return nil, errOrder
	}
	return &Failure{Code: part[0], Category: part[1], Retryable: part[2] == boolText(true), ChannelCode: part[3], Message: part[4]}, nil
}

// What no writer of ours exceeds, and what Go's types hold.
const (
	maxAttempt = 1 << 40 // an attempt's number, and its duration in µs: 12 days
	maxMillis  = 1 << 50 // a time, in ms
)

func decodeAttempt(v string) (a Attempt, err error) {
	r := reader{rest: v}
	var num [3]uint64
	for i := range num {
		if num[i], err = r.uvarint(); err != nil {
			return a, err
		}
	}
	if num[0] > maxAttempt || num[1] > maxMillis || num[2] > maxAttempt {
		return a, fmt.Errorf("attempt %d at %d ms of %d µs", num[0], num[1], num[2])
	}
	a.N, a.At, a.Duration = int(num[0]), time.UnixMilli(int64(num[1])).UTC(), time.Duration(num[2])*time.Microsecond
	if _, a.Outcome, err = r.field(); err != nil {
		return a, err
	}
	if _, a.ChannelCode, err = r.field(); err == nil && r.rest != "" {
		err = errOrder
	}
	return a, err
}
