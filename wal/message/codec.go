package message

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// A message on disk:
//
//	version  1 byte, codecVersion
//	channel  1 byte
//	priority 1 byte
//	flags    1 byte
//	fields   tag (1 byte) · length (uvarint) · bytes, tags never decreasing
//
// Numbers are uvarints inside their field. Empty fields are left out, so equal
// messages have equal bytes: fingerprints rest on that. A tag that this version
// does not know is an error and not skipped: it was written by a newer version,
// and a message read without it would not be the message that was accepted.
const codecVersion = 1

const (
	flagTest     = 1 << 0
	flagCallback = 1 << 1
)

// The tags of a message's fields. They are written to disk; never renumber them.
const (
	tagAccount = iota + 1
	tagTo
	tagSubject
	tagBody
	tagHTML
	tagTemplateName
	tagTemplateLanguage
	tagTemplateParameter // repeated
	tagSendAt            // Unix ms
	tagTTL               // seconds
	tagClientRef
	tagMetadataKey   // repeated, each followed by its value
	tagMetadataValue //
	tagCallbackURL
	tagIdempotencyKey
	tagFingerprint
	tagTraceParent
	tagRequestID
	tagRequeueOf
)

var (
	errTruncated = errors.New("truncated")
	errOrder     = errors.New("fields out of order")
)

func appendString(dst []byte, tag byte, s string) []byte {
	if s == "" {
		return dst
	}
	return appendField(dst, tag, s)
}

