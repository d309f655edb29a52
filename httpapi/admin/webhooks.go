package admin

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Webhooks are the secrets that accounts' webhooks are signed with, and the
// addresses that do not take them.
type Webhooks interface {
	WebhookSecret(ctx context.Context, account string) (WebhookSecret, error)
	RotateWebhookSecret(ctx context.Context, account string) (WebhookSecret, error)
	Endpoints(ctx context.Context, account string) ([]Endpoint, error)
	EnableEndpoint(ctx context.Context, account, endpoint string) error
}

// WebhookSecret is the answer to GET and POST /accounts/ID/secret. It is the one
// answer of these routes that holds a secret in force.
type WebhookSecret struct {
	Account   string    `json:"account"`
	Secret    string    `json:"secret"`
	Previous  string    `json:"previous,omitzero"` // signs too, until PreviousUntil
	Until     time.Time `json:"previous_until,omitzero"`
	RotatedAt time.Time `json:"rotated_at"`
}

// Endpoint is a webhook address that fails or is switched off. The address is
// not in it: it may be all the secret that its receiver has.
type Endpoint struct {
	Account  string    `json:"account"`
	ID       string    `json:"id"`
	Host     string    `json:"host"`
	Since    time.Time `json:"failing_since"`
	Warned   int       `json:"patience_used_percent"`
	Disabled time.Time `json:"disabled_at,omitzero"`
	Reason   string    `json:"reason,omitzero"` // "gone" or "failed"
}

// EndpointList is the answer to GET /accounts/ID/endpoints, ascending by ID.
type EndpointList struct {
	Data []Endpoint `json:"data"`
}

func (h *Handler) webhookRoutes() []adminRoute {
	if h.cfg.Webhooks == nil {
		return nil
	}
	return []adminRoute{
		{http.MethodGet, "/accounts/:account/secret", h.showSecret},
		{http.MethodPost, "/accounts/:account/secret", h.rotateSecret},
		{http.MethodGet, "/accounts/:account/endpoints", h.listEndpoints},
		{http.MethodDelete, "/accounts/:account/endpoints/:endpoint", h.enableEndpoint},
	}
}

func (h *Handler) showSecret(x *exchange) error {
	x.note("account", x.param("account"))
	s, err := h.cfg.Webhooks.WebhookSecret(x.r.Context(), x.param("account"))
	if err != nil {
		return err
	}
	return x.answer(http.StatusOK, s)
}

func (h *Handler) rotateSecret(x *exchange) error {
	x.note("account", x.param("account"))
	s, err := h.cfg.Webhooks.RotateWebhookSecret(x.r.Context(), x.param("account"))
	if err != nil {
		return err
	}
	return x.answer(http.StatusCreated, s)
}

func (h *Handler) listEndpoints(x *exchange) error {
	list, err := h.cfg.Webhooks.Endpoints(x.r.Context(), x.param("account"))
	if err != nil {
		return err
	}
	if list == nil {
		list = []Endpoint{}
	}
	return x.answer(http.StatusOK, EndpointList{Data: list})
}

func (h *Handler) enableEndpoint(x *exchange) error {
	x.note("account", x.param("account"))
	x.note("endpoint", x.param("endpoint"))
	if err := h.cfg.Webhooks.EnableEndpoint(x.r.Context(), x.param("account"), x.param("endpoint")); err != nil {
		return err
	}
	x.w.WriteHeader(http.StatusNoContent)
	return nil
}

// WebhookSecret returns an account's webhook secret; the first one is made when
// it is asked for.
func (c *Client) WebhookSecret(ctx context.Context, account string) (s WebhookSecret, err error) {
	err = c.call(ctx, http.MethodGet, "/accounts/"+url.PathEscape(account)+"/secret", nil, &s)
	return s, err
}

// RotateWebhookSecret gives an account another webhook secret; the one before
// signs on for a day.
func (c *Client) RotateWebhookSecret(ctx context.Context, account string) (s WebhookSecret, err error) {
	err = c.call(ctx, http.MethodPost, "/accounts/"+url.PathEscape(account)+"/secret", nil, &s)
	return s, err
}

// Endpoints lists an account's webhook addresses that fail or are switched off.
func (c *Client) Endpoints(ctx context.Context, account string) ([]Endpoint, error) {
	var list EndpointList
	err := c.call(ctx, http.MethodGet, "/accounts/"+url.PathEscape(account)+"/endpoints", nil, &list)
	return list.Data, err
}

// EnableEndpoint forgets that a webhook address failed: it is tried again.
func (c *Client) EnableEndpoint(ctx context.Context, account, endpoint string) error {
	return c.call(ctx, http.MethodDelete, "/accounts/"+url.PathEscape(account)+"/endpoints/"+url.PathEscape(endpoint), nil, nil)
}
