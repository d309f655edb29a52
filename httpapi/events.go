package httpapi

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"

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

// feeds hands status changes to those who listen, and remembers the last ones of
// their accounts. Publishing never waits: a reader who falls behind is dropped,
// and comes back with Last-Event-ID.
type feeds struct {
	epoch string // of this process, so that a number of another one is not taken for ours

	mu       sync.Mutex // guards what follows; nothing is encoded or written under it
	last     uint64     // number of the newest event
	ring     []feedEvent
	bytes    int // of the ring
	total    int // readers
	accounts map[string]*audience
}

// audience is who listens to an account.
type audience struct {
	readers map[*feedReader]struct{}
	until   time.Time // events are kept until then if there are none
	lost    uint64    // number of the last event that pressure left out; 0: none
}

type feedEvent struct {
	number  uint64
	account string
	text    []byte // as it goes over the wire
}

type feedReader struct {
	queue   chan feedEvent
	dropped chan struct{} // closed when the reader is too slow
	behind  atomic.Bool   // pressure has left events out, and the reader does not know yet
}

func newFeeds() *feeds {
	return &feeds{epoch: strconv.FormatUint(rand.Uint64(), 36), accounts: make(map[string]*audience)}
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
			a.feeds.publish(r.Account, e.Type, e)
		}
	}
}

// leaveOut counts an event that nobody gets.
func (f *feeds) leaveOut(account string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.accounts[account]
	if a == nil {
		return
	}
	f.last++
	a.lost = f.last
	for r := range a.readers {
		r.behind.Store(true)
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
		a.feeds.publish(account, e.Type, e)
	}
}

// heard reports whether somebody listens to the account, or did just now.
func (f *feeds) heard(account string, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.accounts[account]
	if a == nil {
		return false
	}
	if len(a.readers) == 0 && now.After(a.until) {
		delete(f.accounts, account)
		return false
	}
	return true
}

// publish hands an event of that kind to the account's readers.
func (f *feeds) publish(account, kind string, e any) {
	data, err := json.Marshal(e, json.Deterministic(true))
	if err != nil {
		return // text that is no UTF-8 was refused at the door
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	text := fmt.Appendf(nil, "id: %s-%d\nevent: %s\ndata: %s\n\n", f.epoch, f.last, kind, data)
	event := feedEvent{f.last, account, text}
	f.ring, f.bytes = append(f.ring, event), f.bytes+len(text)
	for len(f.ring) > feedRing || f.bytes > feedRingBytes {
		f.bytes -= len(f.ring[0].text)
		f.ring[0] = feedEvent{}
		f.ring = f.ring[1:]
	}
	a := f.accounts[account]
	if a == nil {
		return
	}
	for r := range a.readers {
		select {
		case r.queue <- event:
		default:
			close(r.dropped)
			f.forgetLocked(account, r)
		}
	}
}

// subscribe adds a reader and returns what it has missed since the event of that
// id; known is false if that cannot be said. nil: there are too many readers.
func (f *feeds) subscribe(account, since string) (r *feedReader, missed []feedEvent, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.accounts[account]
	kept := a != nil // otherwise nobody has listened, and nothing was kept
	if !kept {
		a = &audience{readers: make(map[*feedReader]struct{})}
	}
	if len(a.readers) >= feedsPerAccount || f.total >= feedsInTotal {
		return nil, nil, false
	}
	f.accounts[account] = a
	f.total++
	r = &feedReader{queue: make(chan feedEvent, feedQueue), dropped: make(chan struct{})}
	a.readers[r] = struct{}{}
	if since == "" {
		return r, nil, true
	}
	epoch, number, _ := strings.Cut(since, "-")
	n, err := strconv.ParseUint(number, 10, 64)
	oldest := f.last + 1
	if len(f.ring) > 0 {
		oldest = f.ring[0].number
	}
	if epoch != f.epoch || err != nil || n > f.last {
		return r, nil, false
	}
	for _, e := range f.ring {
		if e.number > n && e.account == account {
			missed = append(missed, e)
		}
	}
	return r, missed, kept && n+1 >= oldest && n >= a.lost
}

func (f *feeds) unsubscribe(account string, r *feedReader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgetLocked(account, r)
}

func (f *feeds) forgetLocked(account string, r *feedReader) {
	a := f.accounts[account]
	if a == nil {
		return
	}
	if _, there := a.readers[r]; !there {
		return
	}
	delete(a.readers, r)
	f.total--
	a.until = time.Now().Add(feedMemory)
	// Who left long ago goes with who leaves now: the map stays as small as what
	// is in use.
	maps.DeleteFunc(f.accounts, func(_ string, a *audience) bool { return len(a.readers) == 0 && time.Now().After(a.until) })
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
