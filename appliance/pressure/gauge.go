package pressure

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Every is the time between two measurements: short enough that what may come in
// between fits into what the rungs leave free.
const Every = 250 * time.Millisecond

// Config is what a Gauge is made of. Measure and Settings are required.
type Config struct {
	// Measure reads all signals. It must not wait for anything.
	Measure  func() Readings
	Settings Settings
	// OnChange is called by Run after the level has changed, and must return at
	// once. nil: nobody is told.
	OnChange func(from, to Level)

	Logger     *slog.Logger          // nil: discarded
	Registerer prometheus.Registerer // nil: metrics are not registered
}

// Gauge measures, and says the level to whoever asks. It is safe for concurrent
// use; reading the level takes no lock.
type Gauge struct {
	cfg      Config
	log      *slog.Logger
	now      atomic.Uint32 // the level, and full
	settings atomic.Pointer[Settings]

	level  prometheus.Gauge
	signal [signals]prometheus.Gauge

	mu       sync.Mutex // guards what follows
	standing Standing
	readings Readings
	since    time.Time
}

const fullBit = 1 << 8

// Validate says what is wrong with the settings.
func (s Settings) Validate() error {
	r := s.Memory
	if s.Window <= 0 || s.Window > 1 {
		return errors.New("pressure: the window's threshold must be over 0 and at most its capacity")
	}
	if r.Elevated <= 0 || r.High <= r.Elevated || r.Critical <= r.High || r.Critical > 1 {
		return errors.New("pressure: the rungs of memory must rise from over 0 to at most 1")
	}
	return nil
}

// New returns a gauge that stands at normal until Run measures.
func New(cfg Config) (*Gauge, error) {
	if cfg.Measure == nil {
		return nil, errors.New("pressure: measure is required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Gauge{cfg: cfg, log: cfg.Logger, since: time.Now()}
	if err := g.Configure(cfg.Settings); err != nil {
		return nil, err
	}
	return g, g.register(cfg.Registerer)
}

func (g *Gauge) register(reg prometheus.Registerer) error {
	g.level = prometheus.NewGauge(prometheus.GaugeOpts{Name: "forebay_pressure_level",
		Help: "Rung of the pressure ladder: 0 normal, 1 elevated, 2 high, 3 critical."})
	vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "forebay_pressure_signal",
		Help: "What pressure follows from, each as a fraction of its limit."}, []string{"signal"})
	for s := range signals {
		g.signal[s] = vec.WithLabelValues(s.String())
	}
	if reg == nil {
		return nil
	}
	return errors.Join(reg.Register(g.level), reg.Register(vec))
}

// Configure changes the settings from the next measurement on.
func (g *Gauge) Configure(s Settings) error {
	if err := s.Validate(); err != nil {
		return err
	}
	g.settings.Store(&s)
	return nil
}

// Settings are those in force.
func (g *Gauge) Settings() Settings { return *g.settings.Load() }

// Level returns the rung, and whether nothing at all may be accepted.
func (g *Gauge) Level() (level Level, full bool) {
	now := g.now.Load()
	return Level(now &^ fullBit), now&fullBit != 0
}

// Run measures until ctx ends.
func (g *Gauge) Run(ctx context.Context) error {
	tick := time.NewTicker(Every)
	defer tick.Stop()
	for {
		g.Measure()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Measure measures once. Run does it.
func (g *Gauge) Measure() {
	readings := g.cfg.Measure()
	g.mu.Lock()
	from := g.standing.Level
	g.standing, g.readings = g.settings.Load().next(g.standing, &readings), readings
	to, full := g.standing.Level, g.standing.Full
	if to != from {
		g.since = time.Now()
	}
	g.mu.Unlock()

	packed := uint32(to)
	if full {
		packed |= fullBit
	}
	g.now.Store(packed)
	g.level.Set(float64(to))
	for s := range signals {
		g.signal[s].Set(readings[s].Value)
	}
	if to == from {
		return
	}
	worst := g.Status().Signals[0]
	g.log.Info("pressure", "from", from.String(), "to", to.String(), "signal", worst.Name, "value", worst.Value, "detail", worst.Detail)
	if g.cfg.OnChange != nil {
		g.cfg.OnChange(from, to)
	}
}

// Status is where the appliance stands, for people.
type Status struct {
	Level   Level
	Full    bool
	Since   time.Time
	Levels  [signals]Level // by signal
	Signals []SignalStatus // the one that counts most first
}

// SignalStatus is one signal of a Status.
type SignalStatus struct {
	Name   string
	Level  Level
	Value  float64
	Detail string
}

// Status returns the last measurement.
func (g *Gauge) Status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Status{Level: g.standing.Level, Full: g.standing.Full, Since: g.since, Levels: g.standing.Levels, Signals: make([]SignalStatus, 0, signals)}
	for signal := range signals {
		r := g.readings[signal]
		s.Signals = append(s.Signals, SignalStatus{Name: signal.String(), Level: g.standing.Levels[signal], Value: r.Value, Detail: r.Detail})
	}
	slices.SortStableFunc(s.Signals, func(a, b SignalStatus) int {
		return cmp.Or(cmp.Compare(b.Level, a.Level), cmp.Compare(b.Value, a.Value))
	})
	return s
}
