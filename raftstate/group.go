package raftstate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Times of a group of one: nobody else can win, so it need not wait for anyone.
const (
	aloneTimeout = 50 * time.Millisecond
	retryPause   = 50 * time.Millisecond
	leadRetry    = time.Second
	closeLimit   = 10 * time.Second
	logCacheSize = 512
)

// The errors of a change, beside *account.Error.
var (
	// ErrUnknownOutcome: the change may or may not have happened. Look, or ask
	// for it again if twice does no harm.
	ErrUnknownOutcome = errors.New("it is not known whether the change was made")
	// ErrClosed: the group is shutting down.
	ErrClosed = errors.New("raft state is closed")

	errDeadline = errors.New("no answer in time")
)

// Group is this node's part of the replicated state. It is safe for concurrent
// use. Open makes one, Run keeps it going, Close ends it; changes need Run.
type Group struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	machine *machine
	disk    *disk
	watch   *watchdog
	raft    *raft.Raft

	ready     chan struct{} // closed when the state has been caught up with, once
	readyOnce sync.Once
	isReady   atomic.Bool // the same, for the hot path
	clock     clock

	dead     chan struct{} // closed before Config.Fatal is called
	deathErr error         // what Fatal is called with; read after dead

	waits sync.WaitGroup // goroutines that wait for raft's futures

	closeMu sync.RWMutex // held for reading where waits grows
	closed  bool
}

// Open opens the state in cfg.Dir and joins its group; a new directory founds a
// group of one. The error is a *DamagedError for what cannot be read, and wraps
// ErrInUse while another process has the directory.
func Open(cfg Config) (*Group, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	g := &Group{cfg: cfg, log: cfg.Logger, ready: make(chan struct{}), dead: make(chan struct{})}
	g.metrics = newMetrics(cfg.Registerer)
	var once sync.Once
	end := func(err error) {
		once.Do(func() {
			g.deathErr = err
			close(g.dead)
			cfg.Fatal(err)
		})
	}
	g.machine = newMachine(end, g.metrics)
	if err := g.openBreakers(); err != nil {
		return nil, err
	}

	var err error
	if g.disk, err = openDisk(cfg); err != nil {
		return nil, fmt.Errorf("open raft state: %w", err)
	}
	g.watch = newWatchdog(g.disk.log, g.disk.log, cfg.StallLimit, end)
	if err = g.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("open raft state: %w", err), g.disk.close())
	}
	return g, nil
}

// start starts raft on the open disk.
func (g *Group) start() error {
	transport, address := openTransport(g.cfg)
	id := serverID(g.cfg.NodeID)
	logs, err := raft.NewLogCache(logCacheSize, g.watch)
	if err != nil {
		return fmt.Errorf("make log cache: %w", err)
	}
	conf := raftConfig(g.cfg, id)
	exists, err := raft.HasExistingState(logs, g.watch, g.disk.snapshots)
	if err != nil {
		return &DamagedError{Path: filepath.Join(g.disk.dir, logFile), Err: err}
	}
	if !exists {
		members := raft.Configuration{Servers: []raft.Server{{ID: id, Address: address}}}
		if err := raft.BootstrapCluster(conf, logs, g.watch, g.disk.snapshots, transport, members); err != nil {
			return fmt.Errorf("found group: %w", err)
		}
	}
	// Founded or found: from here on a missing log is damage.
	if err := g.disk.own(g.cfg.NodeID); err != nil {
		return err
	}
	err = guard(filepath.Join(g.disk.dir, logFile), func() (err error) {
		g.raft, err = raft.NewRaft(conf, g.machine, logs, g.watch, g.disk.snapshots, transport)
		return err
	})
	switch {
	case err == nil:
		return nil
	case g.machine.restoreErr != nil: // raft only logs it
		return &DamagedError{Path: filepath.Join(g.disk.dir, "snapshots"), Err: g.machine.restoreErr}
	case errors.As(err, new(*DamagedError)):
		return err
	}
	// All that raft does before it runs is to read.
	return &DamagedError{Path: filepath.Join(g.disk.dir, logFile), Err: err}
}

