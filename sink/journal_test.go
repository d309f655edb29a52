package sink_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"forebay/sink"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// journal is a source that also keeps what rests, and the states of messages.
type journal struct {
	*source
	resting  map[message.ID]restingEntry // guarded by source.mu, as all below
	recalled map[message.ID][]byte
	progress map[message.ID][]byte
}

type restingEntry struct {
	message.Entry
	due   time.Time // zero: on a shelf
	shelf uint64
}

func newJournal(t failer) *journal {
	return &journal{source: newSource(t), resting: map[message.ID]restingEntry{}, recalled: map[message.ID][]byte{}, progress: map[message.ID][]byte{}}
}

// Next brings back what is due before it hands out.
func (j *journal) Next(ctx context.Context, limit int, linger time.Duration) ([]message.Entry, error) {
	for {
		j.mu.Lock()
		for id, r := range j.resting {
			if !r.due.IsZero() && !r.due.After(time.Now()) {
				j.returnLocked(id)
			}
		}
		j.mu.Unlock()
		short, cancel := context.WithTimeoutCause(ctx, 20*time.Millisecond, errTick)
		got, err := j.source.Next(short, limit, linger)
		cancel()
		if err == errTick {
			if j.Waiting() == 0 {
				continue
			}
			return j.source.Next(ctx, limit, 0)
		}
		return got, err
	}
}

var errTick = fmt.Errorf("time to look for what is due")

func (j *journal) returnLocked(id message.ID) {
	e := j.resting[id].Entry
	delete(j.resting, id)
	lane := &j.lanes[id.Lane()]
	*lane = append(*lane, e)
	slices.SortFunc(*lane, func(a, b message.Entry) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	close(j.wake)
	j.wake = make(chan struct{})
}

func (j *journal) Progress(_ context.Context, entries []message.Entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range entries {
		if _, ok := j.taken[e.ID]; !ok {
			j.t.Errorf("progress of entry %d, which nobody holds", e.Seq)
		}
		j.noteLocked(&e)
		j.taken[e.ID] = e
	}
	return nil
}

func (j *journal) noteLocked(e *message.Entry) {
	if state, ok := j.recalled[e.ID]; ok {
		e.Progress = state
	}
	j.progress[e.ID] = e.Progress
}

func (j *journal) put(until time.Time, shelf uint64, entries []message.Entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range entries {
		if _, ok := j.taken[e.ID]; !ok {
			j.t.Errorf("entry %d is put to rest, and nobody holds it", e.Seq)
		}
		delete(j.taken, e.ID)
		j.noteLocked(&e)
		r := restingEntry{e, until, shelf}
		if _, ok := j.recalled[e.ID]; ok {
			r.due = time.Now()
		}
		j.resting[e.ID] = r
	}
}

func (j *journal) Park(_ context.Context, until time.Time, entries []message.Entry) error {
	j.put(until, 0, entries)
	return nil
}

func (j *journal) Shelve(_ context.Context, shelf uint64, entries []message.Entry) error {
	j.put(time.Time{}, shelf, entries)
	return nil
}

func (j *journal) Fetch(_ context.Context, shelf uint64, n int) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var there []message.ID
	for id, r := range j.resting {
		if r.due.IsZero() && r.shelf == shelf {
			there = append(there, id)
		}
	}
	slices.SortFunc(there, message.ID.Compare)
	there = there[:min(n, len(there))]
	for _, id := range there {
		j.returnLocked(id)
	}
	return len(there), nil
}

func (j *journal) Shelves() (all []uint64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.resting {
		if r.due.IsZero() && !slices.Contains(all, r.shelf) {
			all = append(all, r.shelf)
		}
	}
	return all, nil
}

func (j *journal) Lookup(id message.ID) (message.Entry, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if e, _, ok := j.findLocked(id); ok {
		e.Progress = j.progress[id]
		return e, nil
	}
	return message.Entry{}, sink.ErrNotFound
}

func (j *journal) findLocked(id message.ID) (e message.Entry, lane int, ok bool) {
	if e, ok := j.taken[id]; ok {
		return e, -1, true
	}
	if r, ok := j.resting[id]; ok {
		return r.Entry, -1, true
	}
	for _, e := range j.lanes[id.Lane()] {
		if e.ID == id {
			return e, int(id.Lane()), true
		}
	}
	return e, -1, false
}

