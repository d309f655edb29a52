package admin

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"forebay/wal/message"
)

const (
	defaultLimit = 20
	maxLimit     = 100
)

func (h *Handler) listAccounts(x *exchange) error {
	list, err := h.cfg.Accounts.Accounts(x.r.Context())
	if err != nil {
		return err
	}
	return x.answer(http.StatusOK, AccountList{Data: list})
}

func (h *Handler) showAccount(x *exchange) error {
	a, err := h.cfg.Accounts.Account(x.r.Context(), x.param("account"))
	if err != nil {
		return err
	}
	return x.answer(http.StatusOK, a)
}

func (h *Handler) createAccount(x *exchange) error {
	var body CreateAccount
	if err := x.decode(&body); err != nil {
		return err
	}
	x.note("account", body.ID)
	x.note("tier", body.Tier)
	a, err := h.cfg.Accounts.CreateAccount(x.r.Context(), body)
	if err != nil {
		return err
	}
	x.w.Header().Set("Location", "/admin/v1/accounts/"+a.ID)
	return x.answer(http.StatusCreated, a)
}

func (h *Handler) patchAccount(x *exchange) error {
	x.note("account", x.param("account"))
	var body PatchAccount
	if err := x.decode(&body); err != nil {
		return err
	}
	if body == (PatchAccount{}) {
		return Refuse(CodeInvalid, "there is nothing to change in the body")
	}
	if body.Tier != nil {
		x.note("tier", *body.Tier)
	}
	if body.Suspended != nil {
		x.note("suspended", *body.Suspended)
	}
	if body.Name != nil {
		x.note("name_changed", true)
	}
	if body.CallbackURL != nil {
		x.note("callback_url_changed", true)
	}
	a, err := h.cfg.Accounts.PatchAccount(x.r.Context(), x.param("account"), body)
	if err != nil {
		return err
	}
	return x.answer(http.StatusOK, a)
}

func (h *Handler) deleteAccount(x *exchange) error {
	x.note("account", x.param("account"))
	if err := h.cfg.Accounts.DeleteAccount(x.r.Context(), x.param("account")); err != nil {
		return err
	}
	x.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *Handler) listKeys(x *exchange) error {
	list, err := h.cfg.Accounts.Keys(x.r.Context(), x.param("account"))
	if err != nil {
		return err
	}
	return x.answer(http.StatusOK, KeyList{Data: list})
}

func (h *Handler) createKey(x *exchange) error {
	x.note("account", x.param("account"))
	var body CreateKey
	if err := x.decode(&body); err != nil {
		return err
	}
	k, err := h.cfg.Accounts.CreateKey(x.r.Context(), x.param("account"), body)
	if err != nil {
		return err
	}
	x.note("key", k.ID)
	x.note("test", k.Test)
	return x.answer(http.StatusCreated, k)
}

func (h *Handler) revokeKey(x *exchange) error {
	x.note("key", x.param("key"))
	k, err := h.cfg.Accounts.RevokeKey(x.r.Context(), x.param("account"), x.param("key"))
	if err != nil {
		return err
	}
	x.note("account", k.Account)
	return x.answer(http.StatusOK, k)
}

// messageView is a message as its sender sees it, after what only operators see.
type messageView struct {
	Account string         `json:"account"`
	Node    uint16         `json:"node"`
	Seq     uint64         `json:"seq"`
	Test    bool           `json:"test,omitzero"`
	Message jsontext.Value `json:",embed"`
}

func (h *Handler) view(r *message.Record) (messageView, error) {
	rendered, err := json.Marshal(h.cfg.Render(r), json.Deterministic(true))
	if err != nil {
		return messageView{}, fmt.Errorf("render message %s: %w", r.ID, err)
	}
	return messageView{Account: r.Account, Node: r.ID.Node(), Seq: r.Seq, Test: r.Test, Message: rendered}, nil
}

func (h *Handler) showMessage(x *exchange) error {
	id, err := message.ParseID(x.param("message"))
	if err != nil {
		return ErrNotFound // an id that we cannot have issued
	}
	r, err := h.cfg.Messages.Get(x.r.Context(), id)
	if err != nil {
		return err
	}
	return h.answerMessage(x, &r)
}

