package sink_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"

	"forebay/sink"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// TestOutage: while the store is down, one call at a time knocks, ever more
// rarely; the log fills undisturbed; and when the store is back, its callers
// come back by doubling.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const workers = 8
		var inside, peak, knocks atomic.Int64
		var back atomic.Bool
		var mu sync.Mutex
		var rounds []int // calls that begin together, after the outage; each takes a second
		var latest time.Time
		store := &sinktest.Memory{Intercept: func(ctx context.Context, method string) error {
			n := inside.Add(1)
			defer inside.Add(-1)
			up := back.Load()
			if up {
				mu.Lock()
				if now := time.Now(); now != latest {
					rounds, latest = append(rounds, 0), now
				}
				rounds[len(rounds)-1]++
				mu.Unlock()
			}
			knocks.Add(1)
			peak.Store(max(peak.Load(), n))
			pause(ctx, time.Second)
			if !up {
				return &sink.Down{Err: errors.New("connection refused")}
			}
			return nil
		}}
		src := newSource(t)
		p, err := sink.NewPipeline(sink.Config{Source: src, Store: store, Workers: workers, BatchSize: 10, MaxBatch: 10})
		if err != nil {
			t.Fatal(err)
		}
		src.put(message.Normal, 1000)
		stop := run(p)
		pause(context.Background(), 30*time.Second) // everyone has met the outage
		if since := p.Stats().DownSince; time.Since(since) != 29*time.Second {
			t.Errorf("down since %v, %v ago, want 29s", since, time.Since(since))
		}
		knocks.Store(0)
		peak.Store(0)
		pause(context.Background(), time.Hour)
		// Delays of 0 to 10 s, 5 on average, and a second for the call itself.
		if n := knocks.Load(); n < 360 || n > 900 || peak.Load() != 1 {
			t.Errorf("%d knocks in an hour, up to %d at once, want about 600, one at a time", n, peak.Load())
		}
		if _, taken, _ := src.counts(); taken > workers*10 {
			t.Errorf("%d entries taken while the store is down", taken)
		}
		back.Store(true)
		drain(t, src)
		if err := stop(); err != nil {
			t.Errorf("run: %v", err)
		}
		checkStored(t, src, store)
		if want := []int{1, 2, 4, 8, 8}; len(rounds) < 5 || !slices.Equal(rounds[:5], want) {
			t.Errorf("calls after the outage: %v, want %v", rounds, want)
		}
		if s := p.Stats(); !s.DownSince.IsZero() || s.Stored != 1000 || s.BatchSize != 10 || s.Latency != time.Second {
			t.Errorf("stats = %+v", s)
		}
	})
}

// TestRefusedBatch: a batch that the store refuses for no fault of its rows is
// named in the log, tried again slowly and for ever, and the others pass by.
func TestRefusedBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		src := newSource(t)
		bad := src.put(message.Critical, 10)
		var healed atomic.Bool
		var refused atomic.Int64
		store := &refusing{Memory: &sinktest.Memory{}, id: bad[0].ID, healed: &healed, refused: &refused}
		stop := start(t, sink.Config{Source: src, Store: store, Workers: 2, BatchSize: 10, MaxBatch: 10,
			Logger: slog.New(slog.NewTextHandler(&log, nil))})
		src.put(message.Normal, 500)
		pause(context.Background(), 24*time.Hour)
		if _, taken, done := src.counts(); taken != 10 || done != 500 {
			t.Errorf("%d taken and %d done, want the 10 refused and the 500 others", taken, done)
		}
		if n := refused.Load(); n < 300 || n > 2000 { // up to 5 minutes apart
			t.Errorf("the batch was tried %d times in a day", n)
		}
		healed.Store(true)
		drain(t, src)
		if err := stop(); err != nil {
			t.Errorf("run: %v", err)
		}
		checkStored(t, src, store)
		if line, _, _ := strings.Cut(log.String(), "\n"); !strings.Contains(line, bad[0].ID.String()) || !strings.Contains(line, errFault.Error()) {
			t.Errorf("log line %q, want it to name the batch and the cause", line)
		}
	})
}

// refusing is a store that refuses every batch with a certain record.
type refusing struct {
	*sinktest.Memory
	id      message.ID
	healed  *atomic.Bool
	refused *atomic.Int64
}

func (s *refusing) Insert(ctx context.Context, batch []message.Record) ([]sink.Result, error) {
	for _, r := range batch {
		if r.ID == s.id && !s.healed.Load() {
			s.refused.Add(1)
			return nil, errFault
		}
	}
	return s.Memory.Insert(ctx, batch)
}

