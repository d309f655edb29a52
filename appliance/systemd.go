package appliance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// This file is what the appliance does for a service manager: it takes over
// listening sockets, hands them on, and feeds the watchdog.

const (
	// handOverShare of the shutdown time, five seconds by default, is how long
	// clients with open connections have for the request that moves them on.
	handOverShare = 5
	handOverLook  = 10 * time.Millisecond
)

// handOver serves open connections until each has had its last answer. New ones
// wait in the queue of the socket for the next process.
func (a *Appliance) handOver(limit context.Context) {
	a.api.HandOver()
	if err := a.apiListener.HandOver(); err != nil && !errors.Is(err, net.ErrClosed) {
		a.logger.Warn("the listener could not be handed over", "err", err)
		return
	}
	limit, cancel := context.WithTimeout(limit, a.current().HTTP.ShutdownTimeout/handOverShare)
	defer cancel()
	look := time.NewTicker(handOverLook)
	defer look.Stop()
	for a.apiListener.Active() > 0 {
		select {
		case <-look.C:
		case <-limit.Done():
			return
		}
	}
}

// accountsHeadStart is how long clients on an inherited socket wait for the
// accounts to be loaded, rather than being told that they are not.
const accountsHeadStart = 10 * time.Second

func (a *Appliance) awaitAccounts(ctx context.Context) {
	if a.inherited["api"] == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, accountsHeadStart)
	defer cancel()
	_ = a.group.WaitLeader(ctx) // an error is Run's, and the API says what is missing
}

// feedsPerInterval is how often the watchdog is fed within the time after which
// it bites: one feed may fail.
const feedsPerInterval = 3

// feedWatchdog tells the service manager that the appliance works, for as long
// as that is true: a message would get through the log and back. It returns when
// ctx ends, or at once where nobody watches.
func (a *Appliance) feedWatchdog(ctx context.Context) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read the watchdog's interval: %w", err)
	}
	if interval == 0 {
		return nil
	}
	tick := time.NewTicker(interval / feedsPerInterval)
	defer tick.Stop()
	for {
		if err := a.selfCheck(ctx, interval/2); err == nil {
			notify(daemon.SdNotifyWatchdog)
		} else if ctx.Err() == nil {
			a.logger.Error("the self-check failed; if it goes on, the service manager ends the process", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// selfCheck is an append and a read, within limit.
func (a *Appliance) selfCheck(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return a.log.SelfCheck(ctx)
}
