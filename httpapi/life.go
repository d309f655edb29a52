package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"forebay/wal/message"
)

// Life changes what becomes of messages that were accepted.
type Life interface {
	// Cancel ends a message of account that is not being sent yet, once and for
	// all, and returns it as it then stands; what is canceled already is no
	// error. ErrNotFound also when it belongs to another account;
	// ErrNotCancelable when it is too late; ErrUnavailable.
	Cancel(ctx context.Context, account string, id message.ID) (message.Record, error)

	// Find returns up to limit messages of account with this client_ref that have
	// not come to their end, newest first, whether or not the store has them yet.
	// With an error, an ErrUnavailable, they are those of the nodes that answered.
	Find(ctx context.Context, account, clientRef string, limit int) ([]message.ID, error)

	// Requeue accepts a failed message of account anew, as a message of its own
	// with this priority. Repeating it gives the same new message. ErrNotFound;
	// ErrNotFailed; the errors of Log.
	Requeue(ctx context.Context, account string, id message.ID, priority message.Priority) (Receipt, error)

	// Usage counts an account's messages.
	Usage(ctx context.Context, q message.UsageQuery) ([]message.UsageCount, error)
}

// The errors of Life, beside those of the other interfaces.
var (
	ErrNotCancelable = errors.New("too late to cancel")
	ErrNotFailed     = errors.New("the message has not failed")
)

var errNoLife = fmt.Errorf("%w: no part of this appliance changes messages", ErrUnavailable)

// change begins an exchange that changes a message: the account and the part that
// does it.
func (a *API) change(x *exchange) (Principal, error) {
	if a.draining() {
		return Principal{}, ErrDraining
	}
	who, err := a.authenticate(x)
	if err != nil {
		return who, err
	}
	if p := checkAccept(x.r.Header, typeJSON); p != nil {
		return who, p
	}
	if a.cfg.Life == nil {
		return who, errNoLife
	}
	return who, nil
}

// cancel answers POST /v1/messages/{id}/cancel.
func (a *API) cancel(x *exchange) error {
	who, err := a.change(x)
	if err != nil {
		return err
	}
	id, err := message.ParseID(x.params.ByName("id"))
	if err != nil {
		return ErrNotFound // what is no id of ours names no message
	}
	record, err := a.cfg.Life.Cancel(x.r.Context(), who.Account, id)
	if err != nil {
		return fmt.Errorf("cancel message %s: %w", id, err)
	}
	return x.writeJSON(ViewOf(&record))
}

// Canceled is the answer to POST /v1/messages/cancel: what is canceled, now or
// before, newest first.
type Canceled struct {
	Canceled int    `json:"canceled"`
	Data     []View `json:"data"`
	HasMore  bool   `json:"has_more"` // there are older ones with the reference, at which nobody has looked
	// Incomplete: a node or the database did not answer; there may be more.
	Incomplete bool `json:"incomplete,omitzero"`
}

// byRefAtOnce is how many messages with one client_ref are looked up at a time,
// and maxByRef how many in all.
const (
	byRefAtOnce = 100
	maxByRef    = 1000
)

// cancelByRef answers POST /v1/messages/cancel?client_ref=…: every message with
// the reference that can still be canceled is. It is a refusal only if none can.
func (a *API) cancelByRef(x *exchange) error {
	who, err := a.change(x)
	if err != nil {
		return err
	}
	ref, p := soleParameter(x.r.URL.RawQuery, "client_ref")
	if p != nil {
		return p
	}
	found, err := a.byRef(x, who.Account, ref)
	if err != nil {
		return err
	}
	answer := Canceled{Data: []View{}, HasMore: found.more, Incomplete: found.away != nil}
	for _, id := range found.ids {
		record, err := a.cfg.Life.Cancel(x.r.Context(), who.Account, id)
		switch {
		case err == nil:
			answer.Data = append(answer.Data, ViewOf(&record))
		case errors.Is(err, ErrAway):
			answer.Incomplete, found.away = true, err
		case !errors.Is(err, ErrNotCancelable) && !errors.Is(err, ErrNotFound):
			return fmt.Errorf("cancel message %s: %w", id, err)
		}
	}
	switch answer.Canceled = len(answer.Data); {
	case answer.Canceled > 0:
		return x.writeJSON(answer)
	case found.away != nil: // there it may be
		return fmt.Errorf("find messages to cancel: %w", found.away)
	}
	return ErrNotCancelable
}

