package appliance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"forebay/httpapi"
	"forebay/raftstate"
	"forebay/sink"
	"forebay/wal"
	"forebay/wal/message"
)

// A message is in the log of the node that its id names until it is in the
// store, and of stores some are that node's alone. So each node answers the
// others for its own messages.

const (
	callMessage = "message/get"
	// ownerLimit is how long another node gets to say what it knows of a message.
	ownerLimit = 3 * time.Second

	codeMessageUnknown = "no_message"
	codeMessageLater   = "message_unavailable"
)

type messageQuestion struct {
	ID    message.ID `json:"id"`
	Owner string     `json:"owner"` // the account that may see it; empty: an operator
}

// messageAnswer is a record in the encodings of the log.
type messageAnswer struct {
	ID      message.ID `json:"id"`
	Seq     uint64     `json:"seq"`
	Message []byte     `json:"message"`
	State   []byte     `json:"state"`
}

func answerOf(r *message.Record) messageAnswer {
	return messageAnswer{ID: r.ID, Seq: r.Seq, Message: r.Message.Append(nil), State: r.State.Append(nil)}
}

func (a *messageAnswer) record() (message.Record, error) {
	return message.Entry{ID: a.ID, Seq: a.Seq, Payload: a.Message, Progress: a.State}.Record()
}

func encodeAnswer(r *message.Record) ([]byte, error) { return json.Marshal(answerOf(r)) }

// decodeAnswer reads what the node of a message's id answers.
func decodeAnswer(id message.ID, text []byte) (message.Record, error) {
	var a messageAnswer
	if err := json.Unmarshal(text, &a); err != nil {
		return message.Record{}, fmt.Errorf("read answer of node %d: %w", id.Node(), err)
	}
	a.ID = id
	return a.record()
}

// answerPeers registers what other nodes may ask of this one.
func (a *Appliance) answerPeers() {
	a.group.Handle(callMessage, func(ctx context.Context, _ uint16, body []byte) ([]byte, error) {
		var q messageQuestion
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, fmt.Errorf("read question: %w", err)
		}
		r, err := (*messages)(a).here(ctx, q.Owner, q.ID)
		switch {
		case errors.Is(err, httpapi.ErrNotFound):
			return nil, &raftstate.CallError{Code: codeMessageUnknown, Detail: "there is no such message"}
		case err != nil:
			return nil, &raftstate.CallError{Code: codeMessageLater, Detail: err.Error()}
		}
		return encodeAnswer(&r)
	})
}

// askOwner asks the node that a message's id names, by the path of one of its
// handlers. The error is ErrNotFound where no node of the group has that number,
// and ErrAway where the node does not answer, or not yet; a *raftstate.CallError is
// the node's own.
func (a *Appliance) askOwner(ctx context.Context, id message.ID, path string, question any) ([]byte, error) {
	member := func(m raftstate.Member) bool { return m.Node == id.Node() }
	if !slices.ContainsFunc(a.group.Status().Members, member) {
		return nil, httpapi.ErrNotFound
	}
	body, err := json.Marshal(question)
	if err != nil {
		return nil, fmt.Errorf("encode question: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, ownerLimit)
	defer cancel()
	answer, err := a.group.Call(ctx, id.Node(), path, body)
	refusal, _ := errors.AsType[*raftstate.CallError](err)
	if errors.Is(err, raftstate.ErrUnreachable) || refusal != nil && refusal.Code == raftstate.CodeUnknownCall {
		return nil, fmt.Errorf("message of node %d: %w: %w", id.Node(), httpapi.ErrAway, err)
	}
	return answer, err
}

// there is what the node of a message's id knows of it.
func (m *messages) there(ctx context.Context, owner string, id message.ID) (message.Record, error) {
	text, err := (*Appliance)(m).askOwner(ctx, id, callMessage, messageQuestion{ID: id, Owner: owner})
	if refusal, ok := errors.AsType[*raftstate.CallError](err); ok {
		if refusal.Code == codeMessageUnknown {
			return message.Record{}, httpapi.ErrNotFound
		}
		return message.Record{}, fmt.Errorf("%w: %w", httpapi.ErrUnavailable, err)
	}
	if err != nil {
		return message.Record{}, err
	}
	return decodeAnswer(id, text)
}

// here is what this node knows: first its log, then the store. In this order,
// for a message leaves the log only after it is in the store.
func (m *messages) here(ctx context.Context, owner string, id message.ID) (message.Record, error) {
	if id.Node() == m.cfg.Node {
		r, err := m.inLog(id)
		if err == nil && owner != "" && r.Account != owner {
			return message.Record{}, httpapi.ErrNotFound
		}
		if !errors.Is(err, wal.ErrNotFound) {
			return r, err
		}
	}
	r, err := m.store.Get(ctx, owner, id)
	return r, fromStore(err)
}

// inLog is what this node knows of a message that it has in its log;
// wal.ErrNotFound.
func (m *messages) inLog(id message.ID) (message.Record, error) {
	entry, err := m.log.Lookup(id)
	now, held := m.dispatcher.Holds(id)
	if err == nil && !held {
		entry, err = m.log.Lookup(id) // it may have come to its end in between
	}
	if err != nil {
		return message.Record{}, err
	}
	r, err := entry.Record()
	if err != nil {
		return message.Record{}, err
	}
	if held && r.Status.CanReach(now.Status) { // the log learns it with the next record
		r.Status, r.HoldReason, r.NextAttemptAt = now.Status, now.HoldReason, now.NextAttemptAt
	}
	if r.Status == message.Accepted && r.HoldReason == "" && !m.store.Health().Up {
		r.HoldReason = sink.HoldStoreDown // nobody writes it down of what is in memory
	}
	if held && r.StoredAt.IsZero() {
		r.StoredAt = now.StoredAt
	}
	r.State = r.Due(time.Now())
	return r, nil
}

// Get finds a message wherever it is. What the store says is final is final; of
// anything else the node that accepted it knows more, as long as it answers.
func (m *messages) Get(ctx context.Context, owner string, id message.ID) (message.Record, error) {
	r, err := m.here(ctx, owner, id)
	if id.Node() == m.cfg.Node || err == nil && r.Status.Final() {
		return r, err
	}
	if err != nil && !errors.Is(err, httpapi.ErrNotFound) && !errors.Is(err, httpapi.ErrUnavailable) {
		return r, err
	}
	theirs, askErr := m.there(ctx, owner, id)
	switch {
	case askErr == nil:
		return theirs, nil
	case err == nil:
		return r, nil // as the store has it
	case errors.Is(askErr, httpapi.ErrNotFound):
		return r, err // so says the store, or it cannot say
	}
	return r, askErr
}
