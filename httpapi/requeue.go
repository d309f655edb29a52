package httpapi

import (
	"errors"
	"fmt"
	"net/url"

	"forebay/wal/message"
)

const (
	defaultRequeue = 100
	countAtOnce    = 1000   // messages that a dry run reads at a time
	maxCounted     = 10_000 // and in all
)

// Requeued is the answer to POST /v1/messages/requeue. Each request is one step of
// the work, and each message that it accepts counts against the account's limits,
// which bounds the rate; the cursor leads to the next step.
type Requeued struct {
	DryRun     bool   `json:"dry_run"`
	Matched    int    `json:"matched"`  // by the filter; of a dry run all, up to 10,000
	Requeued   int    `json:"requeued"` // accepted anew now
	Repeated   int    `json:"repeated"` // accepted anew before
	HasMore    bool   `json:"has_more"`
	NextCursor string `json:"next_cursor,omitzero"` // with HasMore
	// RetryAfterSeconds is there when a limit ended the step early: how long the
	// next one should wait.
	RetryAfterSeconds int64 `json:"retry_after_seconds,omitzero"`
}

// requeueByFilter answers POST /v1/messages/requeue?channel=&accepted_after=…: up
// to limit of the account's messages that ended badly are accepted anew, newest
// first. Its callbacks are not among them. Repeating a step is harmless.
func (a *API) requeueByFilter(x *exchange) error {
	who, err := a.change(x)
	if err != nil {
		return err
	}
	if p := a.spare(x); p != nil {
		return p
	}
	query, priority, dry, p := requeueParameters(who.Account, x.r.URL.RawQuery)
	if p != nil {
		return p
	}
	if dry {
		return a.countFailed(x, query)
	}
	pass, err := a.enterRequeue(x, &who, priority)
	if err != nil {
		return err
	}
	defer leave(pass)
	page, err := a.cfg.Messages.List(x.r.Context(), query)
	if err != nil {
		return fmt.Errorf("find messages to requeue: %w", err)
	}
	answer := Requeued{HasMore: page.More && len(page.Records) > 0}
	if answer.HasMore {
		answer.NextCursor = cursor(&query, page.Records[len(page.Records)-1].ID)
	}
	for i := range page.Records {
		if page.Records[i].Callback {
			continue
		}
		receipt, err := a.requeueOne(x, pass, page.Records[i].ID, priority)
		limit, limited := errors.AsType[*Problem](err)
		switch {
		case errors.Is(err, ErrNotFailed), errors.Is(err, ErrNotFound): // since it was listed: nothing to do
		case limited && answer.Matched > 0: // the step ends before this one
			answer.HasMore, answer.NextCursor, answer.RetryAfterSeconds = true, cursor(&query, page.Records[i-1].ID), seconds(limit.RetryAfter)
			return x.writeJSON(answer)
		case err != nil:
			return err
		case receipt.Replayed:
			answer.Repeated++
		default:
			answer.Requeued++
		}
		answer.Matched++
	}
	return x.writeJSON(answer)
}

// countFailed answers a dry run.
func (a *API) countFailed(x *exchange, query message.Query) error {
	answer := Requeued{DryRun: true}
	query.Limit = countAtOnce
	for read := 0; ; {
		page, err := a.cfg.Messages.List(x.r.Context(), query)
		if err != nil {
			return fmt.Errorf("count messages to requeue: %w", err)
		}
		for i := range page.Records {
			if !page.Records[i].Callback {
				answer.Matched++
			}
		}
		n := len(page.Records)
		if read += n; !page.More || n == 0 {
			return x.writeJSON(answer)
		}
		query.Before = page.Records[n-1].ID
		if read >= maxCounted {
			answer.HasMore, answer.NextCursor = true, cursor(&query, query.Before)
			return x.writeJSON(answer)
		}
	}
}

// enterRequeue lets a request in that accepts messages anew: as any other, they
// give way under pressure and count against the plan. Who calls it must leave the
// pass, if there is one.
func (a *API) enterRequeue(x *exchange, who *Principal, priority message.Priority) (Pass, error) {
	a.pressed(x)
	if p := a.shedByPriority(x.r.Context(), &message.Message{Priority: priority}); p != nil {
		return nil, p
	}
	return a.enter(x, who)
}

// requeueOne accepts a message of the exchange's account anew.
func (a *API) requeueOne(x *exchange, pass Pass, id message.ID, priority message.Priority) (receipt Receipt, err error) {
	admitted, err := a.admit(x, pass)
	if err != nil {
		return Receipt{}, err
	}
	defer func() { a.settle(x, pass, admitted, receipt.Replayed, err) }() // after a panic, too: as spent
	if receipt, err = a.cfg.Life.Requeue(x.r.Context(), x.account, id, priority); err != nil {
		return Receipt{}, fmt.Errorf("requeue message %s: %w", id, err)
	}
	return receipt, nil
}

// requeueParameters reads a list's parameters, and those that only this has.
func requeueParameters(account, raw string) (q message.Query, priority message.Priority, dry bool, p *Problem) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return q, 0, false, malformed("The query string cannot be read.")
	}
	var wrong []FieldError
	take := func(name, otherwise string, accept func(string) bool, rule string) {
		v := values[name]
		if len(v) == 0 {
			v = []string{otherwise}
		}
		if len(v) > 1 || !accept(v[0]) {
			wrong = append(wrong, FieldError{Parameter: name, Detail: rule})
		}
	}
	take("dry_run", "false", func(s string) bool { dry = s == "true"; return dry || s == "false" }, "must be true or false, once")
	take("priority", message.Low.String(), func(s string) (ok bool) { priority, ok = message.ParsePriority(s); return ok },
		"must be critical, high, normal or low, once")
	take("status", message.Failed.String(), func(s string) bool { status, ok := message.ParseStatus(s); return ok && status.Requeueable() },
		"must be failed, undelivered, rejected or expired, once")
	if len(wrong) > 0 {
		return q, 0, false, &Problem{Code: CodeInvalid, Detail: "Parameters break rules.", Errors: wrong}
	}
	values.Del("dry_run")
	values.Del("priority")
	for name, otherwise := range map[string]string{"status": message.Failed.String(), "limit": fmt.Sprint(defaultRequeue)} {
		if !values.Has(name) {
			values.Set(name, otherwise)
		}
	}
	q, p = parseQuery(account, values.Encode())
	return q, priority, dry, p
}
