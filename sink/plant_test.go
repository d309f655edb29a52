package sink_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"forebay/sink"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

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

func (b *breakers) Done(v sink.Verdict, _ string) {
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

// archive is a store in memory, which may refuse updates.
type archive struct {
	*sinktest.Memory
	mu     sync.Mutex // guards what follows
	refuse func(*message.Record) bool
	calls  int // of Update
	mute   atomic.Bool
	asked  atomic.Int64 // calls of Get while it was mute, which answers none
}

func (a *archive) Get(ctx context.Context, account string, id message.ID) (message.Record, error) {
	if a.mute.Load() {
		a.asked.Add(1)
		<-ctx.Done()
		return message.Record{}, ctx.Err()
	}
	return a.Memory.Get(ctx, account, id)
}

func (a *archive) setRefuse(f func(*message.Record) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refuse = f
}

func (a *archive) Update(ctx context.Context, batch []message.Record) ([]message.State, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls++
	for i := range batch {
		if a.refuse != nil && a.refuse(&batch[i]) {
			return nil, fmt.Errorf("a batch with %s is refused", batch[i].ID)
		}
	}
	return a.Memory.Update(ctx, batch)
}

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
	p := &plant{journal: newJournal(t), store: &archive{Memory: &sinktest.Memory{}}, service: svc}
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

func inBubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}
