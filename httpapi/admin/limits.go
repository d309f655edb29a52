package admin

import (
	"context"
	"net/http"
	"net/url"
)

// Limits tells how an account's limits are used.
type Limits interface {
	Limits(ctx context.Context, account string) (LimitsView, error)
}

// LimitsView is what counts against an account in the whole cluster, and which
// node holds what of it.
type LimitsView struct {
	Account           string        `json:"account"`
	Tier              string        `json:"tier"`
	RequestsPerMinute int64         `json:"requests_per_minute"`
	Burst             int64         `json:"burst"`
	Concurrent        int64         `json:"concurrent"`
	Shadow            bool          `json:"shadow,omitzero"`
	WindowSeconds     float64       `json:"window_seconds"`
	Spent             int64         `json:"spent"`      // messages within the window
	Held              int64         `json:"held"`       // that nodes may still spend, or have and not reported yet
	Remaining         int64         `json:"remaining"`  // neither
	BurstLeft         int64         `json:"burst_left"` // beside what is held
	Slots             int64         `json:"slots"`      // requests in flight that nodes may have
	Holdings          []HoldingView `json:"holdings"`
}

// HoldingView is what one node holds.
type HoldingView struct {
	Node          uint16  `json:"node"`
	Tokens        int64   `json:"tokens"`
	Slots         int64   `json:"slots"`
	EndsInSeconds float64 `json:"ends_in_seconds"`
}

func (h *Handler) showLimits(x *exchange) error {
	if h.cfg.Limits == nil {
		return Refuse(CodeUnavailable, "nothing is limited here")
	}
	v, err := h.cfg.Limits.Limits(x.r.Context(), x.param("account"))
	if err != nil {
		return err
	}
	return x.answer(http.StatusOK, v)
}

// Limits asks for the use of an account's limits.
func (c *Client) Limits(ctx context.Context, account string) (v LimitsView, err error) {
	err = c.call(ctx, http.MethodGet, "/limits/"+url.PathEscape(account), nil, &v)
	return v, err
}
