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
	cfg       Config
	log       *slog.Logger
	metrics   *metrics
	machine   *machine
	disk      *disk
	watch     *watchdog
	raft      *raft.Raft
	transport raft.Transport
	port      *port // nil: a group of one that nobody can join
	calls     *calls
	peers     *peers

	ready     chan struct{} // closed when the state has been caught up with, once
	readyOnce sync.Once
	isReady   atomic.Bool // for the hot path; false again when the node is expelled
	expelled  atomic.Bool
	transfers atomic.Int32 // of the leadership, in flight
	clock     clock

	dead     chan struct{} // closed before Config.Fatal is called
	deathErr error         // what Fatal is called with; read after dead
	fatal    func(error)   // once

	leases leases

	waits sync.WaitGroup // goroutines that wait for raft's futures

	closeMu sync.RWMutex // held for reading where waits grows
	closed  bool
}

// Open opens the state in cfg.Dir and joins its group; a new directory founds
// one as Config.Cluster says. The error is a *DamagedError for what cannot be
// read, and wraps ErrInUse while another process has the directory.
func Open(cfg Config) (*Group, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	g, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	if g.disk, err = openDisk(cfg); err != nil {
		return nil, fmt.Errorf("open raft state: %w", err)
	}
	g.watch = newWatchdog(g.disk.log, g.disk.log, g.disk.sync.Check, cfg.StallLimit, g.fatal)
	if err = g.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("open raft state: %w", err), g.closePort(), g.disk.close())
	}
	return g, nil
}

// prepare makes a group with an empty state and nothing behind it.
func prepare(cfg Config) (*Group, error) {
	g := &Group{cfg: cfg, log: cfg.Logger, peers: newPeers(), leases: newLeases(), ready: make(chan struct{}), dead: make(chan struct{})}
	g.metrics = newMetrics(cfg.Registerer)
	var once sync.Once
	g.fatal = func(err error) {
		once.Do(func() {
			g.deathErr = err
			close(g.dead)
			cfg.Fatal(err)
		})
	}
	g.machine = newMachine(g.fatal, g.metrics)
	if err := g.openBreakers(); err != nil {
		return nil, err
	}
	return g, nil
}

// openPort binds the cluster port; it is served from the end of start on.
func (g *Group) openPort() (err error) {
	if !g.cfg.Cluster.alone() {
		if g.port, err = openPort(g.cfg.NodeID, g.cfg.Cluster, g.addresses, g.log); err != nil {
			return err
		}
	}
	g.calls = newCalls(g.cfg.NodeID, g.port)
	g.calls.handle(callPropose, g.answerPropose)
	g.calls.handle(callLease, g.answerLease)
	g.calls.handle(callPing, g.answerPing)
	g.calls.handle(callMembers, g.answerMembers)
	g.calls.handle(callReach, g.answerReach)
	return nil
}

func (g *Group) closePort() error {
	if g.port == nil {
		return nil
	}
	err := g.port.close()
	g.calls.close()
	return err
}

// start starts raft on the open disk.
func (g *Group) start() error {
	if err := g.openPort(); err != nil {
		return err
	}
	id := serverID(g.cfg.NodeID)
	logs, err := raft.NewLogCache(logCacheSize, g.watch)
	if err != nil {
		return fmt.Errorf("make log cache: %w", err)
	}
	conf := raftConfig(g.cfg, id)
	transport := g.openTransport()
	if err := g.found(conf, logs, transport); err != nil {
		return errors.Join(err, closeTransport(transport))
	}
	err = guard(filepath.Join(g.disk.dir, logFile), func() (err error) {
		g.raft, err = raft.NewRaft(conf, g.machine, logs, g.watch, g.disk.snapshots, transport)
		return err
	})
	switch {
	case err == nil:
	case g.machine.restoreErr != nil: // raft only logs it
		err = &DamagedError{Path: filepath.Join(g.disk.dir, "snapshots"), Err: g.machine.restoreErr}
	case !errors.As(err, new(*DamagedError)):
		// All that raft does before it runs is to read.
		err = &DamagedError{Path: filepath.Join(g.disk.dir, logFile), Err: err}
	}
	if err == nil {
		if err = g.checkMembers(); err != nil {
			err = errors.Join(err, g.raft.Shutdown().Error())
		}
	}
	if err != nil {
		return errors.Join(err, closeTransport(transport))
	}
	g.transport = transport
	if g.port != nil {
		g.port.serve()
		g.calls.start()
	}
	return nil
}

