package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"forebay/wal/message"
)

const locationPrefix = "/v1/messages/"

// submit takes one message: POST /v1/messages.
func (a *API) submit(x *exchange) error {
	from, pass, err := a.letIn(x, typeJSON)
	if err != nil {
		return err
	}
	defer leave(pass)
	receipt, err := a.take(x, pass, &from)
	if err != nil {
		return err
	}
	a.answer(x, receipt)
	return nil
}

// letIn makes the checks of a submission that need no body, in the order of the
// package comment, and counts the request among the account's. kind is the type
// of the body and of the answer. Who calls it must leave the pass, if there is one.
func (a *API) letIn(x *exchange, kind string) (from origin, pass Pass, err error) {
	if a.draining() {
		return from, nil, drainingProblem()
	}
	if from.who, err = a.authenticate(x); err != nil {
		return from, nil, err
	}
	h := x.r.Header
	if p := checkAccept(h, kind); p != nil {
		return from, nil, p
	}
	if p := checkContentType(h, kind); p != nil {
		return from, nil, p
	}
	var p *Problem
	if from.key, p = idempotencyKey(h); p != nil {
		return from, nil, p
	}
	if p := a.refuseUnread(x); p != nil {
		return from, nil, p
	}
	from.requestID, from.traceParent = x.requestID, traceParent(h)
	pass, err = a.enter(x, &from.who)
	return from, pass, err
}

// take brings the message from the wire into the log.
func (a *API) take(x *exchange, pass Pass, from *origin) (receipt Receipt, err error) {
	m := &x.message
	held, p := a.receive(x.r, m, &x.form)
	if p != nil {
		return Receipt{}, p
	}
	defer a.bodies.release(held)
	if p := a.complete(m, &x.form, from, x.start); p != nil {
		return Receipt{}, p
	}
	if p := a.shedByPriority(x.r.Context(), m); p != nil {
		return Receipt{}, p
	}
	admitted, err := a.admit(x, pass)
	if err != nil {
		return Receipt{}, err
	}
	defer func() { a.settle(x, pass, admitted, receipt.Replayed, err) }() // after a panic, too: as spent
	if receipt, err = a.cfg.Log.Append(x.r.Context(), m); err != nil {
		return Receipt{}, fmt.Errorf("append message: %w", err)
	}
	if !receipt.Replayed {
		a.metrics.accept(m, x.start)
	}
	return receipt, nil
}

// origin is what a message has from its request rather than from its body.
type origin struct {
	who         Principal
	key         string // idempotency key
	requestID   string
	traceParent string
}

// copies is how often a message that is being appended is in memory: as it was
// decoded, and as the record that the log writes.
const copies = 2

// receive reads and decodes the body. The buffer is back in the pool when it
// returns, so that none is held while the disk is waited for; what the message
// itself holds stays counted until the caller releases it.
func (a *API) receive(r *http.Request, m *message.Message, in *form) (held int64, p *Problem) {
	buf, p := a.bodies.read(r)
	if p != nil {
		return 0, p
	}
	defer a.bodies.put(buf)
	held = copies * int64(len(buf.b))
	if !a.bodies.reserve(held, int64(len(buf.b))) {
		return 0, a.bodies.full()
	}
	if p := decodeMessage(buf.b, m, in); p != nil {
		a.bodies.release(held)
		return 0, p
	}
	return held, nil
}

// complete checks the message and fills in what does not come from its body.
func (a *API) complete(m *message.Message, in *form, from *origin, now time.Time) *Problem {
	m.Account, m.Test = from.who.Account, from.who.Test
	if p := a.check(m, in, &from.who, now); p != nil {
		return p
	}
	if from.key != "" {
		// Before anything that depends on the time or on configuration, so that
		// a retry has the same fingerprint.
		m.Fingerprint = m.PayloadFingerprint()
		m.IdempotencyKey = from.key
	}
	if !m.SendAt.After(now) {
		m.SendAt = time.Time{} // the past means now
	}
	if m.TTL == 0 && m.Channel != message.ChannelStore {
		m.TTL = time.Duration(a.defaultTTL.Load())
	}
	if m.CallbackURL == "" {
		m.CallbackURL = from.who.CallbackURL
	}
	m.TraceParent, m.RequestID = from.traceParent, from.requestID
	return nil
}

// answer writes 202, or 201 if the client wanted to wait and the message is in
// the database.
func (a *API) answer(x *exchange, receipt Receipt) {
	status, code := message.Accepted, http.StatusAccepted
	h := x.w.Header()
	if wait := preferredWait(x.r.Header); wait > 0 {
		x.waited = true
		if state, ok := a.await(x, receipt.ID, wait); ok {
			status, code = state.Status, http.StatusCreated
		}
		h["Preference-Applied"] = []string{"wait=" + strconv.Itoa(int(wait/time.Second))}
	}
	if receipt.Replayed {
		h["Idempotent-Replayed"] = valuesReplayed
	}
	h[headerContentType] = valuesJSON
	var location [len(locationPrefix) + 36]byte
	text, _ := receipt.ID.AppendText(append(location[:0], locationPrefix...)) // never fails
	x.setValue(valueLocation, "Location", string(text))

	body := append(x.out[:0], `{"id":"`...)
	body = append(body, text[len(locationPrefix):]...)
	body = append(body, `","status":"`...)
	body = append(body, status.String()...)
	body = append(body, `","accepted_at":"`...)
	body = receipt.ID.Time().AppendFormat(body, timestampLayout)
	body = append(body, `"}`...)
	x.write(code, body)
}

// await waits until the message is in the database, for at most the given time
// from the start of the request, and no longer than until the appliance drains.
func (a *API) await(x *exchange, id message.ID, wait time.Duration) (message.State, bool) {
	ctx, cancel := context.WithDeadline(x.r.Context(), x.start.Add(wait))
	defer cancel()
	defer context.AfterFunc(a.drainCtx, cancel)()
	state, err := a.cfg.Messages.Wait(ctx, id)
	// The message is durable, so that an error here is no failure: the client
	// gets the 202 that it would have got without waiting.
	return state, err == nil
}
