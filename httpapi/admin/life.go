package admin

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"forebay/wal/message"
)

// Life changes what becomes of messages of every account. What a caller did wrong
// comes back as a *Problem, or as ErrNotFound.
type Life interface {
	// Cancel ends a message that is not being sent yet; CodeNotCancelable.
	Cancel(ctx context.Context, id message.ID) (message.Record, error)
	// Requeue accepts failed messages anew: one step of it, bounded by Limit.
	Requeue(ctx context.Context, order RequeueOrder) (RequeueAnswer, error)
	// Usage counts an account's messages; CodeNotFound.
	Usage(ctx context.Context, q message.UsageQuery) ([]message.UsageCount, error)
}

// CodeNotCancelable: the message is being sent, or has come to its end.
const CodeNotCancelable = "not_cancelable"

// RequeueOrder is the body of POST /messages/requeue: messages by their ids, or a
// filter. Each message is accepted anew once, however often it is ordered within
// the time that idempotency keys are kept. A step covers up to Limit messages;
// the answer says how to order the next one.
type RequeueOrder struct {
	IDs     []message.ID `json:"ids,omitzero"` // at most 1,000; then no filter
	Status  string       `json:"status,omitzero"`
	Channel string       `json:"channel,omitzero"`
	Account string       `json:"account,omitzero"`
	Since   time.Time    `json:"since,omitzero"` // accepted at or after
	Until   time.Time    `json:"until,omitzero"` // accepted before
	// Callbacks: those of a filter's messages that are callbacks, too; by their ids
	// they may always be named.
	Callbacks bool   `json:"callbacks,omitzero"`
	Priority  string `json:"priority,omitzero"` // of the new messages; low
	DryRun    bool   `json:"dry_run,omitzero"`  // only count
	Limit     int    `json:"limit,omitzero"`    // 1–1,000; 0: 100
	Cursor    string `json:"cursor,omitzero"`   // NextCursor of the step before
}

// RequeueAnswer says what a step has done.
type RequeueAnswer struct {
	Matched    int             `json:"matched"`  // by the filter, or of the ids
	Requeued   int             `json:"requeued"` // accepted anew now
	Repeated   int             `json:"repeated"` // accepted anew before
	Refused    []RequeueFailed `json:"refused,omitzero"`
	HasMore    bool            `json:"has_more"`
	NextCursor string          `json:"next_cursor,omitzero"`
}

// RequeueFailed is a message that could not be requeued, and why.
type RequeueFailed struct {
	ID   message.ID `json:"id"`
	Code string     `json:"code"` // not_found, not_failed
}

const (
	defaultRequeue = 100
	maxRequeue     = 1000
)

func (h *Handler) life() (Life, error) {
	if h.cfg.Life == nil {
		return nil, Refuse(CodeUnavailable, "this appliance changes no messages")
	}
	return h.cfg.Life, nil
}

func (h *Handler) cancelMessage(x *exchange) error {
	life, err := h.life()
	if err != nil {
		return err
	}
	id, err := message.ParseID(x.param("message"))
	if err != nil {
		return ErrNotFound // an id that we cannot have issued
	}
	x.note("message", id)
	r, err := life.Cancel(x.r.Context(), id)
	if err != nil {
		return err
	}
	return h.answerMessage(x, &r)
}

// postMessages serves what is posted to a word below /messages: httprouter cannot
// have the word beside the ids.
func (h *Handler) postMessages(x *exchange) error {
	if x.param("message") != "requeue" {
		return Refuse(CodeNotFound, "there is nothing at this path")
	}
	life, err := h.life()
	if err != nil {
		return err
	}
	var order RequeueOrder
	if err := x.decode(&order); err != nil {
		return err
	}
	if err := order.check(); err != nil {
		return err
	}
	answer, err := life.Requeue(x.r.Context(), order)
	if err != nil {
		return err
	}
	x.note("dry_run", order.DryRun)
	x.note("requeued", answer.Requeued)
	return x.answer(http.StatusOK, answer)
}

