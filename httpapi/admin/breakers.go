package admin

import (
	"context"
	"net/http"
	"net/url"
)

func (h *Handler) listBreakers(x *exchange) error {
	return x.answer(http.StatusOK, BreakerList{Data: h.cfg.Breakers.Breakers()})
}

// positions are the last parts of the routes, and what they put a breaker to.
var positions = map[string]string{"open": "open", "close": "closed", "auto": "auto"}

func (h *Handler) forceBreaker(x *exchange) error {
	position, ok := positions[x.param("position")]
	if !ok {
		return Refuse(CodeNotFound, "a breaker can be put to open, close or auto")
	}
	x.note("breaker", x.param("breaker"))
	x.note("position", position)
	b, err := h.cfg.Breakers.ForceBreaker(x.r.Context(), x.param("breaker"), position, x.actor)
	if err != nil {
		return err
	}
	return x.answer(http.StatusOK, b)
}

// Breakers lists the circuit breakers, as the node that is asked sees them.
func (c *Client) Breakers(ctx context.Context) ([]BreakerStatus, error) {
	var list BreakerList
	err := c.call(ctx, http.MethodGet, "/breakers", nil, &list)
	return list.Data, err
}

// ForceBreaker puts a breaker where action says, on all nodes: open, close, or
// auto, which lets it go by its own rules again.
func (c *Client) ForceBreaker(ctx context.Context, name, action string) (b BreakerStatus, err error) {
	err = c.call(ctx, http.MethodPost, "/breakers/"+url.PathEscape(name)+"/"+action, nil, &b)
	return b, err
}
