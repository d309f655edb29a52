// Package appliance is the composition root: it builds every part, wires them
// together (wiring.go), and starts and stops them in order.
package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"forebay/appliance/config"
	"forebay/appliance/pressure"
	"forebay/appliance/watch"
	"forebay/httpapi"
	"forebay/httpapi/admin"
	"forebay/raftstate"
	"forebay/sink"
	"forebay/wal"
)

// Options are what an Appliance is made of.
type Options struct {
	Config  config.Config // valid, with its secrets read
	Version string
	Logger  *slog.Logger // nil: nothing is logged
	// Heartbeat bounds the silence of the group's leader; 0: the usual second.
	// It is no setting: all nodes must have the same, and tests cannot wait.
	Heartbeat time.Duration
	Settle    time.Duration // see watch.Config: for tests, which cannot wait
	// Listeners are inherited listening sockets by name: api, ops, admin. They
	// take the place of what the configuration says, and stay open in whoever
	// gave them (systemd), so that a restart refuses no connection.
	Listeners map[string]net.Listener

	// Files is where Config came from and a reload reads it anew; without a path
	// there is nothing to reload.
	Files config.Files
	// Process applies what a configuration says of the whole process: its log and
	// its memory. nil: those keys wait for a restart.
	Process func(config.Config) error
	// Probation is how long a change is watched, and taken back if the appliance
	// does worse by it; 0: a minute. Probe says how well it does; nil: by its own
	// figures.
	Probation time.Duration
	Probe     func() Sample
	// Unwatched leaves changed files alone until a reload is asked for.
	Unwatched bool
}

// Appliance is one node: log, replicated state, store, pipeline and listeners.
type Appliance struct {
	cfg      config.Config
	beat     time.Duration
	version  string
	logger   *slog.Logger
	registry *prometheus.Registry
	started  time.Time

	log        *wal.Log
	group      *raftstate.Group
	store      sink.Store
	pipeline   *sink.Pipeline
	dispatcher *sink.Dispatcher
	delivery   *delivery
	reloads    *reloads
	limits     *rateLimit
	stored     *notifier
	api        *httpapi.API
	admin      *admin.Handler
	watch      *watch.Watch

	leaseRate ratePerSecond // of the limiter, for the status
	observed

	inherited map[string]net.Listener
	pressure  *pressure.Gauge
	memory    *pressure.MemoryMeter
	pressed   atomic.Pointer[pressureLimits]

	apiListener *httpapi.Listener
	opsListener net.Listener // nil: none
	socket      net.Listener

	fatal     chan error // capacity 1: a part that must not go on
	stopAsked chan struct{}
	stopOnce  sync.Once
	draining  atomic.Bool
	failed    atomic.Bool
	closeOnce sync.Once
	closeErr  error
}

// New opens the log, the replicated state and the store, and binds the
// listeners; nothing is served before Run. A log that is damaged is a
// *wal.DamagedError. Whoever called New must call Close.
func New(o Options) (a *Appliance, err error) {
	a = &Appliance{cfg: o.Config, beat: o.Heartbeat, version: o.Version, logger: o.Logger, registry: prometheus.NewRegistry(),
		started: time.Now(), inherited: o.Listeners, stored: newNotifier(), fatal: make(chan error, 1), stopAsked: make(chan struct{})}
	if a.logger == nil {
		a.logger = slog.New(slog.DiscardHandler)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
			a = nil
		}
	}()
	a.registry.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.MetricsGC, collectors.MetricsScheduler)))
	if err := os.MkdirAll(a.cfg.DataDir, 0o700); err != nil {
		return a, fmt.Errorf("make the data directory: %w", err)
	}
	for _, step := range []func() error{a.openLog, func() error { return a.openReloads(o) }, a.openGroup, a.buildLimits, a.openStore, a.buildDispatcher, a.buildPipeline, a.buildPressure, a.buildAPI, func() error { return a.buildWatch(o.Settle) }, a.buildAdmin, a.answerNodes, a.listen} {
		if err := step(); err != nil {
			return a, err
		}
	}
	return a, nil
}

