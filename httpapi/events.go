package httpapi

import (
	"context"
	"net/http"
	"slices"
	"time"

	"forebay/wal/message"
)

// The bounds of the feed. All of them are per node: a feed is a convenience, and
// callbacks are what gets every change to its receiver.
const (
	feedsPerAccount = 16
	feedsInTotal    = 1024
	feedQueue       = 256             // events that a reader may be behind
	feedRing        = 4096            // events kept for those who come back
	feedRingBytes   = 8 << 20         // and their bytes
	feedMemory      = 5 * time.Minute // how long events are kept for an account that nobody reads
	feedKeepAlive   = 15 * time.Second
	feedPause       = 250 * time.Millisecond // that events gather for one write, under pressure
	feedWriteBytes  = 64 << 10               // of events in one write, about
)

// Event is what feeds and callbacks carry: a status that a message has come to.
type Event struct {
	Type      string    `json:"type"` // message.STATUS
	Timestamp Timestamp `json:"timestamp"`
	Data      View      `json:"data"`
}

// EventOf renders the change of a message to the status that it now has.
func EventOf(r *message.Record, at time.Time) Event {
	return Event{Type: "message." + r.Status.String(), Timestamp: Timestamp{at}, Data: ViewOf(r)}
}

// Publish tells the feeds of messages whose status has changed. It is quick where
// nobody listens to their accounts, and never waits for a reader. While pressure
// is high it leaves the events out, and the feeds say so afterwards.
func (a *API) Publish(records []message.Record) {
	now, leaveOut := time.Now(), a.cfg.Pressure() >= PressureHigh
	for i := range records {
		r := &records[i]
		switch {
		case !a.feeds.heard(r.Account, now):
		case leaveOut:
			a.feeds.leaveOut(r.Account)
		default:
			e := EventOf(r, now)
			a.feeds.publish(r.Account, r, e.Type, e)
		}
	}
}

// EndpointEvent is what an account is told, by its feed and its callback address,
// of one of its webhook addresses that keeps failing.
type EndpointEvent struct {
	Type      string    `json:"type"` // EndpointFailing or EndpointDisabled
	Timestamp Timestamp `json:"timestamp"`
	Data      Endpoint  `json:"data"`
}

// The types of EndpointEvent.
const (
	EndpointFailing  = "endpoint.failing"  // 50, 70 or 90 percent of the patience with it are used up
	EndpointDisabled = "endpoint.disabled" // it is switched off: what goes there fails at once
)

// Endpoint is a webhook address. The address itself is not in it: it may be all
// the secret that its receiver has.
type Endpoint struct {
	ID           string    `json:"id"`
	Host         string    `json:"host"` // and port
	FailingSince Timestamp `json:"failing_since"`
	PatienceUsed int       `json:"patience_used_percent"`
	DisabledAt   Timestamp `json:"disabled_at,omitzero"`
	Reason       string    `json:"reason,omitzero"` // gone (it answered 410) or failed (for days)
}

// PublishEndpoint tells the feeds of an account of one of its webhook addresses,
// as Publish does of messages.
func (a *API) PublishEndpoint(account string, e EndpointEvent) {
	if a.feeds.heard(account, time.Now()) {
		a.feeds.publish(account, nil, e.Type, e)
	}
}

// eventGap tells a reader that it has not got everything.
const eventGap = "event: gap\ndata: {\"detail\":\"events between are not in memory any more; list the messages to see them\"}\n\n"

var valuesEventStream = []string{"text/event-stream"}

// events answers GET /v1/events with the account's status changes until the
// client leaves, falls behind or the appliance drains.
func (a *API) events(x *exchange) error {
	if a.draining() {
		return ErrDraining
	}
	who, err := a.authenticate(x)
	if err != nil {
		return err
	}
	if p := checkAccept(x.r.Header, valuesEventStream[0]); p != nil {
		return p
	}
	if x.r.Method == http.MethodHead {
		x.w.Header()[headerContentType] = valuesEventStream
		x.write(http.StatusOK, nil)
		return nil
	}
	if p := a.spare(x); p != nil {
		return p
	}
	reader, missed, known := a.feeds.subscribe(who.Account, first(x.r.Header, "Last-Event-Id"))
	if reader == nil {
		return &Problem{Code: CodeOverloaded, Detail: "There are too many feeds of this account or on this appliance.", RetryAfter: 10 * time.Second}
	}
	defer a.feeds.unsubscribe(who.Account, reader)
	x.waited = true
	h := x.w.Header()
	h[headerContentType] = valuesEventStream
	h["Cache-Control"] = valuesNoStore
	h["X-Accel-Buffering"] = []string{"no"} // a proxy must not wait for more
	begin := []byte(": status changes of " + who.Account + "\nretry: 2000\n\n")
	if !known {
		begin = append(begin, eventGap...)
	}
	for _, e := range missed {
		begin = append(begin, e.text...)
	}
	x.status = http.StatusOK
	a.feed(x, reader, begin)
	return nil
}

// feed writes events as they come, for as long as the key is good. Each write has
// its own deadline, so that a reader who does not read frees the connection.
func (a *API) feed(x *exchange, reader *feedReader, text []byte) {
	control := http.NewResponseController(x.w)
	alive, recheck := time.NewTicker(feedKeepAlive), time.NewTicker(a.recheck)
	defer alive.Stop()
	defer recheck.Stop()
	for {
		if len(text) == 0 {
			if _, _, barred := a.stillGood(x.r); barred != nil {
				return
			}
		} else if writeEvents(x, control, text) != nil {
			return
		}
		select {
		case e := <-reader.queue:
			text = a.gather(x.r.Context(), a.begun(reader, e.text), reader.queue)
		case <-recheck.C:
			text = nil
		case <-alive.C:
			text = a.begun(reader, []byte(": alive\n\n"))
		case <-reader.dropped:
			return
		case <-a.drainCtx.Done():
			return
		case <-x.r.Context().Done():
			return
		}
	}
}

func writeEvents(x *exchange, control *http.ResponseController, text []byte) error {
	_ = control.SetWriteDeadline(time.Now().Add(writeMargin)) // what cannot be set fails with the write
	if _, err := x.w.Write(text); err != nil {
		return err
	}
	return control.Flush()
}

// begun is the beginning of a write: first that events were left out, if they
// were and it is over.
func (a *API) begun(reader *feedReader, text []byte) []byte {
	if reader.behind.Load() && a.cfg.Pressure() < PressureHigh && reader.behind.Swap(false) {
		return append([]byte(eventGap), text...)
	}
	return slices.Clone(text)
}

// gather adds what else waits to one write, and under pressure what comes in a
// moment, so that many events cost one write.
func (a *API) gather(ctx context.Context, text []byte, queue <-chan feedEvent) []byte {
	var pause <-chan time.Time // nil while nothing is waited for
	if a.cfg.Pressure() >= PressureElevated {
		timer := time.NewTimer(feedPause)
		defer timer.Stop()
		pause = timer.C
	}
	for len(text) < feedWriteBytes {
		select {
		case e := <-queue:
			text = append(text, e.text...)
			continue
		default:
		}
		if pause == nil {
			return text
		}
		select {
		case e := <-queue:
			text = append(text, e.text...)
		case <-pause:
			pause = nil
		case <-a.drainCtx.Done():
			return text
		case <-ctx.Done():
			return text
		}
	}
	return text
}
