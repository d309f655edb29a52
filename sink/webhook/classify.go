package webhook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"forebay/sink"
	"forebay/wal/message"
)

// How often an answer is believed that says "never" in a way that a
// misconfiguration of minutes would: a redirect, a 401, a 404. Standard Webhooks
// leaves the number open; three attempts span the restart of a service.
const stubbornAttempts = 3

// maxRetryAfter bounds what a receiver may ask for.
const maxRetryAfter = 24 * time.Hour

// judge says what an answer's status means for the message, by Standard Webhooks
// 1.0.0 ("Operational considerations"); nil: delivered. attempt counts from 1.
func judge(status, attempt int, after time.Duration) error {
	code := strconv.Itoa(status)
	refused := sink.Fault{Neutral: true, Failure: message.Failure{Code: "recipient_refused", Category: "recipient", ChannelCode: code,
		Message: "The address answered " + code + "."}}
	unavailable := sink.Fault{Failure: message.Failure{Code: "channel_unavailable", Category: "channel", Retryable: true, ChannelCode: code,
		Message: "The address answered " + code + "."}}
	switch {
	case status >= 200 && status < 300:
		return nil
	case status == http.StatusGone:
		refused.Failure.Message = "The address answered 410: it wants nothing more."
		return &sink.Permanent{Fault: refused}
	case status == http.StatusTooManyRequests:
		unavailable.Neutral = true
		unavailable.Failure.Code, unavailable.Failure.Category = "recipient_rate_limited", "throttle"
		return &sink.Throttled{Fault: unavailable, Scope: sink.ScopeRecipient, After: after}
	case status == http.StatusRequestEntityTooLarge:
		refused.Failure.Code, refused.Failure.Category = "too_large", "content"
		return &sink.Permanent{Fault: refused}
	case status == http.StatusRequestTimeout, status == http.StatusConflict, status == http.StatusTooEarly:
		unavailable.Neutral = true // a server that answers so is well
		return retry(unavailable, after)
	case status >= 500:
		return retry(unavailable, after)
	}
	if status >= 300 && status < 400 {
		refused.Failure.Message = "The address answered " + code + "; redirects are not followed."
	}
	if attempt >= stubbornAttempts {
		return &sink.Permanent{Fault: refused}
	}
	refused.Failure.Retryable = true
	return retry(refused, after)
}

func retry(f sink.Fault, after time.Duration) error {
	if after > 0 {
		return &sink.RetryAfter{Fault: f, After: after}
	}
	return &sink.Transient{Fault: f}
}

// retryAfter reads Retry-After (RFC 9110 §10.2.3), seconds or a date; zero: there
// is none, or none that makes sense.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	if text == "" {
		return 0
	}
	var after time.Duration
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		after = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		after = at.Sub(now)
	}
	return min(max(after, 0), maxRetryAfter)
}

// unanswered says what a call without an answer means. left: something of the
// request may have reached the receiver.
func unanswered(ctx context.Context, err error, left bool) error {
	f := sink.Fault{Cause: scrubbed(err), Failure: message.Failure{Code: "channel_unavailable", Category: "channel", Retryable: true,
		Message: "The address could not be reached."}}
	var timeout net.Error
	switch {
	case errors.Is(err, errForbidden):
		f.Neutral = true
		f.Failure = message.Failure{Code: "invalid_recipient", Category: "recipient", Message: "The address does not lead to a public host."}
		return &sink.Permanent{Fault: f}
	case ctx.Err() == context.Canceled:
		f.Neutral = true // we hung up, they did not
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		f.Failure.Code, f.Failure.Message = "channel_timeout", "The address did not answer in time."
	}
	if left {
		return &sink.Unknown{Fault: f}
	}
	return &sink.Transient{Fault: f}
}

// scrubbed keeps the cause of a failed call without the URL that net/http puts
// around it: its query may hold a secret of the receiver's.
func scrubbed(err error) error {
	var outer interface {
		error
		Unwrap() error
		Timeout() bool
		Temporary() bool
	}
	if errors.As(err, &outer) {
		if inner := outer.Unwrap(); inner != nil {
			return fmt.Errorf("post: %w", inner)
		}
	}
	return err
}
