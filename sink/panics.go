package sink

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"forebay/wal/message"
)

// Channels hand what clients write to libraries (of numbers, addresses, mails). One
// message over which one of these panics must not end the process, and end it again
// whenever the log hands the message out.

// sendSafely is Send, of which nobody knows how far it got if it panics.
func (d *Dispatcher) sendSafely(ctx context.Context, sender Channel, delivery *Delivery) (sent Sent, err error) {
	defer func() {
		if v := recover(); v != nil {
			d.panicked(&delivery.Record, v)
			sent, err = Sent{}, &Unknown{Fault{Neutral: true, Failure: message.Failure{Code: "internal", Category: "channel",
				Message: "the appliance failed over this message during the attempt, and whether it was sent is not known"}}}
		}
	}()
	return sender.Send(ctx, delivery)
}

// checkSafely is Check; what it panics over cannot be sent.
func (d *Dispatcher) checkSafely(sender Channel, r *message.Record) (why *message.Failure) {
	defer func() {
		if v := recover(); v != nil {
			d.panicked(r, v)
			why = &message.Failure{Code: "internal", Category: "content", Message: "the appliance failed over this message"}
		}
	}()
	return sender.Check(&r.Message)
}

// panicked reports a fault of ours or of a library. What was panicked with may quote
// the message, unless it is the runtime's own word.
func (d *Dispatcher) panicked(r *message.Record, v any) {
	what := fmt.Sprintf("%T", v)
	if fault, ok := v.(runtime.Error); ok {
		what = fault.Error()
	}
	d.log.Error("A channel panicked over a message, which is a fault of the program. Please report it.",
		"channel", r.Channel.String(), "id", r.ID, "panic", what, "stack", string(debug.Stack()))
}