func closeTransport(t raft.Transport) error {
	if n, ok := t.(*memberTransport); ok {
		n.CloseStreams()
		return n.Close()
	}
	return nil
}

func raftConfig(cfg Config, id raft.ServerID) *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = id
	conf.HeartbeatTimeout = aloneTimeout
	conf.ElectionTimeout = aloneTimeout
	conf.LeaderLeaseTimeout = aloneTimeout
	if beat := cfg.Cluster.Heartbeat; !cfg.Cluster.alone() {
		conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = beat, beat, beat/2
		conf.CommitTimeout = min(conf.CommitTimeout, beat/10)
	}
	// A node that is removed stays, and says so, until it is stopped or added again.
	conf.ShutdownOnRemove = false
	conf.SnapshotThreshold, conf.TrailingLogs = cfg.SnapshotThreshold, cfg.TrailingLogs
	// A buffered channel would lose what is in it at shutdown: futures that are
	// never answered. Commands that wait are taken together without it, too.
	conf.BatchApplyCh = false
	conf.NoLegacyTelemetry = true
	conf.Logger = &raftLogger{Logger: cfg.Logger}
	return conf
}

func serverID(node uint16) raft.ServerID { return raft.ServerID(strconv.Itoa(int(node))) }

// Run keeps the group going until ctx ends: it leads when elected, and watches
// the disk.
func (g *Group) Run(ctx context.Context) error {
	var watching sync.WaitGroup
	watching.Go(func() { g.watch.run(ctx) })
	watching.Go(func() { _ = g.Breakers().Run(ctx) }) // it returns no error
	if g.port != nil {
		watching.Go(func() { g.keepInTouch(ctx) })
	}
	watching.Go(func() { g.runLeases(ctx) })
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
	// The term comes first: a barrier that holds was of that term or a later one,
	// and a clock for a term that is over is not used.
	term := g.raft.CurrentTerm()
	err := g.await(ctx, func() error { return g.raft.Barrier(g.cfg.CommandTimeout).Error() })
	if errors.Is(err, raft.ErrLeadershipTransferInProgress) && g.transfers.Load() == 0 {
		g.fatal(errors.New("raft has not noticed the end of a transfer of the leadership, and would refuse all changes: a new start mends it"))
	}
	if err != nil {
		return fmt.Errorf("apply the log: %w", err)
	}
	g.machine.mu.RLock()
	stamp, err := g.machine.stamp, g.machine.broken
	g.machine.mu.RUnlock()
	if err != nil {
		return err
	}
	g.clock.reset(stamp, term)
	if err := g.configure(ctx); err != nil {
		return err
	}
	g.metrics.leader.Set(1)
	g.log.Info("raft: this node leads", "term", term)
	g.becomeReady()
	return nil
}

// configure proposes what this node was started with. The settings are the
// group's: what one node's file said at its start must not undo what was agreed
// since, only because that node comes to lead. So a group of several takes them
// from its first leader alone, and a group of one from each start.
func (g *Group) configure(ctx context.Context) error {
	g.machine.mu.RLock()
	_, configured := g.machine.breakers.state.Settings()
	g.machine.mu.RUnlock()
	if configured && (g.isReady.Load() || g.cfg.Cluster.Listen != "") {
		return nil
	}
	if _, err := g.setPlans(ctx, g.cfg.Plans); err != nil {
		return fmt.Errorf("set plans: %w", err)
	}
	if err := g.SetWindow(ctx, g.cfg.Window); err != nil {
		return err
	}
	// Last: that they are there says that all are.
	if err := g.setBreakers(ctx, g.cfg.Breakers); err != nil {
		return fmt.Errorf("set breakers: %w", err)
	}
	return nil
}

func (g *Group) becomeReady() {
	g.isReady.Store(true)
	g.readyOnce.Do(func() { close(g.ready) })
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

func (g *Group) isClosed() bool {
	g.closeMu.RLock()
	defer g.closeMu.RUnlock()
	return g.closed
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
		g.handOver()
		err := g.raft.Shutdown().Error()
		err = errors.Join(err, closeTransport(g.transport), g.closePort())
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
