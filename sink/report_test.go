package sink_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forebay/sink"
	"forebay/wal/message"
)

// callbacks are what the dispatcher has accepted into the log: the body is the
// status that it tells of.
type callbacks struct {
	mu  sync.Mutex // guards what follows
	got map[string][]string
}

func (c *callbacks) configure(cfg *sink.DispatcherConfig) {
	cfg.CallbackURL = func(*message.Record) string { return "https://a.example" }
	cfg.Render = func(r *message.Record) ([]byte, error) { return []byte(r.ID.String() + " " + r.Status.String()), nil }
	cfg.Append = func(_ context.Context, ms []*message.Message) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, m := range ms {
			id, status, _ := strings.Cut(m.Body, " ")
			if c.got == nil {
				c.got = map[string][]string{}
			}
			c.got[id] = append(c.got[id], status)
		}
		return nil
	}
}

func (c *callbacks) of(id message.ID) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got[id.String()]
}

// TestReportsOvertakeTheSender: a provider's reports come before its answer, after
// it, or while the store is down; by our id, or by its own, which nobody knows yet.
// Whoever tells of a message first, what is told of it never leads back, and at the
// end it has been told to be what the store says it is: to those who listen, and
// by a callback.
func TestReportsOvertakeTheSender(t *testing.T) {
	overtook := 0
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(r, "messages")
		early := rapid.SliceOfN(rapid.Bool(), n, n).Draw(r, "report comes before the answer")
		byID := rapid.SliceOfN(rapid.Bool(), n, n).Draw(r, "report names our id")
		says := rapid.SliceOfN(rapid.SampledFrom([]message.Status{message.Sent, message.Delivered, message.Read, message.Undelivered}), n, n).Draw(r, "reports")
		down := rapid.Bool().Draw(r, "store down at first")
		rapid.SyncTest(r, func(r *rapid.T) {
			at := map[message.ID]int{}
			var calls callbacks
			svc := &service{}
			p := newPlant(r, svc, calls.configure)
			report := func(id message.ID) {
				i := at[id]
				rep := message.Report{Channel: message.ChannelEmail, ProviderID: "p" + id.String(), Status: says[i], At: time.Now()}
				if byID[i] {
					rep.ID = id
				}
				changed, err := p.store.Report(context.Background(), []message.Report{rep})
				if err == nil { // else the provider reports again, which is another case
					err = p.Changed(context.Background(), changed)
				}
				if err != nil && !down {
					r.Errorf("report: %v", err)
				}
			}
			svc.script = func(ctx context.Context, d *sink.Delivery) (sink.Sent, error) {
				if early[at[d.Record.ID]] {
					report(d.Record.ID)
				}
				pause(ctx, 10*time.Millisecond)
				return sink.Sent{ProviderID: "p" + d.Record.ID.String()}, nil
			}
			ids := p.email("a", message.Normal, n)
			for i, id := range ids {
				at[id] = i
			}
			if down {
				p.store.SetDown("a test")
			}
			stop := p.start()
			pause(context.Background(), time.Second)
			p.store.SetDown("")
			p.await(5 * time.Minute)
			for i, id := range ids {
				if !early[i] {
					report(id)
				}
			}
			stop()
			for _, id := range ids {
				told, stands := p.told.statuses(id), p.status(id).Status
				for k := 1; k < len(told); k++ {
					if told[k] != told[k-1] && !told[k-1].CanReach(told[k]) {
						r.Errorf("%s was told to be %v", id, told)
					}
				}
				if told[len(told)-1] != stands {
					r.Errorf("%s was told to be %v, and is %v", id, told, stands)
				}
				if !slices.Contains(calls.of(id), stands.String()) {
					r.Errorf("%s is %v, and had callbacks of %v", id, stands, calls.of(id))
				}
				if !slices.Contains(told, message.Sent) {
					overtook++
				}
			}
		})
	})
	if overtook == 0 {
		t.Error("no report overtook its message: nothing is proved")
	}
}
