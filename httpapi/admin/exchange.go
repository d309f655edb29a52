package admin

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/julienschmidt/httprouter"
)

const (
	maxBody      = 64 << 10         // bytes of a request's body
	writeTimeout = 30 * time.Second // for an answer, and for each piece of a backup
)

// exchange is one request and its answer. Handlers return an error instead of
// writing one; serve renders and logs it.
type exchange struct {
	w     http.ResponseWriter
	r     *http.Request
	id    string
	actor string
	notes []slog.Attr // of a change, for the log
	begun bool        // an answer has been started, so a problem cannot be
}

// note adds what a change does to the line that logs it.
func (x *exchange) note(key string, value any) { x.notes = append(x.notes, slog.Any(key, value)) }

func (x *exchange) param(name string) string {
	return httprouter.ParamsFromContext(x.r.Context()).ByName(name)
}

// decode reads the body, strictly: one JSON object of known members, each once.
func (x *exchange) decode(into any) error {
	kind, _, err := mime.ParseMediaType(x.r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return Refuse(CodeUnsupportedMedia, "send application/json")
	}
	body, err := io.ReadAll(http.MaxBytesReader(x.w, x.r.Body, maxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return Refuse(CodeTooLarge, "the body is larger than 64 KiB")
	}
	if err != nil {
		return Refuse(CodeMalformed, "the body could not be read")
	}
	if err := json.Unmarshal(body, into, json.RejectUnknownMembers(true)); err != nil {
		return malformed(err)
	}
	return nil
}

// malformed says where in a body something is wrong; never the text of err,
// which is about Go.
func malformed(err error) error {
	p := Refuse(CodeMalformed, "the body is not the JSON that belongs here")
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		detail := "is of the wrong type"
		if errors.Is(semantic.Err, json.ErrUnknownName) {
			detail = "is not known"
		}
		p.Errors = []FieldProblem{{Pointer: "#" + string(semantic.JSONPointer), Detail: detail}}
	}
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		detail := "is not well-formed"
		if errors.Is(syntactic.Err, jsontext.ErrDuplicateName) {
			detail = "is there twice"
		}
		p.Errors = []FieldProblem{{Pointer: "#" + string(syntactic.JSONPointer), Detail: detail}}
	}
	return p
}

// answer writes v as JSON.
func (x *exchange) answer(status int, v any) error {
	var b bytes.Buffer
	if err := json.MarshalWrite(&b, v, json.Deterministic(true)); err != nil {
		return err
	}
	b.WriteByte('\n')
	x.begin("application/json")
	x.w.WriteHeader(status)
	x.w.Write(b.Bytes()) // an error here is a caller that has gone
	return nil
}

// begin starts an answer: what it writes next has writeTimeout to leave.
func (x *exchange) begin(kind string) {
	x.begun = true
	x.w.Header().Set("Content-Type", kind)
	http.NewResponseController(x.w).SetWriteDeadline(time.Now().Add(writeTimeout))
}

// serve is the one adapter between handlers and net/http: who is asking, what
// is answered, and what is logged. route names it in the log; who nil: anyone.
func (h *Handler) serve(route string, who authenticator, handle func(*exchange) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{w: w, r: r, id: requestID(r)}
		header := w.Header()
		header.Set("X-Request-Id", x.id)
		header.Set("Cache-Control", "no-store")
		header.Set("X-Content-Type-Options", "nosniff")
		if r.ContentLength == 0 {
			// All is read. The time to read it in would go on to run while an audit
			// or a backup works, and net/http takes its end for a caller that has gone.
			http.NewResponseController(w).SetReadDeadline(time.Time{})
		}

		var err error
		if who != nil {
			x.actor, err = who(r)
		}
		changes := r.Method != http.MethodGet && r.Method != http.MethodHead
		if err == nil && changes {
			err = crossOrigin(r)
		}
		if err == nil {
			err = contain(handle, x)
		}
		h.record(x, route, changes, err)
		if err == nil {
			return
		}
		if x.begun { // cut the answer off, so that nobody takes it for whole
			panic(http.ErrAbortHandler)
		}
		x.refuse(err)
	})
}

// contain turns a panic into an error, so that it is answered and logged like
// any other fault of the appliance's own. A cut answer stays a panic.
func contain(handle func(*exchange) error, x *exchange) (err error) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler:
			panic(v)
		default:
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return handle(x)
}

func (x *exchange) refuse(err error) {
	p, _ := problemOf(err)
	p.Instance = x.id
	x.begin("application/problem+json")
	header := x.w.Header()
	switch p.Status {
	case http.StatusUnauthorized:
		header.Add("WWW-Authenticate", `Bearer realm="forebay"`)
		header.Add("WWW-Authenticate", `Basic realm="forebay", charset="UTF-8"`)
	case http.StatusServiceUnavailable:
		header.Set("Retry-After", "5")
	}
	x.w.WriteHeader(p.Status)
	json.MarshalWrite(x.w, p)
}

// record logs each change and each attempt at one with who made it, and every
// fault of the appliance's own. Bodies are not logged: an address may hold a
// secret.
func (h *Handler) record(x *exchange, route string, changes bool, err error) {
	attrs := []slog.Attr{slog.String("route", route), slog.String("actor", x.actor), slog.String("request_id", x.id)}
	if remote := x.r.RemoteAddr; remote != "" && remote != "@" { // the socket has none
		attrs = append(attrs, slog.String("remote", remote))
	}
	ctx := x.r.Context()
	if err != nil {
		p, own := problemOf(err)
		attrs = append(attrs, slog.String("code", p.Code))
		if own {
			attrs = append(attrs, slog.Any("error", err))
			h.log.LogAttrs(ctx, slog.LevelError, "admin: request failed", append(attrs, x.notes...)...)
			return
		}
		if p.Status == http.StatusUnauthorized || p.Status == http.StatusForbidden {
			h.log.LogAttrs(ctx, slog.LevelWarn, "admin: access refused", attrs...)
			return
		}
	}
	switch attrs = append(attrs, x.notes...); {
	case route == "":
	case changes && err == nil:
		h.log.LogAttrs(ctx, slog.LevelInfo, "admin: change", attrs...)
	case changes:
		h.log.LogAttrs(ctx, slog.LevelInfo, "admin: change refused", attrs...)
	default:
		h.log.LogAttrs(ctx, slog.LevelDebug, "admin: request", attrs...)
	}
}

// requestID takes the caller's own if it is harmless in a log.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if id == "" || len(id) > 64 {
		return rand.Text()
	}
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return rand.Text()
		}
	}
	return id
}