// check names what is wrong with an order, and fills in its defaults.
func (o *RequeueOrder) check() error {
	var broken []FieldProblem
	bad := func(field, rule string) {
		broken = append(broken, FieldProblem{Pointer: "#/" + field, Detail: rule})
	}
	if o.Limit == 0 {
		o.Limit = defaultRequeue
	}
	if o.Limit < 1 || o.Limit > maxRequeue {
		bad("limit", fmt.Sprintf("must be 1 to %d", maxRequeue))
	}
	if len(o.IDs) > maxRequeue {
		bad("ids", fmt.Sprintf("must be %d at most", maxRequeue))
	}
	if len(o.IDs) > 0 && (o.Status != "" || o.Channel != "" || o.Account != "" || !o.Since.IsZero() || !o.Until.IsZero() || o.Cursor != "") {
		bad("ids", "cannot be there beside a filter")
	}
	if o.Status == "" {
		o.Status = message.Failed.String()
	}
	if s, ok := message.ParseStatus(o.Status); !ok || !s.Requeueable() {
		bad("status", "must be failed, undelivered, rejected or expired")
	}
	if _, ok := message.ParseChannel(o.Channel); o.Channel != "" && !ok {
		bad("channel", "must be store, whatsapp, email or webhook")
	}
	if o.Priority == "" {
		o.Priority = message.Low.String()
	}
	if _, ok := message.ParsePriority(o.Priority); !ok {
		bad("priority", "must be critical, high, normal or low")
	}
	if _, err := message.ParseID(o.Cursor); o.Cursor != "" && err != nil {
		bad("cursor", "is not one that an answer had")
	}
	if len(broken) > 0 {
		return Refuse(CodeInvalid, "the order is not valid", broken...)
	}
	return nil
}

// Usage is the answer to GET /usage/ACCOUNT?month=2026-11.
type Usage struct {
	Account string       `json:"account"`
	Month   string       `json:"month"`
	Total   uint64       `json:"total"`
	Data    []UsageCount `json:"data"` // by day, channel and status
}

// UsageCount is one count of a Usage.
type UsageCount struct {
	Day     string `json:"day"`
	Channel string `json:"channel"`
	Status  string `json:"status"`
	Final   bool   `json:"final"`
	Count   uint64 `json:"count"`
}

func (h *Handler) usage(x *exchange) error {
	life, err := h.life()
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	if text := x.r.URL.Query().Get("month"); text != "" {
		if month, err = time.Parse("2006-01", text); err != nil || month.Year() < 2000 || month.Year() > 9998 {
			return Refuse(CodeInvalid, "the query is not valid", FieldProblem{Parameter: "month", Detail: "must be a month, such as 2026-11"})
		}
	}
	account := x.param("account")
	counts, err := life.Usage(x.r.Context(), message.UsageQuery{Account: account, From: month, To: month.AddDate(0, 1, 0)})
	if err != nil {
		return err
	}
	u := Usage{Account: account, Month: month.Format("2006-01"), Data: make([]UsageCount, 0, len(counts))}
	for _, c := range counts {
		u.Total += c.Count
		u.Data = append(u.Data, UsageCount{c.Day.Format(time.DateOnly), c.Channel.String(), c.Status.String(), c.Status.Final(), c.Count})
	}
	return x.answer(http.StatusOK, u)
}

// CancelMessage cancels a message and returns it.
func (c *Client) CancelMessage(ctx context.Context, id string) (m jsontext.Value, err error) {
	err = c.call(ctx, http.MethodPost, "/messages/"+url.PathEscape(id)+"/cancel", nil, &m)
	return m, err
}

// Requeue orders one step of a requeue.
func (c *Client) Requeue(ctx context.Context, order RequeueOrder) (a RequeueAnswer, err error) {
	err = c.call(ctx, http.MethodPost, "/messages/requeue", order, &a)
	return a, err
}

// Usage counts an account's messages of a month, such as 2026-11; empty: this one.
func (c *Client) Usage(ctx context.Context, account, month string) (u Usage, err error) {
	values := url.Values{}
	if month != "" {
		values.Set("month", month)
	}
	err = c.call(ctx, http.MethodGet, withQuery("/usage/"+url.PathEscape(account), values), nil, &u)
	return u, err
}
