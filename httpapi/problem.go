package httpapi

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Problem is a refusal (RFC 9457). Status and title follow from the code.
type Problem struct {
	Code       Code
	Detail     string        // for the client: what is wrong with this request
	Errors     []FieldError  // every field that breaks its rule
	RetryAfter time.Duration // zero: none; a client that waits this long may try again
	Close      bool          // the connection cannot be used for another request

	cause error // for the log only
}

// FieldError says what is wrong with one part of a request: a member of the
// body by JSON Pointer, or a query parameter by name.
type FieldError struct {
	Pointer   string // "#/to" (RFC 6901 §6)
	Parameter string
	Detail    string
}

// Error implements error, for logs.
func (p *Problem) Error() string {
	if p.cause != nil {
		return string(p.Code) + ": " + p.cause.Error()
	}
	return string(p.Code) + ": " + p.Detail
}

// Unwrap returns the private cause.
func (p *Problem) Unwrap() error { return p.cause }

// retrySeconds is RetryAfter in whole seconds, rounded up: a client that waits
// so long must not be early.
func (p *Problem) retrySeconds() int64 {
	return int64((p.RetryAfter + time.Second - 1) / time.Second)
}

// appendJSON appends the problem as JSON. instance is the request's id.
func (p *Problem) appendJSON(dst []byte, instance string) []byte {
	kind := kindOf(p.Code)
	dst = append(dst, `{"type":"/problems/`...)
	dst = append(dst, p.Code...)
	dst = append(dst, `","title":"`...)
	dst = append(dst, kind.title...)
	dst = append(dst, `","status":`...)
	dst = strconv.AppendInt(dst, int64(kind.status), 10)
	if p.Detail != "" {
		dst = appendQuoted(append(dst, `,"detail":`...), p.Detail)
	}
	if instance != "" {
		dst = appendQuoted(append(dst, `,"instance":`...), instance)
	}
	dst = append(dst, `,"code":"`...)
	dst = append(dst, p.Code...)
	dst = append(dst, '"')
	if len(p.Errors) > 0 {
		dst = append(dst, `,"errors":[`...)
		for i, e := range p.Errors {
			if i > 0 {
				dst = append(dst, ',')
			}
			if e.Parameter != "" {
				dst = appendQuoted(append(dst, `{"parameter":`...), e.Parameter)
			} else {
				dst = appendQuoted(append(dst, `{"pointer":`...), e.Pointer)
			}
			dst = appendQuoted(append(dst, `,"detail":`...), e.Detail)
			dst = append(dst, '}')
		}
		dst = append(dst, ']')
	}
	if policy := violated(p.Code); policy != "" {
		dst = append(dst, `,"violated-policies":["`...)
		dst = append(append(dst, policy...), `"]`...)
	}
	if p.RetryAfter > 0 {
		dst = append(dst, `,"retry_after_seconds":`...)
		dst = strconv.AppendInt(dst, p.retrySeconds(), 10)
	}
	return append(dst, '}')
}

// appendQuoted appends s as a JSON string. Text that came from a client may
// hold invalid UTF-8: that is replaced.
func appendQuoted(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s) // its error only reports a replacement
	return dst
}

func malformed(detail string) *Problem { return &Problem{Code: CodeMalformed, Detail: detail} }

func malformedAt(pointer, detail string) *Problem {
	return &Problem{Code: CodeMalformed, Detail: "The message cannot be read.",
		Errors: []FieldError{{Pointer: pointer, Detail: detail}}}
}

func tooLarge(limit int) *Problem {
	return &Problem{Code: CodeTooLarge, Detail: "A message may have at most " + strconv.Itoa(limit) + " bytes."}
}

// errClientGone is the outcome of a request whose client has left: there is
// nobody to answer.
var errClientGone = errors.New("client has gone")

// problemOf turns any error of a handler into what the client is told.
func problemOf(ctx context.Context, err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	p := &Problem{cause: err}
	switch {
	case errors.Is(err, ErrNotFound):
		p.Code, p.Detail = CodeNotFound, "There is no such message."
	case errors.Is(err, ErrAway):
		p.Code, p.RetryAfter = CodeUnavailable, 5*time.Second
		p.Detail = "The message is on another node of the cluster, which does not answer now, or there is none with this id."
	case errors.Is(err, ErrUnknown):
		p.Code, p.RetryAfter = CodeUnavailable, 5*time.Second
		p.Detail = "The disk did not answer in time: whether the message was accepted is not known. With an Idempotency-Key the same can be sent again."
	case errors.Is(err, ErrUnauthenticated):
		p.Code, p.Detail = CodeUnauthenticated, unauthenticatedDetail
	case errors.Is(err, ErrInProgress):
		p.Code, p.RetryAfter = CodeInProgress, time.Second
		p.Detail = "The first request with this Idempotency-Key is still being written."
	case errors.Is(err, ErrNotCancelable):
		p.Code, p.Detail = CodeNotCancelable, "The message is being sent, or has come to its end."
	case errors.Is(err, ErrNotFailed):
		p.Code, p.Detail = CodeInvalid, "Only a message that is failed, undelivered, rejected or expired can be requeued."
	case errors.Is(err, ErrMismatch):
		p.Code, p.Detail = CodeIdempotencyMismatch, "This Idempotency-Key was used with another message."
	case errors.Is(err, ErrTooLarge):
		p.Code, p.Detail = CodeTooLarge, "The message is too large."
	case errors.Is(err, ErrStorageFull):
		p.Code, p.RetryAfter = CodeStorageFull, 30*time.Second
		p.Detail = "The appliance has no room on its disk."
	case errors.Is(err, ErrOverloaded):
		p.Code, p.RetryAfter = CodeOverloaded, time.Second
		p.Detail = "The appliance is taking as much as it can."
	case errors.Is(err, ErrDraining):
		return drainingProblem()
	case errors.Is(err, errClientGone), ctx.Err() != nil && errors.Is(err, context.Canceled):
		p.Code = codeClientGone
	default:
		return unavailable(err)
	}
	return p
}

func unavailable(cause error) *Problem {
	return &Problem{Code: CodeUnavailable, Detail: "A part of the appliance is missing at the moment.",
		RetryAfter: 5 * time.Second, cause: cause}
}

func drainingProblem() *Problem {
	return &Problem{Code: CodeDraining, Detail: "The appliance is shutting down; another one may take this.",
		RetryAfter: 5 * time.Second, Close: true}
}

func overloaded(detail string) *Problem {
	return &Problem{Code: CodeOverloaded, Detail: detail, RetryAfter: time.Second}
}

// private reports whether the problem hides a cause that is no client's affair,
// and that the log has to tell. Who is full, or overloaded, tells that itself.
func (p *Problem) private() bool { return p.Code == CodeUnavailable && p.cause != nil }
