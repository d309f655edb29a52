package appliance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"forebay/httpapi"
	"forebay/httpapi/admin"
	"forebay/raftstate"
	"forebay/sink"
	"forebay/wal/message"
)

// This file wires what may be done to a message after it was accepted: cancel,
// requeue and counting.

// life is that side of the appliance for its users.
type life Appliance

// cancelLimit is how long another node gets to decide a cancel.
const cancelLimit = 5 * time.Second

const (
	callCancel      = "message/cancel"
	codeTooLate     = "too_late"
	codeNoMessage   = "no_message"
	codeCancelLater = "unavailable"
)

// answerCancels registers that other nodes may have messages of this one canceled:
// only the node that has a message in its log can decide that it will not be sent.
func (a *Appliance) answerCancels() {
	a.group.Handle(callCancel, func(ctx context.Context, _ uint16, body []byte) ([]byte, error) {
		var q struct {
			ID    message.ID `json:"id"`
			Owner string     `json:"owner"`
		}
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, fmt.Errorf("read cancel: %w", err)
		}
		r, err := (*life)(a).cancelHere(ctx, q.Owner, q.ID)
		switch {
		case errors.Is(err, httpapi.ErrNotCancelable):
			return nil, &raftstate.CallError{Code: codeTooLate, Detail: "it is too late to cancel the message"}
		case errors.Is(err, httpapi.ErrNotFound):
			return nil, &raftstate.CallError{Code: codeNoMessage, Detail: "there is no such message"}
		case err != nil:
			return nil, &raftstate.CallError{Code: codeCancelLater, Detail: err.Error()}
		}
		return encodeAnswer(&r)
	})
}

// Cancel implements httpapi.Life. The node that accepted the message decides. If
// that one is gone, a message that is final in the store can still be told about.
func (l *life) Cancel(ctx context.Context, owner string, id message.ID) (message.Record, error) {
	if id.Node() == l.cfg.Node {
		return l.cancelHere(ctx, owner, id)
	}
	question, err := json.Marshal(struct {
		ID    message.ID `json:"id"`
		Owner string     `json:"owner"`
	}{id, owner})
	if err != nil {
		return message.Record{}, fmt.Errorf("ask for a cancel: %w", err)
	}
	limited, cancel := context.WithTimeout(ctx, cancelLimit)
	defer cancel()
	answer, err := l.group.Call(limited, id.Node(), callCancel, question)
	if err == nil {
		return decodeAnswer(id, answer)
	}
	if refused, ok := errors.AsType[*raftstate.CallError](err); ok {
		switch refused.Code {
		case codeTooLate:
			return message.Record{}, httpapi.ErrNotCancelable
		case codeNoMessage:
			return message.Record{}, httpapi.ErrNotFound
		}
	}
	r, getErr := (*messages)(l).Get(ctx, owner, id)
	switch {
	case getErr != nil && !errors.Is(getErr, httpapi.ErrUnavailable):
		return message.Record{}, getErr
	case getErr == nil && r.Status == message.Canceled:
		return r, nil
	case getErr == nil && r.Final():
		return r, httpapi.ErrNotCancelable
	}
	return message.Record{}, fmt.Errorf("%w: ask node %d for a cancel: %w", httpapi.ErrUnavailable, id.Node(), err)
}

// cancelHere decides about a message that this node accepted.
func (l *life) cancelHere(ctx context.Context, owner string, id message.ID) (message.Record, error) {
	r, err := (*messages)(l).Get(ctx, owner, id) // also: is it the owner's?
	switch {
	case err != nil:
		return r, err
	case r.Status == message.Canceled:
		return r, nil
	case r.Final():
		return r, httpapi.ErrNotCancelable
	}
	r, err = l.dispatcher.Cancel(ctx, id)
	if errors.Is(err, sink.ErrTooLate) {
		return r, httpapi.ErrNotCancelable
	}
	return r, fromStore(err)
}

// requeueKey begins the idempotency keys of messages that are accepted anew. No
// client can send it: theirs are printable.
const requeueKey = "\x01requeue "