func (j *journal) Recall(_ context.Context, id message.ID, state []byte) (message.Entry, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e, lane, ok := j.findLocked(id)
	if !ok {
		return e, sink.ErrNotFound
	}
	j.recalled[id], j.progress[id] = state, state
	if r, rests := j.resting[id]; rests {
		r.Progress = state
		j.resting[id] = r
		j.returnLocked(id)
	} else if lane >= 0 {
		for i := range j.lanes[lane] {
			if j.lanes[lane][i].ID == id {
				j.lanes[lane][i].Progress = state
			}
		}
	}
	return e, nil
}

// restart does what a restart of the log does.
func (j *journal) restart() {
	j.mu.Lock()
	for id, e := range j.taken {
		e.Progress = j.progress[id]
		j.taken[id] = e
	}
	clear(j.recalled)
	j.mu.Unlock()
	j.source.restart()
}

func (j *journal) live() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.waitingLocked() + len(j.taken) + len(j.resting)
}

// service is a channel whose every attempt is scripted, with a ledger.
type service struct {
	mu     sync.Mutex // guards what follows
	ledger map[message.ID]int
	order  []message.ID
	inside atomic.Int64
	peak   atomic.Int64
	script func(context.Context, *sink.Delivery) (sink.Sent, error) // nil: 10 ms and sent
	check  func(*message.Message) *message.Failure
	byHost bool
}

func (s *service) Check(m *message.Message) *message.Failure {
	if s.check == nil {
		return nil
	}
	return s.check(m)
}

func (s *service) Service(m *message.Message) string {
	if s.byHost {
		return "webhook:" + m.To
	}
	return "email"
}

func (s *service) Send(ctx context.Context, d *sink.Delivery) (sink.Sent, error) {
	n := s.inside.Add(1)
	defer s.inside.Add(-1)
	for p := s.peak.Load(); n > p && !s.peak.CompareAndSwap(p, n); p = s.peak.Load() {
	}
	sent, err := sink.Sent{ProviderID: "p" + d.Record.ID.String()}, error(nil)
	if s.script == nil {
		pause(ctx, 10*time.Millisecond)
	} else {
		sent, err = s.script(ctx, d)
	}
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.ledger == nil {
			s.ledger = map[message.ID]int{}
		}
		s.ledger[d.Record.ID]++
		s.order = append(s.order, d.Record.ID)
	}
	return sent, err
}

func (s *service) sent() []message.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.order)
}

// breakers is one breaker that is opened by hand.
type breakers struct {
	mu      sync.Mutex // guards what follows
	open    bool
	retryAt time.Time
	probing bool
	heard   map[int]func(string, bool)
	refused int
}

func (b *breakers) Acquire(string) (sink.Permit, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open {
		if b.probing || time.Now().Before(b.retryAt) {
			b.refused++
			return nil, false
		}
		b.probing = true
	}
	return b, true
}

func (b *breakers) Done(v sink.Verdict) {
	b.mu.Lock()
	if !b.open {
		b.mu.Unlock()
		return
	}
	b.probing = false
	b.open = v != sink.Success
	b.retryAt = time.Now().Add(time.Minute)
	open, heard := b.open, b.heard
	b.mu.Unlock()
	for _, f := range heard {
		f("email", !open)
	}
}

func (b *breakers) RetryAt(string) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return time.Time{}
	}
	return b.retryAt
}

func (b *breakers) Subscribe(f func(string, bool)) func() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.heard = map[int]func(string, bool){0: f}
	return func() {}
}

// plant is a pipeline with a dispatcher, and what stands around them.
type plant struct {
	*journal
	store   *archive
	service *service
	*sink.Dispatcher
	told  changes
	start func() (stop func())
}

// archive is a store in memory.
type archive struct{ *sinktest.Memory }

type changes struct {
	mu  sync.Mutex
	got []message.Record
}

func (c *changes) add(rs []message.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, rs...)
}

func (c *changes) statuses(id message.ID) (all []message.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.got {
		if r.ID == id {
			all = append(all, r.Status)
		}
	}
	return all
}

