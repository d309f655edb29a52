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

// TestReportedIsNotSentAgain: a message of whose attempt nobody knows how it ended is
// tried once more, unless a report shows that it was sent: wherever it waits, also
// after a restart.
func TestReportedIsNotSentAgain(t *testing.T) {
	for name, c := range map[string]struct {
		report, busy, ill, restart bool
	}{
		"never":                     {},
		"while it rests":            {report: true},
		"while it rests, restarted": {report: true, restart: true},
		"in the queue":              {report: true, busy: true},
		"on a shelf":                {report: true, ill: true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var target message.ID
				var p *plant
				br := &breakers{}
				tried := 0 // under the bubble's clock no two of these are at the same moment
				svc := &service{script: func(ctx context.Context, d *sink.Delivery) (sink.Sent, error) {
					if d.Record.ID != target {
						pause(ctx, 25*time.Second)
						return sink.Sent{}, nil
					}
					if tried++; d.Attempt > 1 {
						return sink.Sent{}, nil
					}
					if c.busy { // these have the only worker next
						p.email("b", message.Critical, 3)
						pause(ctx, time.Second)
					}
					if c.ill {
						br.mu.Lock()
						br.open = true
						br.mu.Unlock()
					}
					return sink.Sent{}, &sink.Unknown{Fault: sink.Fault{Failure: message.Failure{Code: "channel_timeout", Category: "channel"}}}
				}}
				p = newPlant(t, svc, func(cfg *sink.DispatcherConfig) {
					cfg.Breakers, cfg.Delivery.Workers = br, 1
					cfg.Delivery.BaseDelay, cfg.Delivery.MaxDelay = time.Hour, time.Hour // with full jitter: hardly less than the test looks at
					if c.busy || c.ill {
						cfg.Delivery.BaseDelay, cfg.Delivery.MaxDelay = time.Millisecond, time.Millisecond
					}
				})
				target = p.email("a", message.Normal, 1)[0]
				stop := p.start()
				pause(context.Background(), 300*time.Millisecond)
				if c.busy || c.ill {
					pause(context.Background(), 3*time.Second)
				}
				if r, err := p.Lookup(target); err != nil || tried != 1 {
					t.Fatalf("%v, %v, tried %d times: nothing is proved", r.ID, err, tried)
				}
				if c.report {
					changed, err := p.store.Report(context.Background(), []message.Report{{Channel: message.ChannelEmail, ID: target, Status: message.Delivered, At: time.Now()}})
					if err != nil || len(changed) != 1 {
						t.Fatalf("report: %v, %v", changed, err)
					}
					if c.restart {
						stop()
						p.restart()
						stop = p.start()
						pause(context.Background(), 10*time.Millisecond)
					}
					if err := p.Reported(context.Background(), changed); err != nil {
						t.Fatalf("reported: %v", err)
					}
				}
				p.await(2 * time.Hour)
				stop()
				want, status := 2, message.Sent
				if c.report {
					want, status = 1, message.Delivered
				}
				if r := p.status(target); tried != want || r.Status != status || len(r.Attempts) != want {
					t.Errorf("tried %v times, %v after %d attempts, want %d and %v", tried, r.Status, len(r.Attempts), want, status)
				}
			})
		})
	}
}