func appendField[T string | []byte](dst []byte, tag byte, s T) []byte {
	dst = append(dst, tag)
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendUint(dst []byte, tag byte, v uint64) []byte {
	if v == 0 {
		return dst
	}
	var buf [binary.MaxVarintLen64]byte
	return appendField(dst, tag, binary.AppendUvarint(buf[:0], v))
}

func appendTime(dst []byte, tag byte, t time.Time) []byte {
	if t.IsZero() {
		return dst
	}
	return appendUint(dst, tag, uint64(t.UnixMilli()))
}

// Append appends the message's encoding to dst and returns the longer slice.
func (m *Message) Append(dst []byte) []byte {
	var flags byte
	if m.Test {
		flags |= flagTest
	}
	if m.Callback {
		flags |= flagCallback
	}
	dst = append(dst, codecVersion, byte(m.Channel), byte(m.Priority), flags)
	dst = appendString(dst, tagAccount, m.Account)
	dst = appendString(dst, tagTo, m.To)
	dst = appendString(dst, tagSubject, m.Subject)
	dst = appendString(dst, tagBody, m.Body)
	dst = appendString(dst, tagHTML, m.HTML)
	if t := m.Template; t != nil {
		dst = appendField(dst, tagTemplateName, t.Name)
		dst = appendString(dst, tagTemplateLanguage, t.Language)
		for _, p := range t.Parameters {
			dst = appendField(dst, tagTemplateParameter, p)
		}
	}
	dst = appendTime(dst, tagSendAt, m.SendAt)
	dst = appendUint(dst, tagTTL, uint64(m.TTL/time.Second))
	dst = appendString(dst, tagClientRef, m.ClientRef)
	for _, p := range m.Metadata {
		dst = appendField(dst, tagMetadataKey, p.Key)
		dst = appendField(dst, tagMetadataValue, p.Value)
	}
	dst = appendString(dst, tagCallbackURL, m.CallbackURL)
	dst = appendString(dst, tagIdempotencyKey, m.IdempotencyKey)
	if m.Fingerprint != (Fingerprint{}) {
		dst = appendField(dst, tagFingerprint, m.Fingerprint[:])
	}
	dst = appendString(dst, tagTraceParent, m.TraceParent)
	dst = appendString(dst, tagRequestID, m.RequestID)
	if !m.RequeueOf.IsZero() {
		dst = appendField(dst, tagRequeueOf, m.RequeueOf[:])
	}
	return dst
}

// Decode reads what Append wrote. It copies: the message does not hold on to b.
func Decode(b []byte) (Message, error) { return decode(string(b)) }

// decode makes a message whose strings are parts of b.
func decode(b string) (Message, error) {
	if len(b) < 4 {
		return Message{}, errTruncated
	}
	if b[0] != codecVersion {
		return Message{}, fmt.Errorf("version %d, this program knows %d", b[0], codecVersion)
	}
	m := Message{Channel: Channel(b[1]), Priority: Priority(b[2]), Test: b[3]&flagTest != 0, Callback: b[3]&flagCallback != 0}
	if !m.Channel.Valid() || m.Priority >= Lanes || b[3]&^(flagTest|flagCallback) != 0 {
		return Message{}, fmt.Errorf("head % x", b[:4])
	}
	r := reader{rest: b[4:]}
	for r.rest != "" {
		tag, v, err := r.field()
		if err == nil {
			err = m.set(tag, v)
		}
		if err != nil {
			return Message{}, err
		}
	}
	if n := len(m.Metadata); n > 0 && r.last == tagMetadataKey {
		return Message{}, errOrder
	}
	return m, nil
}

func (m *Message) set(tag byte, v string) (err error) {
	switch tag {
	case tagAccount:
		m.Account = v
	case tagTo:
		m.To = v
	case tagSubject:
		m.Subject = v
	case tagBody:
		m.Body = v
	case tagHTML:
		m.HTML = v
	case tagTemplateName:
		m.Template = &Template{Name: v}
	case tagTemplateLanguage, tagTemplateParameter:
		err = m.Template.set(tag, v)
	case tagSendAt:
		m.SendAt, err = parseTime(v)
	case tagTTL:
		m.TTL, err = parseSeconds(v)
	case tagClientRef:
		m.ClientRef = v
	case tagMetadataKey:
		m.Metadata = append(m.Metadata, Pair{Key: v})
	case tagMetadataValue:
		if len(m.Metadata) == 0 {
			return errOrder
		}
		m.Metadata[len(m.Metadata)-1].Value = v
	case tagCallbackURL:
		m.CallbackURL = v
	case tagIdempotencyKey:
		m.IdempotencyKey = v
	case tagFingerprint:
		err = parseInto(m.Fingerprint[:], v)
	case tagTraceParent:
		m.TraceParent = v
	case tagRequestID:
		m.RequestID = v
	case tagRequeueOf:
		err = parseInto(m.RequeueOf[:], v)
	default:
		err = fmt.Errorf("unknown field %d: written by a newer version", tag)
	}
	return err
}

// set takes a field of a template whose name has been read; nil: it has not.
func (t *Template) set(tag byte, v string) error {
	switch {
	case t == nil:
		return errOrder
	case tag == tagTemplateLanguage:
		t.Language = v
	default:
		t.Parameters = append(t.Parameters, v)
	}
	return nil
}

// reader walks over fields. Its strings share one backing array.
type reader struct {
	rest string
	last byte // tag of the field before
}

func (r *reader) uvarint() (uint64, error) {
	var buf [binary.MaxVarintLen64]byte
	n := copy(buf[:], r.rest)
	v, size := binary.Uvarint(buf[:n])
	if size <= 0 {
		return 0, errTruncated
	}
	r.rest = r.rest[size:]
	return v, nil
}

func (r *reader) field() (tag byte, v string, err error) {
	if r.rest == "" {
		return 0, "", errTruncated
	}
	tag, r.rest = r.rest[0], r.rest[1:]
	size, err := r.uvarint()
	if err != nil {
		return 0, "", err
	}
	if size > uint64(len(r.rest)) {
		return 0, "", errTruncated
	}
	if tag < r.last && !(tag == tagMetadataKey && r.last == tagMetadataValue) {
		return 0, "", errOrder
	}
	r.last = tag
	v, r.rest = r.rest[:size], r.rest[size:]
	return tag, v, nil
}

func parseUint(v string) (uint64, error) {
	r := reader{rest: v}
	n, err := r.uvarint()
	if err == nil && r.rest != "" {
		err = errOrder
	}
	return n, err
}

func parseTime(v string) (time.Time, error) {
	ms, err := parseUint(v)
	if err == nil && (ms == 0 || ms > maxMillis) {
		err = fmt.Errorf("a time of %d ms", ms)
	}
	return time.UnixMilli(int64(ms)).UTC(), err
}

func parseSeconds(v string) (time.Duration, error) {
	n, err := parseUint(v)
	if err == nil && n > uint64(math.MaxInt64/time.Second) {
		err = fmt.Errorf("a span of %d seconds", n)
	}
	return time.Duration(n) * time.Second, err
}

// parseInto reads a field of a fixed length.
func parseInto(dst []byte, v string) error {
	if len(v) != len(dst) {
		return errTruncated
	}
	copy(dst, v)
	return nil
}

func boolText(b bool) string {
	if b {
		return "1"
	}
	return ""
}

// MetadataFrom sorts pairs into the order that Message.Metadata keeps.
func MetadataFrom(m map[string]string) []Pair {
	if len(m) == 0 {
		return nil
	}
	pairs := make([]Pair, 0, len(m))
	for k, v := range m {
		pairs = append(pairs, Pair{k, v})
	}
	slices.SortFunc(pairs, func(a, b Pair) int {
		if a.Key < b.Key {
			return -1
		}
		return 1
	})
	return pairs
}
