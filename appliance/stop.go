package appliance

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// This file is how the appliance ends: in order, or after a failure.

// failureGrace is how long the parts get to end after one of them has failed. A
// disk that hangs would otherwise keep the process from ending, and with it
// from being started again.
const failureGrace = 3 * time.Second

// awaitAll waits for the goroutines of Run; after a failure not for ever.
func (a *Appliance) awaitAll(parts *sync.WaitGroup, failure error) {
	if failure == nil {
		parts.Wait()
		return
	}
	ended := make(chan struct{})
	go func() {
		parts.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(failureGrace):
		a.logger.Error("parts did not end after the failure of one; the process ends without them")
	}
}

// stopping is what Run has started and stop ends.
type stopping struct {
	public                                    *http.Server
	stopDrain, cancelWork                     context.CancelCauseFunc
	stopWatch, stopHold                       context.CancelFunc
	pipeline, delivery, store, socket, limits chan struct{}
}

// stop is the drain order. Each step has its reason for standing where it does.
func (a *Appliance) stop(s stopping) error {
	began := time.Now()
	limit, cancel := context.WithTimeout(context.Background(), a.current().HTTP.ShutdownTimeout)
	defer cancel()
	notify(daemon.SdNotifyStopping)
	a.logger.Info("stopping", "in_flight_connections", a.apiListener.Active(), "waiting", a.log.Waiting())

	// 1. Unready, so that load balancers turn away; new submissions are refused
	// with an answer that says so, not with a closed port. Where the port stays
	// open without us, clients are sent there first, and nothing is refused.
	a.draining.Store(true)
	if a.inherited["api"] != nil {
		a.handOver(limit)
	}
	a.api.Drain()
	a.linger(limit)
	// 2. Requests in flight finish: each may hold an acknowledgement that the
	// log has already made true. Half the time is theirs.
	half, cancelHalf := context.WithTimeout(limit, a.current().HTTP.ShutdownTimeout/2)
	if err := s.public.Shutdown(half); err != nil {
		a.logger.Warn("requests were cut off", "err", err)
		s.public.Close()
	}
	cancelHalf()
	// 3. The pipeline takes nothing more, finishes what it has taken, and records
	// it. What it can't finish is on disk and comes again.
	s.stopDrain(errStopping)
	a.awaitPart(limit, "pipeline", s.pipeline)
	a.awaitPart(limit, "delivery", s.delivery)
	// 4. Nobody takes anything more, so what this node holds of accounts' limits
	// is free for the others, while there is a group to give it back to.
	s.stopHold()
	a.awaitPart(limit, "limits", s.limits)
	// 5. Operators could watch until here.
	s.stopWatch()
	a.awaitPart(limit, "admin socket", s.socket)
	// 6. The store and the replicated state have no users left.
	s.cancelWork(errStopping)
	a.awaitPart(limit, "store", s.store)
	// 7. The log is last: everything above may still have written to it.
	err := a.Close()
	a.logger.Info("stopped", "took", time.Since(began).Round(time.Millisecond).String())
	select {
	case failed := <-a.fatal:
		return errors.Join(failed, err)
	default:
		return err
	}
}

// noticeShare of the shutdown time, a second by default, is how long the port
// stays open for answers that say draining, if anybody is connected to hear it.
const noticeShare = 25

func (a *Appliance) linger(limit context.Context) {
	if a.apiListener.Active() == 0 {
		return
	}
	timer := time.NewTimer(a.current().HTTP.ShutdownTimeout / noticeShare)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-limit.Done():
	}
}

var errStopping = errors.New("the appliance is stopping")

func (a *Appliance) awaitPart(limit context.Context, name string, ended chan struct{}) {
	select {
	case <-ended:
	case <-limit.Done():
		a.logger.Error("a part did not stop in time", "part", name)
	}
}