func (h *Handler) answerMessage(x *exchange, r *message.Record) error {
	v, err := h.view(r)
	if err != nil {
		return err
	}
	return x.answer(http.StatusOK, v)
}

func (h *Handler) listMessages(x *exchange) error {
	q, err := messageQuery(x.r)
	if err != nil {
		return err
	}
	page, err := h.cfg.Messages.List(x.r.Context(), q)
	if err != nil {
		return err
	}
	answer := struct {
		Data       []messageView `json:"data"`
		HasMore    bool          `json:"has_more"`
		NextCursor string        `json:"next_cursor,omitzero"`
	}{HasMore: page.More}
	for i := range page.Records {
		v, err := h.view(&page.Records[i])
		if err != nil {
			return err
		}
		answer.Data = append(answer.Data, v)
	}
	if n := len(page.Records); page.More && n > 0 {
		answer.NextCursor = page.Records[n-1].ID.String()
	}
	return x.answer(http.StatusOK, answer)
}

// messageQuery reads the query string; every broken part is named.
func messageQuery(r *http.Request) (message.Query, error) {
	q := message.Query{Limit: defaultLimit}
	var broken []FieldProblem
	for name, values := range r.URL.Query() {
		ok, v := len(values) == 1, values[0]
		switch name {
		case "account":
			q.Account = v
		case "to":
			q.To = v
		case "client_ref":
			q.ClientRef = v
		case "status":
			var known bool
			q.Status, known = message.ParseStatus(v)
			ok = ok && known
		case "channel":
			var known bool
			q.Channel, known = message.ParseChannel(v)
			ok = ok && known
		case "accepted_after":
			t, err := time.Parse(time.RFC3339, v)
			q.AcceptedAfter, ok = t, ok && err == nil
		case "accepted_before":
			t, err := time.Parse(time.RFC3339, v)
			q.AcceptedBefore, ok = t, ok && err == nil
		case "limit":
			n, err := strconv.Atoi(v)
			q.Limit, ok = n, ok && err == nil && n >= 1 && n <= maxLimit
		case "cursor":
			id, err := message.ParseID(v)
			q.Before, ok = id, ok && err == nil
		default:
			ok = false
		}
		if !ok {
			broken = append(broken, FieldProblem{Parameter: name, Detail: "is not known, there twice, or not one of the values it can have"})
		}
	}
	if len(broken) > 0 {
		slices.SortFunc(broken, func(a, b FieldProblem) int { return cmp.Compare(a.Parameter, b.Parameter) })
		return q, Refuse(CodeInvalid, "the query is not valid", broken...)
	}
	return q, nil
}

func (h *Handler) audit(x *exchange) error {
	var since time.Time
	if v := x.r.URL.Query().Get("since"); v != "" {
		var err error
		if since, err = time.Parse(time.RFC3339, v); err != nil {
			return Refuse(CodeInvalid, "the query is not valid", FieldProblem{Parameter: "since", Detail: "must be an RFC 3339 time"})
		}
	}
	a, err := h.cfg.Audit(x.r.Context(), since)
	if err != nil {
		return err
	}
	return x.answer(http.StatusOK, a)
}

func (h *Handler) status(x *exchange) error { return x.answer(http.StatusOK, h.cfg.Status()) }

func (h *Handler) drain(x *exchange) error {
	h.cfg.Drain()
	x.w.WriteHeader(http.StatusAccepted)
	return nil
}

// backup streams. Its answer begins with its first byte, so an appliance that
// cannot even start one says so; later the connection is cut.
func (h *Handler) backup(x *exchange) error {
	w := &stream{x: x}
	if err := h.cfg.Backup(x.r.Context(), w); err != nil {
		return err
	}
	h.log.InfoContext(x.r.Context(), "admin: backup written", "actor", x.actor, "bytes", w.n, "request_id", x.id)
	return nil
}

// stream gives each piece its own time: a long answer is fine, a stuck reader is
// not.
type stream struct {
	x *exchange
	n int64
}

func (s *stream) Write(p []byte) (int, error) {
	s.x.begin("application/octet-stream")
	n, err := s.x.w.Write(p)
	s.n += int64(n)
	return n, err
}
