package httpapi

import (
	_ "embed"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/julienschmidt/httprouter"
)

//go:embed openapi.yaml
var openAPI []byte

// route is one line of the route table.
type route struct {
	method  string
	path    string // as httprouter wants it
	handle  handler
	submits bool // takes messages: refusals count as refused messages
	single  bool // takes one message: its latency is the latency of acceptance

	label   string // in metrics and logs
	metrics routeMetrics
}

// routes is the whole of the public API. HEAD is served where GET is.
func (a *API) routes() []*route {
	return []*route{
		{method: http.MethodPost, path: "/v1/messages", handle: a.submit, submits: true, single: true},
		{method: http.MethodPost, path: "/v1/messages/batch", handle: a.submitBatch, submits: true},
		{method: http.MethodGet, path: "/v1/messages", handle: a.list},
		{method: http.MethodGet, path: "/v1/messages/:id", handle: a.get},
		{method: http.MethodPost, path: "/v1/messages/cancel", handle: a.cancelByRef},
		{method: http.MethodPost, path: "/v1/messages/requeue", handle: a.requeueByFilter},
		{method: http.MethodPost, path: "/v1/messages/:id/cancel", handle: a.cancel},
		{method: http.MethodPost, path: "/v1/messages/:id/requeue", handle: a.requeue},
		{method: http.MethodGet, path: "/v1/events", handle: a.events},
		{method: http.MethodGet, path: "/v1/usage", handle: a.usage},
		{method: http.MethodGet, path: "/hooks/whatsapp", handle: a.hookCheck},
		{method: http.MethodPost, path: "/hooks/whatsapp", handle: a.hookReceive},
		{method: http.MethodGet, path: "/v1/limits", handle: a.limits},
		{method: http.MethodGet, path: "/openapi.yaml", handle: a.openAPI},
		{method: http.MethodGet, path: "/problems/:code", handle: a.problem},
		{method: http.MethodGet, path: "/healthz", handle: a.healthz},
		{method: http.MethodGet, path: "/readyz", handle: a.readyz},
	}
}

func (a *API) buildRouter() {
	a.router = &httprouter.Router{HandleMethodNotAllowed: true, HandleOPTIONS: true} // and no redirects
	a.table = a.routes()
	forks := make(map[string]fork)
	for _, rt := range a.table {
		a.handle(rt, forks)
	}
	for path, f := range forks {
		a.router.Handle(http.MethodPost, path, a.choose(f))
	}
	a.unrouted = &route{label: "none"}
	a.unrouted.metrics = a.metrics.route(a.unrouted.label)
	a.router.NotFound = a.otherwise(func(*exchange) error { return noSuchPath() })
	a.router.MethodNotAllowed = a.otherwise(func(x *exchange) error {
		if p := a.allow(x); p != nil {
			return p
		}
		return &Problem{Code: CodeMethodNotAllowed, Detail: "Allowed are " + x.w.Header().Get("Allow") + "."}
	})
	a.router.GlobalOPTIONS = a.otherwise(func(x *exchange) error {
		if p := a.allow(x); p != nil {
			return p
		}
		x.status = http.StatusNoContent
		x.w.WriteHeader(http.StatusNoContent)
		return nil
	})
}

// allow sets Allow to the methods of the path, or returns the problem that there is
// none. The router knows the places of forks only, and not what stands there.
func (a *API) allow(x *exchange) *Problem {
	delete(x.w.Header(), "Allow")
	methods := a.methods(x.r.URL.Path)
	if len(methods) == 0 {
		return noSuchPath()
	}
	x.w.Header().Set("Allow", strings.Join(methods, ", "))
	return nil
}

// methods is what may be done with a path, in order; "*" is every path.
func (a *API) methods(path string) (methods []string) {
	place := ""
	for _, rt := range a.table {
		if names(rt.path, path) && (place == "" || strings.Count(rt.path, ":") < strings.Count(place, ":")) {
			place = rt.path // what is named goes before what is a parameter
		}
	}
	for _, rt := range a.table {
		if rt.path != place && path != "*" {
			continue
		}
		methods = append(methods, rt.method)
		if rt.method == http.MethodGet {
			methods = append(methods, http.MethodHead)
		}
	}
	if len(methods) > 0 {
		methods = append(methods, http.MethodOptions)
	}
	slices.Sort(methods)
	return slices.Compact(methods)
}

