package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"forebay/wal/message"
)

// Source is the log as the pipeline sees it. An entry that Next returned
// belongs to the caller until Complete, or until the program starts again.
type Source interface {
	// Next blocks until something waits, then up to linger for more, and
	// returns at most max entries: highest priority first, within a lane in
	// order of acceptance. It returns the cause of ctx when that ends; any
	// other error is final: the log cannot be read.
	Next(ctx context.Context, max int, linger time.Duration) ([]message.Entry, error)
	// Complete forgets entries whose final state is in the store. An error is
	// final: the log cannot be written.
	Complete(ctx context.Context, done []message.Entry) error
	// Waiting is how many entries wait, in memory and on disk. It does not block.
	Waiting() int
}

// Config is what a Pipeline is made of. Source and Store are required; for
// everything else zero means the default.
type Config struct {
	Source Source
	Store  Store

	// Breakers, if set, has the breaker of the store: see DatabaseService.
	Breakers Breakers

	Workers       int           // inserts under way at once; 1–256, default 4
	BatchSize     int           // entries in a batch while there is no backlog; ≥ 1, default 1000
	BatchTimeout  time.Duration // a batch that is not full leaves after this; > 0, default 100 ms
	MaxBatch      int           // entries in a batch, however long the backlog; ≥ BatchSize, default 5 × BatchSize
	MaxBatchBytes int           // of payload in one insert, which has one record at least; default 8 MiB
	HeldBytes     int           // of payload in memory during an outage of the store, beside the workers' batches; default 32 MiB
	TargetLatency time.Duration // batches shrink when an insert takes longer; default 1 s

	Retry Backoff       // while the store is down; default 100 ms to 10 s
	Slow  Backoff       // of a batch that the store refuses for another reason; default 5 s to 5 min
	Grace time.Duration // what inserts under way get when the pipeline is stopped; default 10 s

	// Dispatcher, if set, delivers what is for a channel. It must run for as
	// long as the pipeline does.
	Dispatcher *Dispatcher

	// OnStored, if set, is called with records that are now in the store, in
	// the state they have there, before the log forgets them; again after a
	// crash in between. It is called by all workers at once, should be quick,
	// and must not keep the slice.
	OnStored func([]message.Record)
	// OnUnreadable, if set, is called with an entry that cannot be decoded. It
	// stays in the log, and is met again after the next start.
	OnUnreadable func(message.Entry, error)

	Logger     *slog.Logger          // nil: discarded
	Registerer prometheus.Registerer // nil: metrics are not registered
}

// withDefaults fills in what is zero.
func (c Config) withDefaults() Config {
	setDefault(&c.Workers, 4)
	setDefault(&c.BatchSize, 1000)
	setDefault(&c.BatchTimeout, 100*time.Millisecond)
	setDefault(&c.MaxBatch, 5*c.BatchSize)
	setDefault(&c.MaxBatchBytes, 8<<20)
	setDefault(&c.HeldBytes, 32<<20)
	setDefault(&c.TargetLatency, time.Second)
	setDefault(&c.Retry, Backoff{100 * time.Millisecond, 10 * time.Second})
	setDefault(&c.Slow, Backoff{5 * time.Second, 5 * time.Minute})
	setDefault(&c.Grace, 10*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T comparable](v *T, def T) {
	if *v == *new(T) {
		*v = def
	}
}

// Validate says what is wrong with the configuration, all of it.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Source != nil, "source: required")
	check(c.Store != nil, "store: required")
	check(c.Workers >= 1 && c.Workers <= 256, "workers: %d, want 1 to 256", c.Workers)
	check(c.BatchSize >= 1, "batch size: %d, want at least 1", c.BatchSize)
	check(c.BatchTimeout > 0, "batch timeout: %v, want more than 0", c.BatchTimeout)
	check(c.MaxBatch >= c.BatchSize, "max batch: %d, want at least the batch size, %d", c.MaxBatch, c.BatchSize)
	check(c.MaxBatchBytes >= 1, "max batch bytes: %d, want at least 1", c.MaxBatchBytes)
	check(c.HeldBytes >= 1, "held bytes: %d, want at least 1", c.HeldBytes)
	check(c.TargetLatency > 0, "target latency: %v, want more than 0", c.TargetLatency)
	check(c.Grace > 0, "grace: %v, want more than 0", c.Grace)
	for name, b := range map[string]Backoff{"retry": c.Retry, "slow": c.Slow} {
		check(b.Base > 0 && b.Max >= b.Base, "%s: %v to %v, want more than 0 and in order", name, b.Base, b.Max)
	}
	return errors.Join(errs...)
}

// Pipeline moves entries from the log into the store. See the package comment
// for its promise.
type Pipeline struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	gate    *gate
	sizer   *sizer
	meter   meter

	// taking is held by the worker that takes from the log. One at a time, so
	// that they do not share out between them what would make one full batch,
	// and so that each asks for a batch of the size that is right just then.
	taking chan struct{}

	rested rested

	tuning atomic.Pointer[Tuning] // that of cfg, or of Configure since
}

// NewPipeline returns a pipeline that is ready to Run.
func NewPipeline(cfg Config) (*Pipeline, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure pipeline: %w", err)
	}
	cfg = cfg.withDefaults()
	m, err := newMetrics(cfg.Registerer, cfg.Store)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	g := newGate(cfg.Workers, cfg.Retry, rand.Uint64)
	g.breakers = cfg.Breakers
	p := &Pipeline{cfg: cfg, log: cfg.Logger, metrics: m, gate: g,
		sizer:  newSizer(cfg.BatchSize, cfg.MaxBatch, cfg.TargetLatency),
		taking: make(chan struct{}, 1)}
	p.tuning.Store(cfg.tuning())
	return p, nil
}

// Run moves entries until ctx ends; then it takes no more, gives inserts under
// way their grace, completes what they stored, and returns nil. What was taken
// and not stored stays in the log. An error means that the log has failed.
func (p *Pipeline) Run(ctx context.Context) error {
	taking, stop := context.WithCancelCause(ctx) // ends when ctx does, or a worker fails
	defer stop(nil)
	work, release := withGrace(taking, func() time.Duration { return p.Tuning().Grace })
	defer release()
	defer p.gate.watch()()

	var wg sync.WaitGroup
	errs := make([]error, p.cfg.Workers+1)
	if p.cfg.Dispatcher != nil {
		wg.Go(func() {
			if err := p.detour(taking, work); err != nil {
				errs[p.cfg.Workers] = err
				stop(err)
			}
		})
	}
	for i := range p.cfg.Workers {
		wg.Go(func() {
			if errs[i] = p.work(taking, work); errs[i] != nil {
				stop(errs[i])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// errGrace is the cause of a context that outlived its parent for long enough.
var errGrace = errors.New("grace period is over")

// withGrace returns a context that ends a while after its parent. release ends
// it at once, and returns when nothing is left of it.
func withGrace(parent context.Context, grace func() time.Duration) (ctx context.Context, release func()) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(parent))
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-ctx.Done():
			return
		case <-parent.Done():
		}
		timer := time.NewTimer(grace())
		defer timer.Stop()
		select {
		case <-ctx.Done():
		case <-timer.C:
			cancel(errGrace)
		}
	})
	return ctx, func() {
		cancel(nil)
		wg.Wait()
	}
}