func raftConfig(cfg Config, id raft.ServerID) *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = id
	conf.HeartbeatTimeout = aloneTimeout
	conf.ElectionTimeout = aloneTimeout
	conf.LeaderLeaseTimeout = aloneTimeout
	conf.SnapshotThreshold = cfg.SnapshotThreshold
	// A buffered channel would lose what is in it at shutdown: futures that are
	// never answered. Commands that wait are taken together without it, too.
	conf.BatchApplyCh = false
	conf.NoLegacyTelemetry = true
	conf.Logger = &raftLogger{Logger: cfg.Logger}
	return conf
}

// openTransport is the one place that decides how members reach each other. A
// group of one has nobody to reach.
func openTransport(cfg Config) (raft.Transport, raft.ServerAddress) {
	address, transport := raft.NewInmemTransport(raft.ServerAddress("node-" + strconv.Itoa(int(cfg.NodeID))))
	return transport, address
}

func serverID(node uint16) raft.ServerID { return raft.ServerID(strconv.Itoa(int(node))) }

// Run keeps the group going until ctx ends: it leads when elected, and watches
// the disk.
func (g *Group) Run(ctx context.Context) error {
	var watching sync.WaitGroup
	watching.Go(func() { g.watch.run(ctx) })
	watching.Go(func() { _ = g.Breakers().Run(ctx) }) // it returns no error
	defer watching.Wait()

	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case leads := <-g.raft.LeaderCh():
			again = nil
			g.metrics.leader.Set(0)
			if !leads {
				g.log.Warn("raft: this node does not lead any more")
				continue
			}
		case <-again:
		}
		err := g.lead(ctx)
		select {
		case <-g.dead: // Fatal has been told; another try would say the same
			<-ctx.Done()
			return nil
		default:
		}
		if err != nil && ctx.Err() == nil {
			g.log.Error("raft: taking the lead failed, trying again", "error", err, "in", leadRetry)
			again = time.After(leadRetry)
		}
	}
}

// lead makes a new leader fit to serve: it has applied all that was committed
// before, its clock goes on from there, and the plans are the configured ones.
func (g *Group) lead(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.CommandTimeout)
	defer cancel()
	err := g.await(ctx, func() error { return g.raft.Barrier(g.cfg.CommandTimeout).Error() })
	if err != nil {
		return fmt.Errorf("apply the log: %w", err)
	}
	g.machine.mu.RLock()
	stamp, err := g.machine.stamp, g.machine.broken
	g.machine.mu.RUnlock()
	if err != nil {
		return err
	}
	g.clock.reset(stamp)
	if _, err := g.setPlans(ctx, g.cfg.Plans); err != nil {
		return fmt.Errorf("set plans: %w", err)
	}
	if err := g.setBreakers(ctx, g.cfg.Breakers); err != nil {
		return fmt.Errorf("set breakers: %w", err)
	}
	g.metrics.leader.Set(1)
	g.log.Info("raft: this node leads", "term", g.raft.CurrentTerm())
	g.readyOnce.Do(func() {
		g.isReady.Store(true)
		close(g.ready)
	})
	return nil
}

// WaitLeader returns once the group has a leader and this node has caught up
// with it: Authenticate and changes work from then on. It also returns, with
// its error, when Config.Fatal has been called.
func (g *Group) WaitLeader(ctx context.Context) error {
	select {
	case <-g.dead:
		return g.deathErr
	case <-g.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for a leader: %w", context.Cause(ctx))
	}
}

// Close stops raft and closes the log; it is an error if that hangs. Run should
// have returned.
func (g *Group) Close() error {
	g.closeMu.Lock()
	again := g.closed
	g.closed = true
	g.closeMu.Unlock()
	if again {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	done := make(chan error, 1)
	go func() { // joined below, or given up with the process when the disk hangs
		err := g.raft.Shutdown().Error()
		g.waits.Wait()
		done <- errors.Join(err, g.disk.close())
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("close raft state: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close raft state: %w", errDeadline)
	}
}

// await runs f, which waits for one of raft's futures, no longer than ctx: the
// futures themselves know no deadline and may never be answered.
func (g *Group) await(ctx context.Context, f func() error) error {
	g.closeMu.RLock()
	if g.closed {
		g.closeMu.RUnlock()
		return ErrClosed
	}
	done := make(chan error, 1)
	g.waits.Go(func() { done <- f() })
	g.closeMu.RUnlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errDeadline
	}
}