// names reports whether a route's path, with its parameters, is of this one.
func names(pattern, path string) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(path, "/")
	return slices.EqualFunc(want, got, func(want, got string) bool {
		return want == got || strings.HasPrefix(want, ":") && got != ""
	})
}

func noSuchPath() *Problem { return &Problem{Code: CodeNotFound, Detail: "There is no such path."} }

// fork is a place in the tree of POST where httprouter cannot have both names and
// a parameter: what stands there, by the value of the last parameter.
type fork map[string]httprouter.Handle

// The forks, and the parameter that decides at each.
const (
	forkMessage = "/v1/messages/:id"         // batch, cancel, requeue
	forkAction  = "/v1/messages/:id/:action" // cancel, requeue
)

// handle registers a route under its label, which httprouter would not tell.
func (a *API) handle(rt *route, forks map[string]fork) {
	rt.label = rt.method + " " + openAPIPath(rt.path)
	rt.metrics = a.metrics.route(rt.label)
	serve := func(w http.ResponseWriter, r *http.Request, params httprouter.Params) {
		a.serve(rt, w, r, params)
	}
	if rest, ok := strings.CutPrefix(rt.path, "/v1/messages/"); ok && rt.method == http.MethodPost {
		at, name := forkMessage, rest
		if action, ok := strings.CutPrefix(rest, ":id/"); ok {
			at, name = forkAction, action
		}
		if forks[at] == nil {
			forks[at] = make(fork)
		}
		forks[at][name] = serve
		return
	}
	if rt.path == forkMessage {
		serve = a.unless(forks, serve)
	}
	a.router.Handle(rt.method, rt.path, serve)
	if rt.method == http.MethodGet {
		a.router.Handle(http.MethodHead, rt.path, serve)
	}
}

// choose serves a fork. What no name is for cannot be posted to.
func (a *API) choose(f fork) httprouter.Handle {
	return func(w http.ResponseWriter, r *http.Request, params httprouter.Params) {
		if serve := f[params[len(params)-1].Value]; serve != nil {
			serve(w, r, params)
			return
		}
		a.router.MethodNotAllowed.ServeHTTP(w, r)
	}
}

// unless serves a message, and not what stands in its place in the fork.
func (a *API) unless(forks map[string]fork, serve httprouter.Handle) httprouter.Handle {
	return func(w http.ResponseWriter, r *http.Request, params httprouter.Params) {
		if forks[forkMessage][params.ByName("id")] != nil {
			a.router.MethodNotAllowed.ServeHTTP(w, r)
			return
		}
		serve(w, r, params)
	}
}

func (a *API) otherwise(h handler) http.Handler {
	rt := *a.unrouted
	rt.handle = h
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.serve(&rt, w, r, nil) })
}

// openAPIPath turns /v1/messages/:id into /v1/messages/{id}.
func openAPIPath(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if name, ok := strings.CutPrefix(p, ":"); ok {
			parts[i] = "{" + name + "}"
		}
	}
	return strings.Join(parts, "/")
}

func (a *API) openAPI(x *exchange) error {
	x.w.Header()[headerContentType] = valuesYAML
	x.write(http.StatusOK, openAPI)
	return nil
}

func (a *API) problem(x *exchange) error {
	page, ok := a.pages[x.params.ByName("code")]
	if !ok {
		return &Problem{Code: CodeNotFound, Detail: "There is no such problem."}
	}
	h := x.w.Header()
	h[headerContentType] = valuesHTML
	h["X-Content-Type-Options"] = valuesNoSniff
	x.write(http.StatusOK, page)
	return nil
}

func (a *API) healthz(x *exchange) error {
	x.w.Header()[headerContentType] = valuesPlainText
	x.write(http.StatusOK, []byte("ok\n"))
	return nil
}

func (a *API) readyz(x *exchange) error {
	ready := a.cfg.Ready(x.r.Context())
	if a.draining() {
		ready.Status = StatusUnready
	}
	body, err := json.Marshal(ready, json.Deterministic(true))
	if err != nil {
		return &Problem{Code: CodeUnavailable, Detail: "The checks cannot be told.", RetryAfter: time.Second, cause: err}
	}
	h := x.w.Header()
	h[headerContentType] = valuesJSON
	h["Cache-Control"] = valuesNoStore
	if ready.Status != StatusUnready {
		x.write(http.StatusOK, body)
		return nil
	}
	x.setValue(valueRetryAfter, "Retry-After", "1")
	x.write(http.StatusServiceUnavailable, body)
	return nil
}