// TestStopAndInsertUnderWay: an insert that is under way when the pipeline is
// stopped is finished and completed if it needs no more than the grace; if it
// does, it is cut off, which is nobody's fault, and its entries stay in the log.
func TestStopAndInsertUnderWay(t *testing.T) {
	for needs, want := range map[time.Duration]struct {
		done int
		took time.Duration
	}{3 * time.Second: {10, 2 * time.Second}, 8 * time.Second: {0, 4 * time.Second}} {
		t.Run(needs.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				src, store := newSource(t), newScripted([]call{{latency: needs}})
				src.put(message.Normal, 10)
				stop := start(t, sink.Config{Source: src, Store: store, BatchSize: 10, Grace: 4 * time.Second,
					Logger: slog.New(slog.NewTextHandler(&log, nil))})
				pause(context.Background(), time.Second)
				before := time.Now()
				if err := stop(); err != nil {
					t.Errorf("run: %v", err)
				}
				if took := time.Since(before); took != want.took {
					t.Errorf("stop took %v, want %v", took, want.took)
				}
				if _, taken, done := src.counts(); done != want.done || taken != 10-want.done {
					t.Errorf("%d entries done and %d taken, want %d of 10 done", done, taken, want.done)
				}
				if log.Len() > 0 {
					t.Errorf("a stop is logged as something else: %s", &log)
				}
			})
		})
	}
}

// TestNotFinalStaysInTheLog: what has still to be delivered is stored and told,
// and the log keeps it.
func TestNotFinalStaysInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, store := newSource(t), &sinktest.Memory{}
		src.put(message.Normal, 3)
		src.putMessage(message.Message{Account: "a", Channel: message.ChannelEmail, Priority: message.Normal, To: "a@b.example"})
		var told atomic.Int64
		stop := start(t, sink.Config{Source: src, Store: store, OnStored: func(b []message.Record) { told.Add(int64(len(b))) }})
		pause(context.Background(), time.Second)
		if err := stop(); err != nil {
			t.Errorf("run: %v", err)
		}
		if _, taken, done := src.counts(); taken != 1 || done != 3 || told.Load() != 4 || len(store.Records()) != 4 {
			t.Errorf("%d taken, %d done, %d told of and %d stored, want the queued one left", taken, done, told.Load(), len(store.Records()))
		}
	})
}

// TestUnreadableEntry: what cannot be decoded is reported, stays in the log and
// holds up nobody.
func TestUnreadableEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, store, reg := newSource(t), &sinktest.Memory{}, prometheus.NewPedanticRegistry()
		src.put(message.Normal, 5)
		bad := src.putPayload(message.Normal, []byte("not a message"))
		src.put(message.Normal, 5)
		var reported []message.Entry
		stop := start(t, sink.Config{Source: src, Store: store, Workers: 1, Registerer: reg,
			OnUnreadable: func(e message.Entry, err error) { reported = append(reported, e) }})
		pause(context.Background(), time.Second)
		synctest.Wait()
		if err := stop(); err != nil {
			t.Errorf("run: %v", err)
		}
		if diff := cmp.Diff([]message.Entry{bad}, reported); diff != "" {
			t.Errorf("reported (-want +got):\n%s", diff)
		}
		if _, taken, done := src.counts(); taken != 1 || done != 10 || len(store.Records()) != 10 {
			t.Errorf("%d taken, %d done, %d stored, want only the bad one left", taken, done, len(store.Records()))
		}
		if n := metric(t, reg, "forebay_store_unreadable_total", ""); n != 1 {
			t.Errorf("unreadable_total = %v, want 1", n)
		}
	})
}

// TestLargeEntries: an insert has no more bytes than it may, and one record at
// least.
func TestLargeEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, store := newSource(t), &sinktest.Memory{}
		var sizes []int
		for i := range 30 {
			m := message.Message{Account: "a", Channel: message.ChannelStore, Priority: message.Normal, Body: strings.Repeat("x", 100)}
			if i == 7 {
				m.Body = strings.Repeat("x", 5000)
			}
			src.putMessage(m)
		}
		stop := start(t, sink.Config{Source: src, Store: store, Workers: 1, MaxBatchBytes: 1100,
			OnStored: func(b []message.Record) { sizes = append(sizes, len(b)) }})
		drain(t, src)
		if err := stop(); err != nil {
			t.Errorf("run: %v", err)
		}
		checkStored(t, src, store)
		if diff := cmp.Diff([]int{7, 1, 10, 10, 2}, sizes); diff != "" {
			t.Errorf("sizes of inserts (-want +got):\n%s", diff)
		}
	})
}

// TestLogFails: a log that cannot be read or written ends the pipeline, with
// all its workers.
func TestLogFails(t *testing.T) {
	broken := errors.New("log is broken")
	for name, fail := range map[string]func(*source){
		"next":     func(s *source) { s.failNext = broken },
		"complete": func(s *source) { s.failDone = broken },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := newSource(t)
				src.put(message.Normal, 100)
				fail(src)
				p, err := sink.NewPipeline(sink.Config{Source: src, Store: &sinktest.Memory{}, Workers: 3, BatchSize: 10})
				if err != nil {
					t.Fatal(err)
				}
				if err := p.Run(context.Background()); !errors.Is(err, broken) {
					t.Errorf("run: error %v, want that of the log", err)
				}
			})
		})
	}
}

