// Package message is the vocabulary that every other package shares: what a
// message is, how it is named, how far it has got, and how it looks as bytes.
// It is a leaf: it imports nothing of ours and knows neither the log, nor HTTP,
// nor the database.
package message

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
	"unsafe"
)

// Channel says where a message goes.
type Channel uint8

// The channels. The numbers are written to disk; never renumber them.
const (
	ChannelStore    Channel = 1 // kept in the database, nothing is sent
	ChannelWhatsApp Channel = 2
	ChannelEmail    Channel = 3
	ChannelWebhook  Channel = 4
)

// Channels lists every channel in the order of their numbers.
var Channels = []Channel{ChannelStore, ChannelWhatsApp, ChannelEmail, ChannelWebhook}

var channelNames = [...]string{ChannelStore: "store", ChannelWhatsApp: "whatsapp", ChannelEmail: "email", ChannelWebhook: "webhook"}

// String returns the name that clients use.
func (c Channel) String() string {
	if c.Valid() {
		return channelNames[c]
	}
	return fmt.Sprintf("channel(%d)", uint8(c))
}

// Valid reports whether c is one of the constants.
func (c Channel) Valid() bool { return c >= ChannelStore && c <= ChannelWebhook }

// ParseChannel returns the channel of that name and whether there is one.
func ParseChannel(name string) (Channel, bool) {
	for _, c := range Channels {
		if channelNames[c] == name {
			return c, true
		}
	}
	return 0, false
}

// Priority is a message's importance and the lane of the log it waits in.
// A smaller number leaves first.
type Priority uint8

// The priorities. The numbers are part of every ID; never renumber them.
const (
	Critical Priority = 0
	High     Priority = 1
	Normal   Priority = 2
	Low      Priority = 3

	Lanes = 4 // how many there are
)

var priorityNames = [Lanes]string{"critical", "high", "normal", "low"}

// String returns the name that clients use.
func (p Priority) String() string {
	if p < Lanes {
		return priorityNames[p]
	}
	return fmt.Sprintf("priority(%d)", uint8(p))
}

// ParsePriority returns the priority of that name and whether there is one.
func ParsePriority(name string) (Priority, bool) {
	for p, n := range priorityNames {
		if n == name {
			return Priority(p), true
		}
	}
	return 0, false
}

// Template names a message template that the provider holds.
type Template struct {
	Name       string
	Language   string
	Parameters []string
}

// Pair is one entry of a message's metadata.
type Pair struct{ Key, Value string }

// Message is what a client submitted: it never changes after acceptance.
// Limits on lengths are checked where it comes in (httpapi), not here.
type Message struct {
	Account  string
	Channel  Channel
	Priority Priority
	Test     bool // submitted with a test key: everything happens but the provider call
	Callback bool // tells of another message's status: it has no callback of its own

	To       string
	Subject  string
	Body     string
	HTML     string
	Template *Template

	SendAt      time.Time     // zero: now; whole milliseconds
	TTL         time.Duration // from SendAt, or from acceptance; whole seconds; zero: never expires
	ClientRef   string
	Metadata    []Pair // sorted by key, keys unique
	CallbackURL string

	RequeueOf      ID // the failed message that this is a new try of; zero: of none
	IdempotencyKey string
	Fingerprint    Fingerprint // of the payload; zero without an IdempotencyKey
	TraceParent    string      // W3C traceparent, as received
	RequestID      string      // of the request that brought it
}

// Fingerprint tells one payload from another under the same idempotency key:
// the first 16 bytes of the SHA-256 of its encoding.
type Fingerprint [16]byte

// PayloadFingerprint computes the fingerprint of what the client asked for.
// The idempotency key, the trace and the request id do not take part: a retry
// may carry another trace and is still the same request. Compute it before
// defaults (such as TTL) are filled in, so that a changed default does not
// turn a retry into a mismatch.
func (m *Message) PayloadFingerprint() Fingerprint {
	payload := *m
	payload.IdempotencyKey, payload.Fingerprint = "", Fingerprint{}
	payload.TraceParent, payload.RequestID, payload.RequeueOf = "", "", ID{}
	sum := sha256.Sum256(payload.Append(nil))
	return Fingerprint(sum[:16])
}

// SizeHint is about the size of the message's encoding in bytes, rather more
// than less.
func (m *Message) SizeHint() int {
	n := 88 + len(m.Account) + len(m.To) + len(m.Subject) + len(m.Body) + len(m.HTML) + len(m.ClientRef) +
		len(m.CallbackURL) + len(m.IdempotencyKey) + len(m.TraceParent) + len(m.RequestID)
	for _, p := range m.Metadata {
		n += 6 + len(p.Key) + len(p.Value)
	}
	if m.Template != nil {
		n += 12 + len(m.Template.Name) + len(m.Template.Language)
		for _, p := range m.Template.Parameters {
			n += 4 + len(p)
		}
	}
	return n
}

// Failure says why a message did not go, in words that a client may see.
type Failure struct {
	Code        string // stable, ours
	Category    string // "validation", "store", "provider", "recipient", "expired"
	Retryable   bool
	ChannelCode string // the provider's own code
	Message     string
}

// Attempt is one try at delivery.
type Attempt struct {
	N           int
	At          time.Time
	Outcome     string
	ChannelCode string
	Duration    time.Duration
}

// State is how far a message has got. Times that have not come are zero.
type State struct {
	Status        Status
	StoredAt      time.Time
	ScheduledAt   time.Time
	SentAt        time.Time
	DeliveredAt   time.Time
	ReadAt        time.Time
	FailedAt      time.Time
	NextAttemptAt time.Time
	HoldReason    string
	ProviderID    string
	DuplicateOf   ID
	Error         *Failure
	Attempts      []Attempt
}

// Record is a message with its name and its state: all that is known of it.
type Record struct {
	ID  ID
	Seq uint64 // dense number of acceptance on its node, from 1
	Message
	State
}

// AcceptedAt is the moment of acceptance, which the ID carries.
func (r *Record) AcceptedAt() time.Time { return r.ID.Time() }

// ExpiresAt is the moment after which no attempt is made; zero: never.
func (r *Record) ExpiresAt() time.Time {
	if r.TTL == 0 {
		return time.Time{}
	}
	from := r.AcceptedAt()
	if r.SendAt.After(from) {
		from = r.SendAt
	}
	return from.Add(r.TTL)
}

// Entry is a record as the log keeps it: named, numbered, and otherwise bytes.
type Entry struct {
	ID       ID
	Seq      uint64
	Payload  []byte // Message.Append; it does not change
	Progress []byte // State.Append; empty: still accepted
}

// Record decodes the entry. The strings of the message are parts of the payload:
// a copy would be as much memory again for everything that waits. Who keeps one for
// longer than the message copies it, or keeps all of the payload with it. The account
// is a copy: it is what so much goes by.
func (e Entry) Record() (Record, error) {
	r := Record{ID: e.ID, Seq: e.Seq, State: State{Status: Accepted}}
	var err error
	if r.Message, err = decode(unsafe.String(unsafe.SliceData(e.Payload), len(e.Payload))); err != nil {
		return Record{}, fmt.Errorf("decode message %s: %w", e.ID, err)
	}
	r.Account = strings.Clone(r.Account)
	if len(e.Progress) > 0 {
		if r.State, err = DecodeState(e.Progress); err != nil {
			return Record{}, fmt.Errorf("decode state of message %s: %w", e.ID, err)
		}
	}
	return r, nil
}