// die ends Run with an error. Parts call it from any goroutine when they must
// not go on; the first one counts.
func (a *Appliance) die(err error) {
	select {
	case a.fatal <- err:
	default:
	}
}

func (a *Appliance) listen() (err error) {
	limit, err := connectionLimit(a.cfg)
	if err != nil {
		return err
	}
	if limit < a.cfg.HTTP.MaxConnections {
		a.logger.Info("fewer connections than configured: the file limit of the process or memory.limit allows no more", "max_connections", limit, "configured", a.cfg.HTTP.MaxConnections)
	}
	inner, err := a.listenOn("api", a.cfg.HTTP.Listen)
	if err != nil {
		return fmt.Errorf("listen for the public API (http.listen): %w", err)
	}
	certificate, err := loadCertificate(a.cfg.HTTP)
	if err != nil {
		return errors.Join(err, inner.Close())
	}
	a.apiListener = a.api.Listener(inner, certificate)
	a.noteCertificate(certificate)
	if a.opsListener, err = a.listenOn("ops", a.cfg.HTTP.OpsListen); err != nil {
		return fmt.Errorf("listen for operators (http.ops_listen): %w", err)
	}
	if a.socket = a.inherited["admin"]; a.socket == nil {
		if a.socket, err = admin.ListenSocket(a.cfg.AdminSocket()); err != nil {
			return fmt.Errorf("listen on the admin socket (http.admin_socket): %w", err)
		}
	}
	return nil
}

// listenOn returns the inherited socket of that name, or listens on address; nil
// where that is empty.
func (a *Appliance) listenOn(name, address string) (net.Listener, error) {
	if l := a.inherited[name]; l != nil {
		if l.Addr().String() != address {
			a.logger.Info("the socket comes from the service manager; the configured address is not used",
				"socket", name, "address", l.Addr().String(), "configured", address)
		}
		return l, nil
	}
	if address == "" {
		return nil, nil
	}
	return net.Listen("tcp", address)
}

// Addr is where the public API listens.
func (a *Appliance) Addr() net.Addr { return a.apiListener.Addr() }

// OpsAddr is where operators' routes are served; nil: nowhere.
func (a *Appliance) OpsAddr() net.Addr {
	if a.opsListener == nil {
		return nil
	}
	return a.opsListener.Addr()
}

// Socket is the path of the admin socket.
func (a *Appliance) Socket() string { return a.cfg.AdminSocket() }

// Drain begins a graceful stop, as if Run's context had ended.
func (a *Appliance) Drain() { a.stopOnce.Do(func() { close(a.stopAsked) }) }

// Run serves until ctx ends or Drain is called, and then stops in order, within
// http.shutdown_timeout: nil. An error means that a part has failed; then
// nothing is drained, for nothing may be trusted: the process must end and the
// next start verifies.
func (a *Appliance) Run(ctx context.Context) (err error) {
	work, cancelWork := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancelWork(nil)
	drain, stopDrain := context.WithCancelCause(work)
	defer stopDrain(nil)

	var parts sync.WaitGroup
	run := func(name string, part func() error) chan struct{} {
		ended := make(chan struct{})
		parts.Go(func() {
			defer close(ended)
			if err := part(); err != nil {
				a.die(fmt.Errorf("%s: %w", name, err))
			}
		})
		return ended
	}
	defer func() { a.awaitAll(&parts, err) }()

	run("replicated state", func() error { return a.group.Run(work) })
	store := run("store", func() error { return a.store.Run(work) })
	pipeline := run("pipeline", func() error {
		a.awaitStore(drain)
		return a.pipeline.Run(drain)
	})
	hold, stopHold := context.WithCancel(work)
	defer stopHold()
	limits := run("limits", func() error { return a.limits.spender.Run(hold, returnGrace) })
	delivery := run("delivery", func() error { return a.dispatcher.Run(drain) })
	a.runDuties(run, drain)
	public := a.api.Server()
	run("public API", func() error { return a.servePublic(drain, public) })
	defer public.Close() // after a failure; a graceful stop has shut it down
	watch, stopWatch := context.WithCancel(work)
	defer stopWatch()
	run("pressure", func() error { return a.pressure.Run(watch) })
	run("watch", func() error { return a.watch.Run(watch) })
	socket := run("admin socket", func() error { return a.admin.ServeSocket(watch, a.socket) })
	if a.opsListener != nil {
		run("operators' routes", func() error { return a.admin.ServeOps(watch, a.opsListener) })
	}

	if err := a.group.WaitLeader(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("replicated state: %w", err)
	}
	a.logger.Info("ready", "version", a.version, "node", a.cfg.Node, "api", a.Addr().String(), "data_dir", a.cfg.DataDir,
		"waiting", a.log.Waiting(), "started_in", time.Since(a.started).Round(time.Millisecond).String())
	notify(daemon.SdNotifyReady)
	run("watchdog", func() error { return a.feedWatchdog(watch) })

	select {
	case err := <-a.fatal:
		a.failed.Store(true)
		cancelWork(err)
		return err
	case <-a.stopAsked:
	case <-ctx.Done():
	}
	return a.stop(stopping{public, stopDrain, cancelWork, stopWatch, stopHold, pipeline, delivery, store, socket, limits})
}