// newPlant builds one; start runs it until stop, which may be done again after a
// restart.
func newPlant(t failer, svc *service, change func(*sink.DispatcherConfig)) *plant {
	p := &plant{journal: newJournal(t), store: &archive{&sinktest.Memory{}}, service: svc}
	p.start = func() func() {
		cfg := sink.DispatcherConfig{Journal: p.journal, Archive: p.store, OnChange: p.told.add,
			Delivery: sink.DeliveryConfig{Channels: map[message.Channel]sink.ChannelConfig{message.ChannelEmail: {Sender: svc}, message.ChannelWebhook: {Sender: svc}}}}
		if change != nil {
			change(&cfg)
		}
		d, err := sink.NewDispatcher(cfg)
		if err != nil {
			t.Fatalf("new dispatcher: %v", err)
		}
		p.Dispatcher = d
		pipe, err := sink.NewPipeline(sink.Config{Source: p.journal, Store: p.store.Memory, Dispatcher: d})
		if err != nil {
			t.Fatalf("new pipeline: %v", err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for _, part := range []func(context.Context) error{d.Run, pipe.Run} {
			wg.Go(func() {
				if err := part(ctx); err != nil {
					t.Errorf("run: %v", err)
				}
			})
		}
		return func() { cancel(); wg.Wait() }
	}
	return p
}

func (p *plant) email(account string, lane message.Priority, n int) (ids []message.ID) {
	for range n {
		e := p.putMessage(message.Message{Account: account, Channel: message.ChannelEmail, Priority: lane, To: "a@b.example", TTL: 24 * time.Hour})
		ids = append(ids, e.ID)
	}
	return ids
}

// await waits, in the bubble's time, until nothing is left in the log.
func (p *plant) await(limit time.Duration) {
	p.t.Helper()
	for end := time.Now().Add(limit); p.live() > 0; pause(context.Background(), 50*time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("%d messages are still in the log after %v", p.live(), limit)
		}
	}
}

func (p *plant) status(id message.ID) message.Record {
	p.t.Helper()
	r, err := p.store.Get(context.Background(), "", id)
	if err != nil {
		p.t.Fatalf("get %s: %v", id, err)
	}
	return r
}

// TestDelivers: everything is sent once, told of, in the store, and gone from
// the log.
func TestDelivers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPlant(t, &service{}, nil)
		ids := p.email("a", message.Normal, 500)
		stop := p.start()
		p.await(time.Minute)
		stop()
		for _, id := range ids {
			r := p.status(id)
			if r.Status != message.Sent || r.SentAt.IsZero() || r.ProviderID == "" || len(r.Attempts) != 1 || p.service.ledger[id] != 1 {
				t.Fatalf("%s: %+v, sent %d times", id, r.State, p.service.ledger[id])
			}
			if diff := cmp.Diff([]message.Status{message.Queued, message.Sent}, p.told.statuses(id)); diff != "" {
				t.Fatalf("told (-want +got):\n%s", diff)
			}
		}
		if peak := p.service.peak.Load(); peak != 16 {
			t.Errorf("%d attempts at once, want the account's 16", peak)
		}
	})
}

// TestProperty15_WhatIsDueWhileItsBreakerIsOpenWaitsAndIsSentAfterItCloses: for
// any backlog and any length of an outage nothing is sent, or uses up an attempt,
// while the breaker is open; afterwards everything is sent, once, after a probe.
func TestProperty15_WhatIsDueWhileItsBreakerIsOpenWaitsAndIsSentAfterItCloses(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n, before := rapid.IntRange(1, 2000).Draw(r, "messages"), rapid.IntRange(0, 3).Draw(r, "accounts")
		outage := time.Duration(rapid.IntRange(1, 120).Draw(r, "seconds")) * time.Second
		restart := rapid.Bool().Draw(r, "restart")
		rapid.SyncTest(r, func(r *rapid.T) {
			b := &breakers{open: true, retryAt: time.Now().Add(outage)}
			p := newPlant(r, &service{}, func(c *sink.DispatcherConfig) { c.Breakers = b; c.QueueLimit = 512 })
			var ids []message.ID
			for i := range n {
				ids = append(ids, p.email(fmt.Sprint("account", i%(before+1)), message.Priority(i%4), 1)...)
			}
			stop := p.start()
			pause(context.Background(), outage/2)
			if restart {
				stop()
				p.restart()
				stop = p.start()
			}
			pause(context.Background(), outage/2-time.Millisecond)
			if sent := p.service.sent(); len(sent) > 0 {
				r.Fatalf("%d sent while the breaker is open", len(sent))
			}
			if e, err := p.Lookup(ids[0]); err != nil {
				r.Fatalf("look up: %v", err)
			} else if rec, _ := e.Record(); rec.HoldReason != sink.HoldBreaker || len(rec.Attempts) != 0 {
				r.Fatalf("a message that waits has hold reason %q and %d attempts", rec.HoldReason, len(rec.Attempts))
			}
			p.await(2 * time.Hour)
			stop()
			for _, id := range ids {
				if got := p.status(id); got.Status != message.Sent || len(got.Attempts) != 1 || p.service.ledger[id] != 1 {
					r.Fatalf("%s is %v after %d attempts, sent %d times", id, got.Status, len(got.Attempts), p.service.ledger[id])
				}
			}
		})
	})
}

func inBubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}
