package email

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"

	"forebay/sink"
	"forebay/wal/message"
)

// greyWait is how soon a relay that defers for policy (greylisting, rate) is
// tried again at the soonest.
const greyWait = time.Minute

// The failures that say little by themselves.
var (
	unavailable = message.Failure{Code: "channel_unavailable", Category: "channel", Retryable: true, Message: "The mail relay is not available."}
	refusedUs   = message.Failure{Code: "channel_auth", Category: "account", Retryable: true, Message: "The mail relay refused the login or the sender."}
)

// dialFault says what a connection means that could not be made: by code, if the
// relay said one (RFC 5321 §3.1, RFC 4954 §6).
func dialFault(ctx context.Context, err error) error {
	f := sink.Fault{Failure: unavailable, Cause: err}
	var reply *textproto.Error
	if errors.As(err, &reply) {
		f.Failure.ChannelCode = strconv.Itoa(reply.Code)
		if reply.Code >= 500 { // 535 bad login, 554 no service for us
			f.Failure = refusedUs
			f.Failure.ChannelCode = strconv.Itoa(reply.Code)
			return &sink.StopChannel{Fault: f}
		}
		return &sink.Transient{Fault: f}
	}
	return &sink.Transient{Fault: timed(ctx, f, err)}
}

// timed tells a time-out from other faults, and our own hanging up from both.
func timed(ctx context.Context, f sink.Fault, err error) sink.Fault {
	var timeout net.Error
	switch {
	case ctx.Err() == context.Canceled:
		f.Neutral = true
	case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		f.Failure.Code, f.Failure.Message = "channel_timeout", "The mail relay did not answer in time."
	}
	return f
}

// sendFault says what a send means that failed, and whether its connection may
// be used again. Not for a mail that IsDelivered.
func sendFault(ctx context.Context, err error) (outcome error, keep bool) {
	var e *gomail.SendError
	if !errors.As(err, &e) {
		return &sink.Transient{Fault: timed(ctx, sink.Fault{Failure: unavailable, Cause: err}, err)}, false
	}
	code, enhanced := e.ErrorCode(), e.EnhancedStatusCode()
	f := sink.Fault{Failure: unavailable, Cause: err}
	f.Failure.ChannelCode = strings.TrimSpace(strconv.Itoa(code) + " " + enhanced)
	switch {
	case code == 0 && e.Reason == gomail.ErrSMTPDataClose:
		// The mail went out to its end, and the reply to it did not come.
		f = timed(ctx, f, err)
		f.Failure.ChannelCode = ""
		return &sink.Unknown{Fault: f}, false
	case code == 0:
		f = timed(ctx, f, err)
		f.Failure.ChannelCode = ""
		return &sink.Transient{Fault: f}, false
	case code == 421:
		return &sink.Transient{Fault: f}, false
	case code == 552 && enhanced == "5.5.3":
		return &sink.Transient{Fault: f}, true // too many recipients: RFC 5321 §4.5.3.1.10
	case code < 500:
		return deferred(f, code, enhanced), true
	case code >= 530 && code <= 538, e.Reason == gomail.ErrSMTPMailFrom && isSenderRefused(code):
		f.Failure.Code, f.Failure.Category, f.Failure.Message = refusedUs.Code, refusedUs.Category, refusedUs.Message
		// A stop is logged, and the library's and the relay's words may name the
		// recipient of this mail, who has nothing to do with it.
		f.Cause = fmt.Errorf("%s: the relay answered %s", e.Reason, f.Failure.ChannelCode)
		return &sink.StopChannel{Fault: f}, false
	}
	f.Neutral = true
	f.Failure.Retryable = false
	f.Failure.Code, f.Failure.Category, f.Failure.Message = refusal(code, enhanced, e.Reason)
	return &sink.Permanent{Fault: f}, true
}

// isSenderRefused: replies to MAIL that mean our own address, which is every
// mail's, and not this mail.
func isSenderRefused(code int) bool { return code == 550 || code == 551 || code == 553 || code == 554 }

// deferred says what a 4xx means. A mailbox's or a policy's is no evidence that
// the relay is ill.
func deferred(f sink.Fault, code int, enhanced string) error {
	switch {
	case strings.HasPrefix(enhanced, "4.7."):
		f.Neutral = true
		f.Failure.Code, f.Failure.Category, f.Failure.Message = "recipient_rate_limited", "throttle", "The mail relay asks to come back later."
		return &sink.RetryAfter{Fault: f, After: greyWait}
	case strings.HasPrefix(enhanced, "4.1."), strings.HasPrefix(enhanced, "4.2."), enhanced == "" && code == 450:
		f.Neutral = true
		f.Failure.Code, f.Failure.Category, f.Failure.Message = "recipient_unreachable", "recipient", "The recipient's mailbox cannot take mail now."
	}
	return &sink.Transient{Fault: f}
}

// refusal puts a 5xx into our words, by RFC 3463.
func refusal(code int, enhanced string, reason gomail.SendErrReason) (ours, category, text string) {
	switch {
	case enhanced == "5.2.3", enhanced == "5.3.4", enhanced == "" && code == 552:
		return "too_large", "content", "The mail is too large for the relay or the recipient."
	case strings.HasPrefix(enhanced, "5.7."):
		return "refused_by_policy", "content", "The mail was refused by a policy of the relay or the recipient."
	case strings.HasPrefix(enhanced, "5.1."):
		return "invalid_recipient", "recipient", "The recipient's address does not exist."
	case strings.HasPrefix(enhanced, "5.2."):
		return "recipient_unreachable", "recipient", "The recipient's mailbox is full or switched off."
	case reason == gomail.ErrSMTPRcptTo:
		return "invalid_recipient", "recipient", "The relay refused the recipient."
	}
	return "invalid_content", "content", "The relay refused the mail."
}
