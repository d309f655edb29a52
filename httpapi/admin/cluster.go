package admin

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// Cluster changes who is in the group. What a caller did wrong comes back as a
// *Problem.
type Cluster interface {
	AddMember(ctx context.Context, body AddMember) error
	RemoveMember(ctx context.Context, node uint16) error
	// Transfer hands the leadership to a node; 0: whichever is the furthest.
	Transfer(ctx context.Context, to uint16) error
}

// AddMember is the body of POST /cluster/members.
type AddMember struct {
	Node     uint16 `json:"node"`
	Address  string `json:"address"` // of its cluster port, host:port
	NonVoter bool   `json:"nonvoter,omitzero"`
}

// TransferLead is the body of POST /cluster/transfer.
type TransferLead struct {
	Node uint16 `json:"node,omitzero"` // 0: whichever is the furthest
}

func (h *Handler) showCluster(x *exchange) error {
	return x.answer(http.StatusOK, h.cfg.Status().Raft)
}

func (h *Handler) addMember(x *exchange) error {
	var body AddMember
	if err := x.decode(&body); err != nil {
		return err
	}
	x.note("node", body.Node)
	x.note("address", body.Address)
	if err := h.cfg.Cluster.AddMember(x.r.Context(), body); err != nil {
		return err
	}
	return h.showCluster(x)
}

func (h *Handler) removeMember(x *exchange) error {
	x.note("node", x.param("node"))
	node, err := strconv.ParseUint(x.param("node"), 10, 16)
	if err != nil || node == 0 {
		return Refuse(CodeNotFound, "there is no such node: write its number, 1 to 65535")
	}
	if err := h.cfg.Cluster.RemoveMember(x.r.Context(), uint16(node)); err != nil {
		return err
	}
	return h.showCluster(x)
}

func (h *Handler) transferLead(x *exchange) error {
	var body TransferLead
	if err := x.decode(&body); err != nil {
		return err
	}
	x.note("to", body.Node)
	if err := h.cfg.Cluster.Transfer(x.r.Context(), body.Node); err != nil {
		return err
	}
	return h.showCluster(x)
}

// Cluster returns the members of the group as the appliance sees them.
func (c *Client) Cluster(ctx context.Context) (s RaftStatus, err error) {
	err = c.call(ctx, http.MethodGet, "/cluster", nil, &s)
	return s, err
}

// AddMember makes a node a member, and returns the members there then are.
func (c *Client) AddMember(ctx context.Context, body AddMember) (s RaftStatus, err error) {
	err = c.call(ctx, http.MethodPost, "/cluster/members", body, &s)
	return s, err
}

// RemoveMember takes a node out of the group.
func (c *Client) RemoveMember(ctx context.Context, node string) (s RaftStatus, err error) {
	err = c.call(ctx, http.MethodDelete, "/cluster/members/"+url.PathEscape(node), nil, &s)
	return s, err
}

// Transfer hands the leadership to a node; 0: whichever is the furthest.
func (c *Client) Transfer(ctx context.Context, to uint16) (s RaftStatus, err error) {
	err = c.call(ctx, http.MethodPost, "/cluster/transfer", TransferLead{to}, &s)
	return s, err
}
