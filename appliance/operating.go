package appliance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"

	"forebay/appliance/pressure"
	"forebay/httpapi"
	"forebay/httpapi/admin"
	"forebay/raftstate"
	"forebay/raftstate/account"
	"forebay/wal/message"
	"forebay/web"
)

func (a *Appliance) buildAdmin() (err error) {
	a.admin, err = admin.New(admin.Config{
		Accounts:  accountsAdapter{a.group, func() bool { return a.current().Channels.Webhook.AllowHTTP }},
		Limits:    a.limits,
		Messages:  (*operatorMessages)(a),
		Life:      (*operatorLife)(a),
		Breakers:  (*operatorBreakers)(a),
		Webhooks:  operatorWebhooks{a.group},
		Cluster:   clusterAdapter{a.group},
		Render:    func(r *message.Record) any { return httpapi.ViewOf(r) },
		Audit:     a.audit,
		Backup:    a.backup,
		Drain:     a.Drain,
		Status:    a.status,
		Readiness: a.readiness,
		Gatherer:  a.registry,
		Configs:   (*configs)(a),
		Watching:  (*watching)(a),
		Page:      web.Handler(),
		Token:     admin.NewToken(a.cfg.HTTP.AdminToken.Reveal()),
		OpsName:   hostOf(a.cfg.HTTP.OpsListen),
		Logger:    a.logger.With("part", "admin"),

		Registerer: a.registry,
	})
	return err
}

// hostOf is the host of a host:port; empty: it has none.
func hostOf(address string) string {
	host, _, _ := net.SplitHostPort(address)
	return host
}

// readiness is unready only if a submission would be refused.
func (a *Appliance) readiness() admin.Readiness {
	r := admin.Readiness{Status: admin.Ready, Checks: map[string]admin.Check{}}
	check := func(name, status, detail string) {
		r.Checks[name] = admin.Check{Status: status, Detail: detail}
		switch {
		case status == "failed":
			r.Status = admin.Unready
		case status == "degraded" && r.Status == admin.Ready:
			r.Status = admin.Degraded
		}
	}
	switch {
	case a.draining.Load():
		check("wal", "failed", "the appliance is stopping")
	case a.log.Err() != nil:
		check("wal", "failed", "the log has failed; the process must restart and verify it")
	case a.log.Stalled():
		check("wal", "failed", "the log's disk does not answer; nothing is accepted until it does")
	case a.log.Backpressure():
		check("wal", "degraded", "backpressure: the backlog is over buffer.backpressure_threshold")
	default:
		check("wal", "ok", "")
	}
	if a.log.Full() {
		check("disk", "failed", "the disk limit is reached: see buffer.max_disk_bytes and buffer.min_free_disk_bytes")
	} else {
		check("disk", "ok", "")
	}
	switch s := a.pressure.Status(); {
	case s.Full:
		check("memory", "failed", "the memory limit is reached: see memory.limit")
	case s.Levels[pressure.Memory] >= pressure.High:
		check("memory", "degraded", "memory is short, and what is less important is refused: see memory.limit")
	default:
		check("memory", "ok", "")
	}
	if h := a.store.Health(); h.Up {
		check("store", "ok", "")
	} else {
		check("store", "degraded", h.Detail)
	}
	switch s := a.group.Status(); {
	case s.Expelled:
		check("raft", "failed", "this node is not a member of the group: forebay cluster add, on a node that is")
	case !s.Ready:
		check("raft", "failed", "the accounts are not loaded yet")
	case s.Leader == 0 && a.limits.refusesAlone():
		check("raft", "failed", "no leader, and nothing is accepted without one: see rate_limiting.without_quorum")
	case s.Leader == 0:
		check("raft", "degraded", "no leader: accounts can't be changed")
	default:
		check("raft", "ok", "")
	}
	breakers, open := a.breakerChecks()
	r.Checks["breakers"] = admin.Check{Breakers: breakers}
	if open && r.Status == admin.Ready {
		r.Status = admin.Degraded
	}
	return r
}

// publicReadiness leaves out the words for operators.
func (a *Appliance) publicReadiness(context.Context) httpapi.Readiness {
	r := a.readiness()
	public := httpapi.Readiness{Status: r.Status, Checks: map[string]any{}}
	for name, c := range r.Checks {
		public.Checks[name] = admin.Check{Status: c.Status, Breakers: c.Breakers}
	}
	return public
}

// accountsAdapter is the replicated state as the admin API sees it.
type accountsAdapter struct {
	group *raftstate.Group
	plain func() bool // whether callbacks may go to http:// (channels.webhook.allow_http)
}

// callback refuses an address that callbacks of this configuration cannot go to.
// What else is wrong with it, the state machine says.
func (g accountsAdapter) callback(address string) error {
	if u, err := url.Parse(address); err != nil || u.Scheme != "http" || g.plain() {
		return nil
	}
	return admin.Refuse(admin.CodeInvalid, "the account is not valid: callback_url must be an https URL, as channels.webhook.allow_http is off",
		admin.FieldProblem{Pointer: "#/callback_url", Detail: "must be an https URL"})
}