// servePublic takes clients in, once the accounts are known, until the server is
// shut down.
func (a *Appliance) servePublic(ctx context.Context, public *http.Server) error {
	a.awaitAccounts(ctx)
	err := public.Serve(a.apiListener)
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, httpapi.ErrHandedOver) {
		return nil
	}
	return err
}

// runDuties starts what nobody waits for.
func (a *Appliance) runDuties(run func(string, func() error) chan struct{}, until context.Context) {
	run("reports", func() error { return a.sweepUnreported(until) })
	run("webhook addresses", func() error { return a.delivery.channels.patience.Run(until) })
	run("audit", func() error { return a.auditDaily(until) })
	run("configuration", func() error { return a.reloads.run(until, a.Reload) })
}

// storeHeadStart is what a store gets to connect before the pipeline may say
// that it is down.
const storeHeadStart = 5 * time.Second

func (a *Appliance) awaitStore(ctx context.Context) {
	_ = awaitUp(ctx, a.store, storeHeadStart) // that it is down is the pipeline's to say
}

// Close releases everything: after Run, or instead of it. It is safe to call
// more than once. After a failure it waits a few seconds at most: what could not
// be closed by then goes with the process.
func (a *Appliance) Close() error {
	if !a.failed.Load() {
		return a.close()
	}
	closed := make(chan error, 1)
	go func() { closed <- a.close() }()
	select {
	case err := <-closed:
		return err
	case <-time.After(failureGrace):
		return errors.New("not everything could be closed after the failure")
	}
}

func (a *Appliance) close() error {
	a.closeOnce.Do(func() {
		var errs []error
		closeIf := func(open bool, name string, fn func() error) {
			if !open {
				return
			}
			if err := fn(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, fmt.Errorf("close %s: %w", name, err))
			}
		}
		closeIf(a.apiListener != nil, "listener", func() error { return a.apiListener.Close() })
		closeIf(a.opsListener != nil, "operators' listener", func() error { return a.opsListener.Close() })
		closeIf(a.socket != nil, "admin socket", func() error { return a.socket.Close() })
		closeIf(a.delivery != nil, "channels", func() error { return a.delivery.channels.close() })
		closeIf(a.store != nil, "store", func() error { return a.store.Close() })
		closeIf(a.group != nil, "replicated state", func() error { return a.group.Close() })
		closeIf(a.memory != nil, "memory meter", func() error { return a.memory.Close() })
		closeIf(a.log != nil, "log", func() error { return a.log.Close() })
		a.closeErr = errors.Join(errs...)
	})
	return a.closeErr
}

// notify tells systemd, if it is there.
func notify(state string) { _, _ = daemon.SdNotify(false, state) }

func (a *Appliance) path(name string) string { return filepath.Join(a.cfg.DataDir, name) }
