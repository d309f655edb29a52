// Package httpapi is the public API: it takes messages over HTTP and answers
// how far they have got.
//
// # What an answer promises
//
// 202 is written after Log.Append has returned, and Append returns when the
// message is on disk. Nothing else is waited for: not validation that needs
// work, not the database, not a channel. A client that got no answer does not
// know whether its message was taken; with an Idempotency-Key it may repeat the
// request and gets the first answer.
//
// # The order of checks
//
//  1. the head (conn guard: framing, bare LF, both lengths)   400, 408, 431
//  2. the route                                               404, 405
//  3. draining                                                503
//  4. the key, and the account behind it                      401, 403
//  5. pressure: what is admitted at all                       503
//  6. media types, Idempotency-Key                            406, 415, 400
//     and a slot: the request counts among the account's
//     concurrent ones from before its body is read            429, 503
//  7. the body: bounded before it is read, strict             413, 408, 400
//  8. the plan's channels, then every rule of every field     403, 422
//  9. the limiter: a token for each message                   429, 503
//  10. the log                                                409, 422, 503
//
// A refusal before 10 leaves no trace, so it can be repeated as it is.
// One by the log at 10 gives the token back; so does the answer to a repeated
// Idempotency-Key. Where it is not known whether the log has the message, the
// token stays spent.
//
// # Who owns what
//
// The request goroutine owns the message until Append returns. Buffers that
// bodies are read into are pooled; the decoder copies the body once into a
// string that every field is cut from, so no field points into a pooled buffer
// and the buffer goes back before the wait for the disk begins.
//
// A batch stream has two goroutines: one reads and decodes lines into a queue
// bounded by count and bytes, the other takes whatever has gathered, appends it
// as one group and writes the answers. When the log is slow or the client does
// not read, the queue fills and reading stops: memory for a batch does not grow
// with its length.
//
// # Errors
//
// Handlers return an error; one adapter renders it as a problem (RFC 9457),
// counts it and logs it. An error that is neither a *Problem nor one of the
// sentinels of this package is answered with 503 unavailable: its text goes to
// the log and never to a client.
//
// # HTTP/2
//
// There is none: the guard that refuses ambiguous framing sits between TLS and
// net/http, which then speaks HTTP/1.1 only.
package httpapi