// Requeue implements httpapi.Life.
func (l *life) Requeue(ctx context.Context, owner string, id message.ID, priority message.Priority) (httpapi.Receipt, error) {
	r, err := (*messages)(l).Get(ctx, owner, id)
	if err != nil {
		return httpapi.Receipt{}, err
	}
	if !r.Status.Requeueable() {
		return httpapi.Receipt{}, httpapi.ErrNotFailed
	}
	m := r.Message
	m.Priority, m.SendAt, m.RequeueOf = priority, time.Time{}, id
	m.IdempotencyKey = requeueKey + id.String()
	m.Fingerprint = message.Fingerprint(id) // whatever the priority: the same failed message is the same order
	receipt, err := logAdapter{l.log}.Append(ctx, &m)
	if err == nil && !receipt.Replayed {
		l.api.AcceptedAnew(&m)
	}
	return receipt, err
}

// Usage implements httpapi.Life.
func (l *life) Usage(ctx context.Context, q message.UsageQuery) ([]message.UsageCount, error) {
	counts, err := l.store.Usage(ctx, q)
	return counts, fromStore(err)
}

// operatorLife is life as operators see it: of every account.
type operatorLife Appliance

// Cancel implements admin.Life.
func (l *operatorLife) Cancel(ctx context.Context, id message.ID) (message.Record, error) {
	r, err := (*life)(l).Cancel(ctx, "", id)
	if errors.Is(err, httpapi.ErrNotCancelable) {
		err = admin.Refuse(admin.CodeNotCancelable, "the message is being sent, or has come to its end")
	}
	return r, forOperators(err)
}

// Usage implements admin.Life.
func (l *operatorLife) Usage(ctx context.Context, q message.UsageQuery) ([]message.UsageCount, error) {
	counts, err := (*life)(l).Usage(ctx, q)
	return counts, forOperators(err)
}

// Requeue implements admin.Life.
func (l *operatorLife) Requeue(ctx context.Context, order admin.RequeueOrder) (answer admin.RequeueAnswer, err error) {
	ids := order.IDs
	if len(ids) == 0 {
		q := message.Query{Account: order.Account, AcceptedAfter: order.Since, AcceptedBefore: order.Until, Limit: order.Limit}
		q.Status, _ = message.ParseStatus(order.Status)
		q.Channel, _ = message.ParseChannel(order.Channel)
		if order.Cursor != "" {
			q.Before, _ = message.ParseID(order.Cursor)
		}
		page, err := l.store.List(ctx, q)
		if err != nil {
			return answer, forOperators(fromStore(err))
		}
		for _, r := range page.Records {
			if order.Callbacks || !r.Callback {
				ids = append(ids, r.ID)
			}
		}
		if n := len(page.Records); page.More && n > 0 {
			answer.HasMore, answer.NextCursor = true, page.Records[n-1].ID.String()
		}
	}
	answer.Matched = len(ids)
	if order.DryRun && len(order.IDs) == 0 {
		return answer, nil
	}
	priority, _ := message.ParsePriority(order.Priority)
	for _, id := range ids {
		if order.DryRun {
			err = l.mayRequeue(ctx, id)
		} else {
			var receipt httpapi.Receipt
			if receipt, err = (*life)(l).Requeue(ctx, "", id, priority); err == nil && receipt.Replayed {
				answer.Repeated++
			} else if err == nil {
				answer.Requeued++
			}
		}
		switch {
		case errors.Is(err, httpapi.ErrNotFound):
			answer.Refused = append(answer.Refused, admin.RequeueFailed{ID: id, Code: "not_found"})
		case errors.Is(err, httpapi.ErrNotFailed):
			answer.Refused = append(answer.Refused, admin.RequeueFailed{ID: id, Code: "not_failed"})
		case errors.Is(err, httpapi.ErrStorageFull), errors.Is(err, httpapi.ErrDraining):
			return answer, fmt.Errorf("%w: %w", admin.Refuse(admin.CodeUnavailable, "the log takes nothing now; what was requeued so far is repeated harmlessly"), err)
		case err != nil:
			return answer, forOperators(err)
		}
	}
	if order.DryRun {
		answer.Matched -= len(answer.Refused)
	}
	return answer, nil
}

func (l *operatorLife) mayRequeue(ctx context.Context, id message.ID) error {
	r, err := (*messages)(l).Get(ctx, "", id)
	if err == nil && !r.Status.Requeueable() {
		err = httpapi.ErrNotFailed
	}
	return err
}
