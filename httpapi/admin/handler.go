package admin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/julienschmidt/httprouter"
	"github.com/prometheus/client_golang/prometheus"

	"forebay/wal/message"
)

// Accounts holds the accounts and their keys. What a caller did wrong comes back
// as a *Problem (see Refuse).
type Accounts interface {
	Accounts(ctx context.Context) ([]Account, error)
	Account(ctx context.Context, id string) (Account, error)
	CreateAccount(ctx context.Context, body CreateAccount) (Account, error)
	PatchAccount(ctx context.Context, id string, body PatchAccount) (Account, error)
	DeleteAccount(ctx context.Context, id string) error
	Keys(ctx context.Context, account string) ([]Key, error)
	CreateKey(ctx context.Context, account string, body CreateKey) (CreatedKey, error)
	// RevokeKey revokes a key; account empty: whoever's it is.
	RevokeKey(ctx context.Context, account, id string) (Key, error)
}

// Messages finds messages of every account, in the log and in the store.
type Messages interface {
	Get(ctx context.Context, id message.ID) (message.Record, error) // ErrNotFound
	List(ctx context.Context, q message.Query) (message.Page, error)
}

// Breakers are the circuit breakers of the group, as this node sees them.
type Breakers interface {
	Breakers() []BreakerStatus
	// ForceBreaker puts one to open, closed or auto, in the name of who, and
	// returns it as it then is. ErrNotFound: nothing is called by that name.
	ForceBreaker(ctx context.Context, name, position, who string) (BreakerStatus, error)
}

// Config says what a Handler serves. All but Life, Watching, Configs, Webhooks, Page,
// Token, OpsName, Logger and Registerer must be set.
type Config struct {
	Accounts Accounts
	Messages Messages
	Life     Life // nil: messages cannot be changed or counted
	Breakers Breakers
	Limits   Limits   // nil: the route says that there are none
	Webhooks Webhooks // nil: no routes
	Cluster  Cluster
	// Render gives the form in which a message is shown: httpapi.ViewOf.
	Render func(*message.Record) any
	// Audit counts what became of the messages accepted since then; zero: all.
	Audit func(ctx context.Context, since time.Time) (Audit, error)
	// Backup writes a backup; after an error what was written is cut off so
	// that its reader sees that it is not whole.
	Backup func(ctx context.Context, w io.Writer) error
	// Drain starts the graceful stop. It does not wait for it.
	Drain     func()
	Status    func() Status
	Readiness func() Readiness
	Gatherer  prometheus.Gatherer // for /metrics
	Watching  Watching            // of /events and /history.json; nil: none
	Configs   Configs             // of /admin/v1/config; nil: none
	Page      http.Handler        // of / and /assets/; nil: none

	Token      Token                 // zero: /admin/v1 is closed over TCP
	OpsName    string                // by which the ops listener may be called, beside localhost; empty: none
	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // of the metrics of /metrics itself; nil: not registered
}

// Validate names everything that is missing.
func (c Config) Validate() error {
	var errs []error
	for _, need := range []struct {
		name    string
		missing bool
	}{
		{"accounts", c.Accounts == nil}, {"messages", c.Messages == nil}, {"breakers", c.Breakers == nil}, {"cluster", c.Cluster == nil}, {"render", c.Render == nil},
		{"audit", c.Audit == nil}, {"backup", c.Backup == nil}, {"drain", c.Drain == nil},
		{"status", c.Status == nil}, {"readiness", c.Readiness == nil}, {"gatherer", c.Gatherer == nil},
	} {
		if need.missing {
			errs = append(errs, errors.New("admin: "+need.name+" must be set"))
		}
	}
	return errors.Join(errs...)
}

// Handler serves the operator's side. Socket and Ops are its two faces.
type Handler struct {
	cfg     Config
	token   atomic.Pointer[Token] // in force
	log     *slog.Logger
	metrics http.Handler
	grace   time.Duration // for requests in flight when serving ends, twice
}

