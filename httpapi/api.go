package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/julienschmidt/httprouter"

	"forebay/wal/message"
)

// API is the public HTTP interface. Its Handler serves requests; Server and
// Listener put it on the network.
type API struct {
	cfg      Config
	channels atomic.Uint32 // the ChannelSet that is open, and plainHTTP
	router   *httprouter.Router
	table    []*route
	unrouted *route // answers and counts what no route is for
	metrics  *metrics
	wire     *wire
	bodies   bodies
	hooks    bodies // of /hooks/whatsapp, apart: whoever calls there is not known before the body is read
	policies policies
	// followsBody: the bytes that may be buffered follow MaxBodyBytes.
	followsBody bool
	defaultTTL  atomic.Int64      // ns
	pages       map[string][]byte // of problems, by code
	feeds       *feeds

	// drainCtx ends when Drain is called. It is here, and not passed down,
	// because it ends waits within requests without ending the requests.
	drainCtx context.Context
	drain    context.CancelFunc

	recheck    time.Duration // keyRecheck, but in tests
	handedOver atomic.Bool   // each answer closes its connection

	causeLogged  atomic.Int64 // when a private cause was last logged, Unix ns
	causesHidden atomic.Int64 // how many were not since
}

// New builds an API. The error names every field of cfg that is wrong.
func New(cfg Config) (*API, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("http configuration: %w", err)
	}
	followsBody := cfg.MaxBuffered == 0
	cfg.setDefaults()
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	a := &API{cfg: cfg, metrics: m, pages: problemPages(), feeds: newFeeds(),
		followsBody: followsBody, recheck: keyRecheck}
	a.bodies.pressure, a.hooks.pressure = cfg.Pressure, cfg.Pressure
	a.drainCtx, a.drain = context.WithCancel(context.Background())
	a.wire = &wire{refused: a.refusedOnWire(m.route("connection"))}
	a.apply(cfg)
	a.Open(cfg.Channels, cfg.AllowHTTP)
	a.buildRouter()
	return a, nil
}

// plainHTTP stands beside the channels that are open.
const plainHTTP = 1 << 16

// Open says which channels messages are accepted for from now on, and whether
// their addresses may be http:// ones.
func (a *API) Open(channels []message.Channel, allowHTTP bool) {
	open := uint32(ChannelsOf(channels...))
	if allowHTTP {
		open |= plainHTTP
	}
	a.channels.Store(open)
}

// Handler serves the public routes.
func (a *API) Handler() http.Handler { return a.router }

// Drain refuses new submissions from now on, with 503 draining; requests in
// flight finish. Waits for the database end early, and open batch streams end
// within Config.DrainGrace. It does not block, and may be called again.
func (a *API) Drain() { a.drain() }

// HandOver has each answer from now on close its connection, so that clients
// open new ones, which wait for the next process on a listening socket that both
// share. Nothing is refused.
func (a *API) HandOver() { a.handedOver.Store(true) }

func (a *API) draining() bool { return a.drainCtx.Err() != nil }

// authenticate sets the exchange's account.
func (a *API) authenticate(x *exchange) (Principal, error) {
	who, err := a.principal(x.r.Header)
	x.account = who.Account
	return who, err
}

// principal is whose key a request has. Of an account that is suspended the error
// says so, and nothing but its name is returned.
func (a *API) principal(h http.Header) (Principal, error) {
	key := bearer(h)
	if key == "" {
		return Principal{}, &Problem{Code: CodeUnauthenticated, Detail: unauthenticatedDetail}
	}
	who, err := a.cfg.Keys.Authenticate(key)
	if err != nil {
		return Principal{}, fmt.Errorf("authenticate: %w", err)
	}
	if who.Suspended {
		return Principal{Account: who.Account}, &Problem{Code: CodeSuspended, Detail: "The account is suspended."}
	}
	return who, nil
}

// keyRecheck is how long a key that was revoked, or whose account was suspended,
// may go on with a stream that it opened before.
const keyRecheck = time.Second

// stillGood looks again at the key of a request that goes on for long. Where
// nobody can say now what the key is worth it is as good as it was.
func (a *API) stillGood(r *http.Request) (who Principal, known bool, p *Problem) {
	who, err := a.principal(r.Header)
	if err == nil {
		return who, true, nil
	}
	if p := problemOf(r.Context(), err); p.Code == CodeUnauthenticated || p.Code == CodeSuspended {
		return who, true, p
	}
	return who, false, nil
}
