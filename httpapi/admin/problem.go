package admin

import (
	"context"
	"errors"
	"net/http"
)

// The codes of problems, beside those of the public API. Stable: commands and
// scripts compare them.
const (
	CodeMalformed        = "malformed"
	CodeUnauthenticated  = "unauthenticated"
	CodeForbidden        = "forbidden"
	CodeNotFound         = "not_found"
	CodeMethodNotAllowed = "method_not_allowed"
	CodeExists           = "exists"
	CodeTooMany          = "too_many"
	CodeTooLarge         = "too_large"
	CodeUnsupportedMedia = "unsupported_media_type"
	CodeInvalid          = "invalid"
	CodeUnknownTier      = "unknown_tier"
	CodeUnknownOutcome   = "unknown_outcome"
	CodeUnavailable      = "unavailable"
)

// ErrNotFound is what Messages answers for a message that it does not know.
var ErrNotFound = errors.New("not found")

// Refuse returns the problem of that code. The parts behind Config return it
// for what the caller did wrong; any other error is answered as unavailable,
// and its text goes to the log alone.
func Refuse(code, detail string, fields ...FieldProblem) *Problem {
	status, title := http.StatusServiceUnavailable, "Unavailable"
	switch code {
	case CodeMalformed:
		status, title = http.StatusBadRequest, "Malformed request"
	case CodeUnauthenticated:
		status, title = http.StatusUnauthorized, "Unauthenticated"
	case CodeForbidden:
		status, title = http.StatusForbidden, "Forbidden"
	case CodeNotFound:
		status, title = http.StatusNotFound, "Not found"
	case CodeMethodNotAllowed:
		status, title = http.StatusMethodNotAllowed, "Method not allowed"
	case CodeNotCancelable:
		status, title = http.StatusConflict, "Too late to cancel"
	case CodeExists:
		status, title = http.StatusConflict, "Exists already"
	case CodeTooMany:
		status, title = http.StatusConflict, "Too many"
	case CodeTooLarge:
		status, title = http.StatusRequestEntityTooLarge, "Too large"
	case CodeUnsupportedMedia:
		status, title = http.StatusUnsupportedMediaType, "Unsupported media type"
	case CodeInvalid:
		status, title = http.StatusUnprocessableEntity, "Invalid"
	case CodeUnknownTier:
		status, title = http.StatusUnprocessableEntity, "Unknown tier"
	case CodeUnknownOutcome:
		title = "Unknown outcome"
	}
	return &Problem{Type: "/problems/" + code, Title: title, Status: status, Detail: detail, Code: code, Errors: fields}
}

// problemOf turns any error of a handler into what the caller is told, and
// reports whether the error is the appliance's own and belongs into the log.
func problemOf(err error) (p *Problem, own bool) {
	if given, ok := errors.AsType[*Problem](err); ok {
		copied := *given // the request's id goes into it
		return &copied, copied.Status >= http.StatusInternalServerError
	}
	switch {
	case errors.Is(err, ErrNotFound):
		return Refuse(CodeNotFound, "there is no such message"), false
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Refuse(CodeUnavailable, "no answer in time"), true
	}
	return Refuse(CodeUnavailable, "a part of the appliance is missing at the moment; its log says which"), true
}