// New returns a Handler.
func New(cfg Config) (*Handler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Handler{cfg: cfg, log: cfg.Logger, grace: shutdownGrace}
	h.SetToken(cfg.Token)
	h.metrics = h.metricsHandler()
	return h, nil
}

// SetToken changes the admin token, for requests from now on.
func (h *Handler) SetToken(t Token) { h.token.Store(&t) }

// Socket returns the handler of the admin socket: /admin/v1 for whoever the
// connection's context names (see WithActor), and health.
func (h *Handler) Socket() http.Handler {
	r := h.router()
	h.adminRoutes(r, peerOnly)
	h.healthRoutes(r, true)
	return r
}

// Ops returns the handler of the ops listener. loopback says whether only this
// machine can reach it; otherwise everything but health asks for the token, and so
// it does there of who calls it by another's name.
func (h *Handler) Ops(loopback bool) http.Handler {
	if loopback {
		return h.byOwnName(h.opsRoutes(true), h.closed(h.foreignName, h.opsRoutes(false)))
	}
	return h.closed(h.tokenOnly, h.opsRoutes(false))
}

func (h *Handler) opsRoutes(detailed bool) http.Handler {
	r := h.router()
	h.adminRoutes(r, h.tokenOnly)
	h.healthRoutes(r, detailed)
	h.statusRoutes(r)
	h.watchRoutes(r)
	return r
}

func (h *Handler) router() *httprouter.Router {
	r := httprouter.New()
	// What is not spelled as a route is not one: no redirects to a near miss.
	r.RedirectTrailingSlash, r.RedirectFixedPath, r.HandleOPTIONS = false, false, false
	r.NotFound = h.serve("", nil, func(*exchange) error {
		return Refuse(CodeNotFound, "there is nothing at this path")
	})
	r.MethodNotAllowed = h.serve("", nil, func(*exchange) error {
		return Refuse(CodeMethodNotAllowed, "this path does not know the method")
	})
	return r
}

type adminRoute struct {
	method, path string
	serve        func(*exchange) error
}

// adminRoutes is the route table of /admin/v1.
func (h *Handler) adminRoutes(r *httprouter.Router, who authenticator) {
	for _, route := range append(append(h.configRoutes(), h.webhookRoutes()...), []adminRoute{
		{http.MethodGet, "/accounts", h.listAccounts},
		{http.MethodPost, "/accounts", h.createAccount},
		{http.MethodGet, "/accounts/:account", h.showAccount},
		{http.MethodPatch, "/accounts/:account", h.patchAccount},
		{http.MethodDelete, "/accounts/:account", h.deleteAccount},
		{http.MethodGet, "/accounts/:account/keys", h.listKeys},
		{http.MethodPost, "/accounts/:account/keys", h.createKey},
		{http.MethodDelete, "/accounts/:account/keys/:key", h.revokeKey},
		{http.MethodDelete, "/keys/:key", h.revokeKey},
		{http.MethodGet, "/messages", h.listMessages},
		{http.MethodGet, "/messages/:message", h.showMessage},
		{http.MethodGet, "/limits/:account", h.showLimits},
		{http.MethodPost, "/messages/:message", h.postMessages},
		{http.MethodPost, "/messages/:message/cancel", h.cancelMessage},
		{http.MethodGet, "/usage/:account", h.usage},
		{http.MethodGet, "/breakers", h.listBreakers},
		{http.MethodPost, "/breakers/:breaker/:position", h.forceBreaker},
		{http.MethodGet, "/cluster", h.showCluster},
		{http.MethodPost, "/cluster/members", h.addMember},
		{http.MethodDelete, "/cluster/members/:node", h.removeMember},
		{http.MethodPost, "/cluster/transfer", h.transferLead},
		{http.MethodGet, "/audit", h.audit},
		{http.MethodGet, "/status", h.status},
		{http.MethodGet, "/backup", h.backup},
		{http.MethodPost, "/drain", h.drain},
	}...) {
		path := "/admin/v1" + route.path
		r.Handler(route.method, path, h.serve(route.method+" "+path, who, route.serve))
	}
}
