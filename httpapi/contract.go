package httpapi

import (
	"context"
	"errors"
	"fmt"

	"forebay/wal/message"
)

// Log takes messages. Its methods are safe for concurrent use, do not keep the
// messages, and return one of the sentinels below (wrapped or not) when the
// cause is one of them.
type Log interface {
	// Append returns once the message is durable.
	Append(ctx context.Context, m *message.Message) (Receipt, error)

	// AppendBatch appends ms as one group and returns once all of it is
	// durable. out has the length of ms; out[i].Err says why ms[i] alone was
	// not taken. The returned error concerns the whole group: then none of ms
	// was acknowledged.
	AppendBatch(ctx context.Context, ms []*message.Message, out []Receipt) error
}

// Receipt is the log's answer for one message. The moment of acceptance is
// ID.Time().
type Receipt struct {
	ID       message.ID
	Replayed bool  // the message was accepted earlier, under the same idempotency key
	Err      error // AppendBatch only
}

// Messages answers questions about messages, wherever they now are.
type Messages interface {
	// Get returns one message of account. ErrNotFound also when it belongs to
	// another account; ErrUnavailable when it may exist but cannot be looked up
	// now.
	Get(ctx context.Context, account string, id message.ID) (message.Record, error)

	// List returns messages by query, newest first.
	List(ctx context.Context, q message.Query) (message.Page, error)

	// Wait returns when the message's row is in the database, or when ctx ends.
	Wait(ctx context.Context, id message.ID) (message.State, error)
}

// Keys tells whose an API key is. Authenticate is on the path of every request:
// it must not block. ErrUnauthenticated for a key that is unknown or revoked;
// ErrUnavailable when that cannot be said now.
type Keys interface {
	Authenticate(key string) (Principal, error)
}

// Principal is who makes a request, and what they may do.
type Principal struct {
	Account     string
	Plan        Plan
	Channels    ChannelSet // that the account's plan has
	Test        bool       // a test key: its messages reach no provider
	Suspended   bool       // the account is
	CallbackURL string     // for messages that bring none; empty: none
}

// ChannelSet is a set of channels.
type ChannelSet uint8

// ChannelsOf returns the set of the given channels.
func ChannelsOf(channels ...message.Channel) ChannelSet {
	var s ChannelSet
	for _, c := range channels {
		s |= 1 << c
	}
	return s
}

// Has reports whether c is in the set.
func (s ChannelSet) Has(c message.Channel) bool { return s&(1<<c) != 0 }

// Readiness is the answer of /readyz.
type Readiness struct {
	Status string         `json:"status"` // StatusReady, StatusDegraded or StatusUnready
	Checks map[string]any `json:"checks"` // by part: an object with a status, or parts within
}

// The values of Readiness.Status. Only unready is answered with 503: it means
// that a submission would be refused.
const (
	StatusReady    = "ready"
	StatusDegraded = "degraded"
	StatusUnready  = "unready"
)

// The errors that Log, Messages and Keys tell this package about. Any other
// error is answered like ErrUnavailable, and logged.
var (
	ErrNotFound        = errors.New("not found")
	ErrUnauthenticated = errors.New("unauthenticated")
	ErrInProgress      = errors.New("idempotency key is still being written")
	ErrMismatch        = errors.New("idempotency key was used with another payload")
	ErrStorageFull     = errors.New("storage full")
	ErrOverloaded      = errors.New("overloaded")
	ErrDraining        = errors.New("draining")
	ErrUnavailable     = errors.New("unavailable")
	// ErrAway is an ErrUnavailable for a message that only another node knows,
	// which does not answer.
	ErrAway     = fmt.Errorf("its node does not answer: %w", ErrUnavailable)
	ErrTooLarge = errors.New("message too large")
	// ErrStalled is an ErrUnavailable of a log that takes nothing now, and has
	// not taken this message.
	ErrStalled = fmt.Errorf("the disk does not answer: %w", ErrUnavailable)
	// ErrUnknown is an ErrUnavailable of which nobody knows whether the log has
	// the message.
	ErrUnknown = fmt.Errorf("the disk did not answer in time: %w", ErrUnavailable)
)