func (g accountsAdapter) Accounts(context.Context) ([]admin.Account, error) {
	views := g.group.Accounts()
	list := make([]admin.Account, 0, len(views))
	for _, v := range views {
		list = append(list, accountView(v))
	}
	return list, nil
}

func (g accountsAdapter) Account(_ context.Context, id string) (admin.Account, error) {
	v, err := g.group.Account(id)
	return accountView(v), refuse(err)
}

func (g accountsAdapter) CreateAccount(ctx context.Context, body admin.CreateAccount) (admin.Account, error) {
	if err := g.callback(body.CallbackURL); err != nil {
		return admin.Account{}, err
	}
	v, err := g.group.CreateAccount(ctx, account.CreateAccount{ID: body.ID, Name: body.Name, Tier: body.Tier, CallbackURL: body.CallbackURL})
	return accountView(v), refuse(err)
}

func (g accountsAdapter) PatchAccount(ctx context.Context, id string, body admin.PatchAccount) (admin.Account, error) {
	if body.CallbackURL != nil {
		if err := g.callback(*body.CallbackURL); err != nil {
			return admin.Account{}, err
		}
	}
	v, err := g.group.UpdateAccount(ctx, account.UpdateAccount{ID: id, Name: body.Name, Tier: body.Tier, CallbackURL: body.CallbackURL, Suspended: body.Suspended})
	return accountView(v), refuse(err)
}

func (g accountsAdapter) DeleteAccount(ctx context.Context, id string) error {
	return refuse(g.group.DeleteAccount(ctx, id))
}

func (g accountsAdapter) Keys(_ context.Context, owner string) ([]admin.Key, error) {
	keys, err := g.group.Keys(owner)
	list := make([]admin.Key, 0, len(keys))
	for _, k := range keys {
		list = append(list, keyView(k))
	}
	return list, refuse(err)
}

func (g accountsAdapter) CreateKey(ctx context.Context, owner string, body admin.CreateKey) (admin.CreatedKey, error) {
	k, text, err := g.group.CreateKey(ctx, owner, body.Label, body.Test)
	return admin.CreatedKey{Key: keyView(k), Secret: text}, refuse(err)
}

func (g accountsAdapter) RevokeKey(ctx context.Context, owner, id string) (admin.Key, error) {
	k, err := g.group.RevokeKey(ctx, owner, id)
	return keyView(k), refuse(err)
}

func accountView(v raftstate.AccountView) admin.Account {
	return admin.Account{ID: v.ID, Name: v.Name, Tier: v.Tier, CallbackURL: v.CallbackURL, Suspended: v.Suspended, CreatedAt: v.CreatedAt, Keys: v.Keys}
}

func keyView(k account.Key) admin.Key {
	return admin.Key{ID: k.ID, Account: k.Account, Label: k.Label, Test: k.Test, CreatedAt: k.CreatedAt, RevokedAt: k.RevokedAt}
}

// refuse turns the state machine's refusals into answers.
func refuse(err error) error {
	var e *account.Error
	if !errors.As(err, &e) {
		switch {
		case errors.Is(err, raftstate.ErrUnknownOutcome):
			return fmt.Errorf("%w: %w", admin.Refuse(admin.CodeUnknownOutcome, "it is not known whether the change was made; look, and repeat it if it was not"), err)
		case errors.Is(err, raftstate.ErrNotReady), errors.Is(err, raftstate.ErrClosed):
			return fmt.Errorf("%w: %w", admin.Refuse(admin.CodeUnavailable, "the replicated state is not ready"), err)
		}
		return err
	}
	p := admin.Refuse(string(e.Code), e.Detail)
	for _, f := range e.Fields {
		p.Errors = append(p.Errors, admin.FieldProblem{Pointer: "#/" + f.Field, Detail: f.Detail})
	}
	return p
}

// operatorMessages is messages as operators see them: of every account.
type operatorMessages Appliance

func (m *operatorMessages) Get(ctx context.Context, id message.ID) (message.Record, error) {
	r, err := (*messages)(m).Get(ctx, "", id)
	return r, forOperators(err)
}

func (m *operatorMessages) List(ctx context.Context, q message.Query) (message.Page, error) {
	page, err := (*messages)(m).List(ctx, q)
	return page, forOperators(err)
}

func forOperators(err error) error {
	switch {
	case errors.Is(err, httpapi.ErrNotFound):
		return admin.ErrNotFound
	case errors.Is(err, httpapi.ErrUnavailable):
		return fmt.Errorf("%w: %w", admin.Refuse(admin.CodeUnavailable, "the store does not answer now"), err)
	}
	return err
}