// referred are messages with a reference.
type referred struct {
	ids  []message.ID
	more bool  // there are others
	away error // not nil: a node or the store did not answer, and may know others
}

// byRef finds the messages with a reference: those that have not come to their end,
// which the logs know, and the newest of those that have, which the store knows.
func (a *API) byRef(x *exchange, account, ref string) (found referred, err error) {
	// First the logs: what leaves one meanwhile is then in the store.
	found.ids, found.away = a.cfg.Life.Find(x.r.Context(), account, ref, maxByRef)
	if found.away != nil && !errors.Is(found.away, ErrUnavailable) {
		return found, fmt.Errorf("find messages to cancel: %w", found.away)
	}
	known := make(map[message.ID]bool, len(found.ids))
	for _, id := range found.ids {
		known[id] = true
	}
	query := message.Query{Account: account, ClientRef: ref, Limit: byRefAtOnce}
	for looked := 0; ; {
		page, err := a.cfg.Messages.List(x.r.Context(), query)
		if err != nil {
			if len(known) == 0 || !errors.Is(err, ErrUnavailable) {
				return found, fmt.Errorf("find messages to cancel: %w", err)
			}
			found.away = errors.Join(found.away, err)
			return found, nil
		}
		for i := range page.Records {
			if id := page.Records[i].ID; !known[id] {
				found.ids = append(found.ids, id)
			}
		}
		n := len(page.Records)
		if looked += n; !page.More || n == 0 || looked >= maxByRef {
			found.more = page.More && n > 0
			break
		}
		query.Before = page.Records[n-1].ID
	}
	if len(found.ids) == 0 && found.away == nil {
		return found, ErrNotFound
	}
	return found, nil
}

// soleParameter reads a query string that must have one parameter of that name
// and nothing else.
func soleParameter(raw, name string) (string, *Problem) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return "", malformed("The query string cannot be read.")
	}
	for other := range values {
		if other != name {
			p := malformed("The query string has a parameter that is not known.")
			p.Errors = []FieldError{{Parameter: other, Detail: "is not " + name}}
			return "", p
		}
	}
	if len(values[name]) != 1 || !filterText(values[name][0]) {
		return "", &Problem{Code: CodeInvalid, Detail: "A parameter breaks its rule.",
			Errors: []FieldError{{Parameter: name, Detail: "must be there once, as text in UTF-8, not empty, without U+0000"}}}
	}
	return values[name][0], nil
}

// requeue answers POST /v1/messages/{id}/requeue?priority=low: 202 with the new
// message, or the same again.
func (a *API) requeue(x *exchange) error {
	who, err := a.change(x)
	if err != nil {
		return err
	}
	id, err := message.ParseID(x.params.ByName("id"))
	if err != nil {
		return ErrNotFound
	}
	priority := message.Low
	if x.r.URL.RawQuery != "" {
		name, p := soleParameter(x.r.URL.RawQuery, "priority")
		if p != nil {
			return p
		}
		var ok bool
		if priority, ok = message.ParsePriority(name); !ok {
			return &Problem{Code: CodeInvalid, Detail: "A parameter breaks its rule.",
				Errors: []FieldError{{Parameter: "priority", Detail: "must be critical, high, normal or low"}}}
		}
	}
	pass, err := a.enterRequeue(x, &who, priority)
	if err != nil {
		return err
	}
	defer leave(pass)
	receipt, err := a.requeueOne(x, pass, id, priority)
	if err != nil {
		return err
	}
	h := x.w.Header()
	if receipt.Replayed {
		h["Idempotent-Replayed"] = valuesReplayed
	}
	x.setValue(valueLocation, "Location", locationPrefix+receipt.ID.String())
	return x.writeJSONStatus(http.StatusAccepted, struct {
		ID         message.ID `json:"id"`
		Status     string     `json:"status"`
		AcceptedAt Timestamp  `json:"accepted_at"`
		RequeueOf  message.ID `json:"requeue_of"`
	}{receipt.ID, message.Accepted.String(), Timestamp{receipt.ID.Time()}, id})
}

// monthOf reads a month as clients write it, 2026-11; empty: now's.
func monthOf(text string, now time.Time) (from, to time.Time, ok bool) {
	from = time.Date(now.UTC().Year(), now.UTC().Month(), 1, 0, 0, 0, 0, time.UTC)
	if text != "" {
		var err error
		if from, err = time.Parse("2006-01", text); err != nil || from.Year() < 2000 || from.Year() > 9998 {
			return from, to, false
		}
	}
	return from, from.AddDate(0, 1, 0), true
}
