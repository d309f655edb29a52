package httpapi

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"

	"forebay/wal/message"
)

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
	// reached is how far a message had got by the last event of it in the ring.
	// Changes are told by whoever makes them, and a provider's report may overtake
	// who sent the message: an event that would lead back is left out, and so is one
	// that says the same again.
	reached map[message.ID]milestone
}

// milestone is what an event told of a message.
type milestone struct {
	number uint64 // of the event
	status message.Status
	final  bool // a message of which no report came stays sent, and is final
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
	of      message.ID // zero: it tells of no message
	text    []byte     // as it goes over the wire
}

type feedReader struct {
	queue   chan feedEvent
	dropped chan struct{} // closed when the reader is too slow
	behind  atomic.Bool   // pressure has left events out, and the reader does not know yet
}

func newFeeds() *feeds {
	return &feeds{epoch: strconv.FormatUint(rand.Uint64(), 36), accounts: make(map[string]*audience), reached: make(map[message.ID]milestone)}
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

// publish hands an event of that kind to the account's readers; of is the message
// that it tells of, nil if of none. An event that lies before what was told of the
// message is left out, and so is a repeat.
func (f *feeds) publish(account string, of *message.Record, kind string, e any) {
	data, err := json.Marshal(e, json.Deterministic(true))
	if err != nil {
		return // text that is no UTF-8 was refused at the door
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	event := feedEvent{number: f.last + 1, account: account}
	if of != nil {
		reached := milestone{event.number, of.Status, of.Final()}
		if told, known := f.reached[of.ID]; known && !told.leadsTo(reached) {
			return
		}
		event.of = of.ID
		f.reached[of.ID] = reached
	}
	f.last = event.number
	event.text = fmt.Appendf(nil, "id: %s-%d\nevent: %s\ndata: %s\n\n", f.epoch, f.last, kind, data)
	f.keepLocked(event)
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

// leadsTo reports whether an event says something new after another.
func (m milestone) leadsTo(next milestone) bool {
	if m.status == next.status {
		return m.final != next.final
	}
	return m.status.CanReach(next.status)
}

// keepLocked adds an event to the ring, within its bounds.
func (f *feeds) keepLocked(event feedEvent) {
	f.ring, f.bytes = append(f.ring, event), f.bytes+len(event.text)
	for len(f.ring) > feedRing || f.bytes > feedRingBytes {
		oldest := &f.ring[0]
		if f.reached[oldest.of].number == oldest.number {
			delete(f.reached, oldest.of)
		}
		f.bytes -= len(oldest.text)
		*oldest = feedEvent{}
		f.ring = f.ring[1:]
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