// TestShortAnswer: a store that does not answer for every record has stored
// none, as far as the log is concerned.
func TestShortAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource(t)
		src.put(message.Normal, 10)
		stop := start(t, sink.Config{Source: src, Store: &short{Memory: &sinktest.Memory{}}})
		pause(context.Background(), time.Hour)
		if _, taken, done := src.counts(); taken != 10 || done != 0 {
			t.Errorf("%d taken and %d done, want nothing done", taken, done)
		}
		if err := stop(); err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

// short is a store that forgets to answer for the last record.
type short struct{ *sinktest.Memory }

func (s *short) Insert(ctx context.Context, batch []message.Record) ([]sink.Result, error) {
	results, err := s.Memory.Insert(ctx, batch)
	return results[:max(len(results)-1, 0)], err
}

// TestProperty20_StoreMetricsAgree: what the metrics and the figures say is
// what happened.
func TestProperty20_StoreMetricsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bad := calls().Draw(t, "calls")
		keys := rapid.SliceOfN(rapid.SampledFrom([]string{"", "", "k", "l"}), 0, 60).Draw(t, "keys")
		refuse := rapid.Bool().Draw(t, "refuse")
		rapid.SyncTest(t, func(t *rapid.T) {
			src, store, reg := newSource(t), newScripted(bad), prometheus.NewPedanticRegistry()
			store.Refuse = func(r message.Record) string {
				if refuse && r.Seq%7 == 0 {
					return "asked for"
				}
				return ""
			}
			p, err := sink.NewPipeline(sink.Config{Source: src, Store: store, BatchSize: 8, Registerer: reg})
			if err != nil {
				t.Fatalf("new pipeline: %v", err)
			}
			stop := run(p)
			for _, key := range keys {
				src.putMessage(message.Message{Account: "a", Channel: message.ChannelStore, Priority: message.Normal, IdempotencyKey: key})
			}
			drain(t, src)
			if err := stop(); err != nil {
				t.Errorf("run: %v", err)
			}
			var total float64
			for _, o := range sink.Outcomes {
				total += metric(t, reg, "forebay_store_rows_total", o.String())
			}
			if int(total) != len(keys) || int(p.Stats().Stored) != len(keys) {
				t.Errorf("metrics count %v records and stats %d, want %d", total, p.Stats().Stored, len(keys))
			}
			if n := metric(t, reg, "forebay_store_batch_duration_seconds", ""); int64(n) != store.n.Load() {
				t.Errorf("metrics count %v inserts, want %d", n, store.n.Load())
			}
		})
	})
}

// metric returns the value of a counter or gauge, or the count of a histogram.
func metric(t failer, reg prometheus.Gatherer, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatalf("gather: %v", err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	t.Fatalf("no metric %s of %q", name, label)
	return 0
}

func TestMetricNames(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	store := &sinktest.Memory{}
	cfg := sink.Config{Source: newSource(t), Store: store, Registerer: reg}
	if _, err := sink.NewPipeline(cfg); err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, error %v", problems, err)
	}
	if up := metric(t, reg, "forebay_store_up", ""); up != 1 {
		t.Errorf("store_up = %v, want 1", up)
	}
	store.SetDown("pulled the plug")
	if up := metric(t, reg, "forebay_store_up", ""); up != 0 {
		t.Errorf("store_up of a store that is down = %v, want 0", up)
	}
	if _, err := sink.NewPipeline(cfg); err == nil {
		t.Error("a second pipeline registers the same metrics without an error")
	}
}

func TestConfigValidate(t *testing.T) {
	good := sink.Config{Source: newSource(t), Store: &sinktest.Memory{}}
	if err := good.Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	for want, change := range map[string]func(*sink.Config){
		"source":          func(c *sink.Config) { c.Source = nil },
		"store":           func(c *sink.Config) { c.Store = nil },
		"workers":         func(c *sink.Config) { c.Workers = -1 },
		"batch size":      func(c *sink.Config) { c.BatchSize, c.MaxBatch = -1, 1 },
		"batch timeout":   func(c *sink.Config) { c.BatchTimeout = -1 },
		"max batch":       func(c *sink.Config) { c.MaxBatch = 999 },
		"max batch bytes": func(c *sink.Config) { c.MaxBatchBytes = -1 },
		"held bytes":      func(c *sink.Config) { c.HeldBytes = -1 },
		"target latency":  func(c *sink.Config) { c.TargetLatency = -1 },
		"grace":           func(c *sink.Config) { c.Grace = -1 },
		"retry":           func(c *sink.Config) { c.Retry = sink.Backoff{Base: 2, Max: 1} },
		"slow":            func(c *sink.Config) { c.Slow = sink.Backoff{Base: -1, Max: 1} },
	} {
		cfg := good
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), want+": ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %v, want one about %s", err, want)
		}
	}
}
