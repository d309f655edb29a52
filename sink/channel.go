package sink

import (
	"context"
	"fmt"
	"time"

	"forebay/wal/message"
)

// Channel is one way out: WhatsApp, e-mail or webhooks. It makes attempts and
// says how each ended; everything that lasts longer than one attempt (queues,
// pace, retries, breakers, expiry) is the Dispatcher's. All methods are safe
// for concurrent use.
type Channel interface {
	// Check is the validation that needs work but no network: numbers,
	// addresses, the shape of a template. nil: the message may be tried. A
	// failure makes it rejected and is shown to its sender.
	Check(*message.Message) *message.Failure

	// Service names what the message stands behind: the breaker and the cap per
	// host. "whatsapp", "email", or "webhook:HOST:PORT". It must not fail: a
	// message without a usable address is Check's to reject.
	Service(*message.Message) string

	// Send makes one attempt and returns within the deadline of ctx, or soon
	// after ctx is canceled. A nil error: the service has taken the message.
	// Otherwise the error's type says what to do next: *Permanent, *RetryAfter,
	// *Throttled, *StopChannel, *Unknown or *Transient; any other error is
	// taken as a *Transient without a reason.
	//
	// An attempt that ends because ctx does is *Unknown if anything of the
	// message may have left, else *Transient.
	Send(ctx context.Context, d *Delivery) (Sent, error)
}

// Delivery is one attempt at one message.
type Delivery struct {
	Record  message.Record // must not be changed; its TraceParent goes with it
	Attempt int            // from 1
}

// Sent is what a service said when it took a message.
type Sent struct {
	ProviderID  string // the service's own name for it; empty: it gave none
	ChannelCode string // the service's own word for the success, "202" or "250 2.0.0"; may be empty
	// Delivered: the service itself is the recipient (a webhook's 2xx), so that
	// no report will follow and the message is delivered at once.
	Delivered bool
}

// Fault is what every outcome but success carries.
type Fault struct {
	// Failure is kept with the message and shown to its sender: Code is stable
	// and ours, Category one of "recipient", "content", "throttle", "channel",
	// "account", "lifecycle"; ChannelCode is the service's own code; Message
	// never has an address of ours, a secret or a foreign text at length.
	Failure message.Failure
	// Neutral: this is no evidence that the service is ill, so its breaker does
	// not count it (a bad recipient, a bad body, a throttle).
	Neutral bool
	// Uncalled: nothing was asked of the service, for something of ours was not at
	// hand. No attempt was made, and none is used up; the message waits a little.
	Uncalled bool
	// Cause is for the log only; may be nil.
	Cause error
}

// Error implements error.
func (f *Fault) Error() string {
	text := f.Failure.Code
	if f.Failure.ChannelCode != "" {
		text += " (" + f.Failure.ChannelCode + ")"
	}
	if f.Cause != nil {
		return text + ": " + f.Cause.Error()
	}
	return text + ": " + f.Failure.Message
}

// Unwrap returns the cause.
func (f *Fault) Unwrap() error { return f.Cause }

// fault lets the dispatcher reach the Fault inside each of the types below.
func (f *Fault) fault() *Fault { return f }

// Permanent: no attempt will ever succeed. The message fails.
type Permanent struct{ Fault }

// RetryAfter: the service asks to be left alone with this message for a while.
// The retry comes by the schedule, and not sooner than After.
type RetryAfter struct {
	Fault
	After time.Duration // ≥ 0
}

// Throttled: too many, of Scope. The attempt counts for nothing; what is in the
// scope waits for After at least (zero: the dispatcher's schedule).
type Throttled struct {
	Fault
	Scope Scope
	After time.Duration // ≥ 0
}

// Scope is what a throttle slows down.
type Scope uint8

// The scopes of a throttle.
const (
	ScopeNumber    Scope = iota + 1 // the sending number or connection: the whole channel's pace
	ScopeRecipient                  // this recipient alone
	ScopeAccount                    // the provider's account behind the channel: the whole channel, for longer
)

// String returns the scope's name in logs.
func (s Scope) String() string {
	switch s {
	case ScopeNumber:
		return "number"
	case ScopeRecipient:
		return "recipient"
	case ScopeAccount:
		return "account"
	}
	return fmt.Sprintf("scope(%d)", uint8(s))
}

// StopChannel: nothing can be sent on this channel until an operator acts (bad
// credentials, a locked account). The channel pauses and its messages are
// parked without using up attempts; it is probed from time to time and on
// reload.
type StopChannel struct{ Fault }

// Unknown: the message was sent and no answer came; it may or may not have been
// taken. The dispatcher's UnknownOutcome says whether to retry or to fail.
type Unknown struct{ Fault }

// Transient: try again by the schedule.
type Transient struct{ Fault }

// Breakers tells whether a service may be called now. Nil means always.
type Breakers interface {
	// Acquire asks for one call. false: the breaker is open, do not call. A
	// permit that was given must be Done, once.
	Acquire(service string) (Permit, bool)
	// RetryAt is when an open breaker may next give a permit; zero: now, or not
	// known.
	RetryAt(service string) time.Time
	// Subscribe calls f, quickly and from any goroutine, when the service may be
	// called again or has stopped being callable, until cancel is called.
	Subscribe(f func(service string, callable bool)) (cancel func())
}

// Permit is leave for one call to a service. Done says how it went, and of a
// Failure in a few words why, without secrets.
type Permit interface{ Done(v Verdict, why string) }

// Verdict is what a call said about the service's health.
type Verdict uint8

// The verdicts.
const (
	Success Verdict = iota + 1
	Failure
	Neutral // says nothing: a bad recipient, a throttle, a call that was not made
)

// Recorder is what the Dispatcher needs of the store, beyond Insert.
type Recorder interface {
	// Update merges the states of records that the store has into what it
	// knows, never backwards by rank, and returns each state as it then stands,
	// in order: the zero State for a record that the store does not have. What
	// it returned is durable; repeating it is harmless. Errors are those of
	// Store.
	Update(ctx context.Context, batch []message.Record) ([]message.State, error)
}
