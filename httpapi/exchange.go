package httpapi

import (
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"forebay/wal/message"

	"github.com/julienschmidt/httprouter"
)

// exchange is one request and its answer. It is one allocation for everything
// that a submission needs, and is not pooled: net/http reads the header values,
// which point into it, after the handler has returned.
type exchange struct {
	route     *route
	w         http.ResponseWriter
	r         *http.Request
	params    httprouter.Params
	requestID string
	account   string // empty until authenticated
	plan      Plan   // once it is limited by it
	start     time.Time

	status  int  // 0: nothing is written yet
	code    Code // of the problem, if it was one
	waited  bool // the client asked to wait, so its latency says nothing about us
	message message.Message
	form    form

	values [valuesLen]string // of headers
	out    [160]byte         // of the answer to a submission
}

// The headers whose values have a place in an exchange.
const (
	valueRequestID = iota
	valueLocation
	valueRetryAfter
	valueRateLimit
	valuesLen
)

// handler answers a request, or returns an error and has written nothing.
type handler func(x *exchange) error

// Header values that never change. net/http reads them only.
var (
	valuesJSON      = []string{typeJSON}
	valuesNDJSON    = []string{typeNDJSON}
	valuesProblem   = []string{typeProblem}
	valuesClose     = []string{"close"}
	valuesBearer    = []string{"Bearer"}
	valuesNoStore   = []string{"no-store"}
	valuesReplayed  = []string{"true"}
	valuesHTML      = []string{"text/html; charset=utf-8"}
	valuesYAML      = []string{"application/yaml"}
	valuesPlainText = []string{"text/plain; charset=utf-8"}
	valuesNoSniff   = []string{"nosniff"}
)

// setValue sets a header without allocating a slice for it.
func (x *exchange) setValue(place int, key, value string) {
	x.values[place] = value
	x.w.Header()[key] = x.values[place : place+1 : place+1]
}

// write sends status and body. A client that has gone is no concern of the
// handler: what it did is done, and net/http drops the connection.
func (x *exchange) write(status int, body []byte) {
	x.status = status
	x.w.WriteHeader(status)
	_, _ = x.w.Write(body)
}

// serve runs a handler: the one place where errors are rendered, counted and
// logged, and where panics end.
func (a *API) serve(rt *route, w http.ResponseWriter, r *http.Request, params httprouter.Params) {
	x := &exchange{route: rt, w: w, r: r, params: params, start: time.Now(), requestID: requestID(r.Header)}
	x.setValue(valueRequestID, headerRequestID, x.requestID)
	if a.handedOver.Load() {
		w.Header()["Connection"] = valuesClose
	}
	abort := false
	if err := a.run(x); err != nil {
		abort = a.refuse(x, err)
	}
	a.account(x)
	if abort {
		panic(http.ErrAbortHandler) // closes the connection, without a word
	}
}

// run calls the handler and turns a panic into a problem. The connection is not
// used again: how much of the body was read is not known.
func (a *API) run(x *exchange) (err error) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler:
			panic(v)
		default:
			p := unavailable(fmt.Errorf("panic: %v\n%s", v, debug.Stack()))
			p.Close = true
			err = p
		}
	}()
	return x.route.handle(x)
}

// refuse answers with a problem. It reports whether the connection must be cut
// off instead, because an answer had begun or nobody is there.
func (a *API) refuse(x *exchange, err error) (abort bool) {
	p := problemOf(x.r.Context(), err)
	x.code = p.Code
	if x.route.submits {
		a.metrics.refuse(p.Code)
	}
	if p.private() {
		a.logCause(x, p)
	}
	kind := kindOf(p.Code)
	if x.status != 0 {
		return true
	}
	x.status = kind.status
	if p.Code == codeClientGone {
		return true
	}
	h := x.w.Header()
	h[headerContentType] = valuesProblem
	if p.RetryAfter > 0 {
		x.setValue(valueRetryAfter, "Retry-After", strconv.FormatInt(p.retrySeconds(), 10))
	}
	if p.Code == CodeUnauthenticated {
		h["Www-Authenticate"] = valuesBearer
	}
	if p.Close {
		h["Connection"] = valuesClose
	}
	x.write(kind.status, p.appendJSON(nil, x.requestID))
	return false
}

// account counts the exchange and logs it at debug level.
func (a *API) account(x *exchange) {
	rt := x.route
	now := time.Now()
	took := now.Sub(x.start)
	rt.metrics.observe(x.status, took)
	if rt.single && x.status < 300 && !x.waited {
		a.metrics.window.observe(now, took)
	}
	ctx := x.r.Context()
	if !a.cfg.Logger.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attrs := []slog.Attr{slog.String("route", rt.label), slog.Int("status", x.status),
		slog.Duration("took", took), slog.String("request_id", x.requestID), slog.String("remote", x.r.RemoteAddr)}
	if x.account != "" {
		attrs = append(attrs, slog.String("account", x.account))
	}
	if x.code != "" {
		attrs = append(attrs, slog.String("code", string(x.code)))
	}
	if x.message.TraceParent != "" {
		attrs = append(attrs, slog.String("trace_id", x.message.TraceParent[3:35]))
	}
	a.cfg.Logger.LogAttrs(ctx, slog.LevelDebug, "request", attrs...)
}

// logCause logs what a client is not told. When a part is missing every request
// fails with the same cause, so a line a second must do; it says how many others
// there were.
func (a *API) logCause(x *exchange, p *Problem) {
	now := time.Now().UnixNano()
	last := a.causeLogged.Load()
	if now-last < int64(time.Second) || !a.causeLogged.CompareAndSwap(last, now) {
		a.causesHidden.Add(1)
		return
	}
	a.cfg.Logger.LogAttrs(x.r.Context(), slog.LevelError, "request refused",
		slog.String("route", x.route.label), slog.String("code", string(p.Code)), slog.String("request_id", x.requestID),
		slog.String("account", x.account), slog.String("cause", p.cause.Error()),
		slog.Int64("others", a.causesHidden.Swap(0)))
}
