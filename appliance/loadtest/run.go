package loadtest

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"math"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// run is one load test.
type run struct {
	cfg      Config
	tls      *tls.Config // nil: plain
	addr     string      // host:port
	requests *requests
	buffers  buffers
	shards   []*shard
	acks     *ackLog // nil: not wanted

	ready sync.WaitGroup // workers that have tried to connect
	begin chan struct{}  // closed when the clock starts; start and end are set before
	start time.Time
	end   time.Time // zero: Count ends it
	next  atomic.Uint64

	firstError atomic.Pointer[string] // of connecting, in words
}

// Run sends messages as c says and returns what came of them. The error tells
// of a configuration that cannot be run, of an appliance that no connection
// could be made to, or of acknowledgements that could not be written down;
// errors of single messages are counted in the Result. When ctx ends, Run stops
// at once and returns what it has.
func Run(ctx context.Context, c Config) (Result, error) {
	if err := c.Validate(); err != nil {
		return Result{}, fmt.Errorf("check load test: %w", err)
	}
	r, err := newRun(c.withDefaults())
	if err != nil {
		return Result{}, err
	}
	var workers sync.WaitGroup
	for i := range r.cfg.Connections {
		w := &worker{run: r, shard: r.shards[i%shards], number: i, timer: time.NewTimer(time.Hour), reader: bufio.NewReaderSize(nil, readBuffer)}
		r.ready.Add(1)
		workers.Go(func() { w.loop(ctx) })
	}
	r.ready.Wait()
	if message := r.firstError.Load(); message != nil && r.snapshot().Errors[kindNames[kindConnect]] >= uint64(r.cfg.Connections) {
		// Nobody there: say so instead of a table full of errors.
		r.begun(time.Time{})
		workers.Wait()
		return Result{}, fmt.Errorf("connect to %s: %s; is the appliance running there?", r.addr, *message)
	}
	r.begun(time.Now())
	finished := make(chan struct{})
	var reporter sync.WaitGroup
	reporter.Go(func() { r.report(finished) })
	workers.Wait()
	close(finished)
	reporter.Wait()
	result := r.result()
	return result, r.acks.flush()
}

func newRun(c Config) (*run, error) {
	if err := checkFileLimit(c.Connections); err != nil {
		return nil, err
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("parse url: %w", err)
	}
	var secure *tls.Config
	port := "80"
	if u.Scheme == "https" {
		secure, port = &tls.Config{RootCAs: c.RootCAs, ServerName: u.Hostname()}, "443"
	}
	return &run{cfg: c, tls: secure, addr: net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port)),
		requests: newRequests(c, u), shards: newShards(), acks: newAckLog(c.Acked), begin: make(chan struct{})}, nil
}

// begun starts the clock; the zero time ends the run before it began.
func (r *run) begun(at time.Time) {
	r.start = at
	if r.cfg.Duration > 0 || at.IsZero() {
		r.end = at.Add(max(r.cfg.Duration, 1))
	}
	close(r.begin)
}

// take returns the next message and when it is due; in a closed loop that is
// the zero time, which is past.
func (r *run) take() (i uint64, due time.Time, ok bool) {
	i = r.next.Add(1) - 1
	if r.cfg.Count > 0 && i >= r.cfg.Count {
		return i, due, false
	}
	if r.cfg.Rate == 0 {
		return i, due, true
	}
	due = r.start.Add(time.Duration(float64(i) / r.cfg.Rate * float64(time.Second)))
	return i, due, r.end.IsZero() || due.Before(r.end)
}

func (r *run) over(now time.Time) bool { return !r.end.IsZero() && !now.Before(r.end) }

// scheduled is how many messages were due by then.
func (r *run) scheduled(then time.Time) uint64 {
	if r.cfg.Rate == 0 {
		return 0
	}
	if !r.end.IsZero() && then.After(r.end) {
		then = r.end
	}
	n := uint64(math.Ceil(max(then.Sub(r.start).Seconds(), 0) * r.cfg.Rate))
	if r.cfg.Count > 0 {
		n = min(n, r.cfg.Count)
	}
	return n
}

func (r *run) connectError(err error) {
	text := err.Error()
	r.firstError.CompareAndSwap(nil, &text)
}

// report calls Progress each second.
func (r *run) report(finished <-chan struct{}) {
	if r.cfg.Progress == nil {
		return
	}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var before Progress
	at := r.start
	for {
		select {
		case <-finished:
			return
		case now := <-ticker.C:
			p := r.progress(now)
			p.Rate = float64(p.OK-before.OK) / now.Sub(at).Seconds()
			r.cfg.Progress(p)
			before, at = p, now
		}
	}
}
