package httpapi

import (
	"html/template"
	"net/http"
	"slices"
	"strings"
)

// Code names a kind of refusal. Codes are a closed set and never change.
type Code string

// The codes. openapi.yaml has the same.
const (
	CodeMalformed            Code = "malformed"
	CodeUnauthenticated      Code = "unauthenticated"
	CodeSuspended            Code = "suspended"
	CodeForbidden            Code = "forbidden"
	CodeNotFound             Code = "not_found"
	CodeMethodNotAllowed     Code = "method_not_allowed"
	CodeNotAcceptable        Code = "not_acceptable"
	CodeRequestTimeout       Code = "request_timeout"
	CodeNotCancelable        Code = "not_cancelable"
	CodeInProgress           Code = "in_progress"
	CodeTooLarge             Code = "too_large"
	CodeUnsupportedMediaType Code = "unsupported_media_type"
	CodeInvalid              Code = "invalid"
	CodeIdempotencyMismatch  Code = "idempotency_mismatch"
	CodeHeadersTooLarge      Code = "headers_too_large"
	CodeRateLimited          Code = "rate_limited"
	CodeBurstLimited         Code = "burst_limited"
	CodeTooManyConcurrent    Code = "too_many_concurrent"
	CodeOverloaded           Code = "overloaded"
	CodeStorageFull          Code = "storage_full"
	CodeDraining             Code = "draining"
	CodeUnavailable          Code = "unavailable"

	// codeClientGone is never sent: it counts requests that nobody waits for.
	codeClientGone Code = "client_gone"
)

// statusClientGone counts requests whose client left before the answer; the
// number is the one that nginx made customary.
const statusClientGone = 499

// kind is what all problems of one code have in common.
type kind struct {
	code   Code
	status int
	title  string // needs no escaping in JSON
	advice string // for the page behind the problem's type
}

// kinds is the table that everything about codes is derived from. It is never
// written to.
var kinds = []kind{
	{CodeMalformed, http.StatusBadRequest, "The request cannot be read",
		"The body is not one JSON object of known fields with the right types, or a header is not well-formed. The member errors says where. Sending the same request again will not help."},
	{CodeUnauthenticated, http.StatusUnauthorized, "An API key is needed",
		"Send the header Authorization: Bearer KEY with a key of your account that has not been revoked."},
	{CodeSuspended, http.StatusForbidden, "The account is suspended",
		"The operator has suspended this account. Messages accepted before are not lost."},
	{CodeForbidden, http.StatusForbidden, "Not allowed",
		"The plan of this account does not have this channel; or what a provider sent is not signed as it should be."},
	{CodeNotFound, http.StatusNotFound, "Not found",
		"There is no such path, or no such message of this account."},
	{CodeMethodNotAllowed, http.StatusMethodNotAllowed, "Method not allowed",
		"The path exists, but not with this method. The header Allow lists those that do."},
	{CodeNotAcceptable, http.StatusNotAcceptable, "Not acceptable",
		"The answer comes only as JSON; the header Accept excludes it."},
	{CodeRequestTimeout, http.StatusRequestTimeout, "The request took too long to arrive",
		"The request was not complete in time, and nothing of it was accepted. Send it again."},
	{CodeNotCancelable, http.StatusConflict, "Too late to cancel",
		"A message can be canceled while it is accepted, scheduled or queued. This one is being sent, or has come to its end; ask for its status."},
	{CodeInProgress, http.StatusConflict, "The first request is still being written",
		"Another request with the same Idempotency-Key is under way. Wait for the time in Retry-After and send the same again to get its answer."},
	{CodeTooLarge, http.StatusRequestEntityTooLarge, "The message is too large",
		"The body is over the limit of this appliance. Nothing of it was accepted."},
	{CodeUnsupportedMediaType, http.StatusUnsupportedMediaType, "Unsupported media type",
		"Send one message as application/json, or a batch as application/x-ndjson, in UTF-8 and without Content-Encoding."},
	{CodeInvalid, http.StatusUnprocessableEntity, "A field breaks its rule",
		"The request can be read, but fields break their rules. The member errors lists all of them."},
	{CodeIdempotencyMismatch, http.StatusUnprocessableEntity, "The key was used with another message",
		"A request with this Idempotency-Key and another payload was accepted before. Use a new key for a new message."},
	{CodeHeadersTooLarge, http.StatusRequestHeaderFieldsTooLarge, "The headers are too large",
		"The head of the request is over the limit of this appliance."},
	{CodeRateLimited, http.StatusTooManyRequests, "The plan's messages are used up",
		"The account has sent as many messages as its plan allows in any window of its length. Nothing was accepted and nothing used up; wait for the time in Retry-After and send the same again. RateLimit-Policy says what the plan allows."},
	{CodeBurstLimited, http.StatusTooManyRequests, "Too many messages at once",
		"The account has sent as many messages at once as its plan allows. Nothing was accepted and nothing used up; wait for the time in Retry-After and send the same again, at a steadier pace."},
	{CodeTooManyConcurrent, http.StatusTooManyRequests, "Too many requests in flight",
		"The account has as many requests in flight as its plan allows. Nothing was accepted and nothing used up; send the same again when another has been answered. A batch counts as one request."},
	{CodeOverloaded, http.StatusServiceUnavailable, "Too busy",
		"The appliance is shedding load. Nothing was accepted; wait for the time in Retry-After and send the same again."},
	{CodeStorageFull, http.StatusServiceUnavailable, "No room left",
		"The appliance has reached its disk limit. Nothing was accepted; it resumes by itself when there is room."},
	{CodeDraining, http.StatusServiceUnavailable, "Shutting down",
		"The appliance is shutting down in good order. Nothing was accepted; send the same to another appliance, or again later."},
	{CodeUnavailable, http.StatusServiceUnavailable, "Unavailable",
		"A part of the appliance is missing. Wait for the time in Retry-After and send the same again, with the Idempotency-Key that it had: where the answer says that the outcome is not known, the message may have been accepted. The operator finds the cause in the log under the request id."},
	{codeClientGone, statusClientGone, "The client has gone", ""},
}

// kindOf returns the kind of a code. The table is short: a scan is cheaper than
// a map, and only refusals pay it.
func kindOf(code Code) kind {
	for _, k := range kinds {
		if k.code == code {
			return k
		}
	}
	return kindOf(CodeUnavailable)
}

var problemPage = template.Must(template.New("problem").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{.Code}} · Forebay</title>
<style>body{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem;color-scheme:light dark}</style>
<h1>{{.Title}}</h1>
<p><code>{{.Status}} {{.Code}}</code></p>
<p>{{.Advice}}</p>
</html>
`))

// problemPages renders the page of every code, once.
func problemPages() map[string][]byte {
	pages := make(map[string][]byte, len(kinds))
	for _, k := range kinds {
		if k.code == codeClientGone {
			continue
		}
		var page strings.Builder
		// Rendering a constant template from constants into memory cannot fail.
		_ = problemPage.Execute(&page, struct {
			Code          Code
			Status        int
			Title, Advice string
		}{k.code, k.status, k.title, k.advice})
		pages[string(k.code)] = []byte(page.String())
	}
	return pages
}

// Codes lists the codes that a client can meet, in the order of their statuses.
func Codes() []Code {
	codes := make([]Code, 0, len(kinds))
	for _, k := range kinds {
		if k.code != codeClientGone {
			codes = append(codes, k.code)
		}
	}
	return slices.Clip(codes)
}
