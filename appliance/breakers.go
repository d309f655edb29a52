package appliance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"forebay/appliance/config"
	"forebay/httpapi/admin"
	"forebay/raftstate"
	"forebay/raftstate/breaker"
	"forebay/sink"
)

// breakerSettings are what a reload proposes to the group.
func breakerSettings(c config.CircuitBreaker) breaker.Settings {
	return breaker.Settings{Threshold: c.FailureThreshold, Timeout: c.Timeout, Recovery: c.RecoveryTime}
}

// breakersAdapter is the group's breakers as the drain and the delivery see them.
type breakersAdapter struct{ watch *breaker.Watch }

var _ sink.Breakers = breakersAdapter{}

// Acquire implements sink.Breakers.
func (b breakersAdapter) Acquire(service string) (sink.Permit, bool) {
	p, ok := b.watch.Acquire(service)
	if !ok {
		return nil, false
	}
	return permitAdapter{p}, true
}

// RetryAt implements sink.Breakers.
func (b breakersAdapter) RetryAt(service string) time.Time {
	_, at := b.watch.State(service)
	return at
}

// Subscribe implements sink.Breakers.
func (b breakersAdapter) Subscribe(f func(service string, callable bool)) (cancel func()) {
	return b.watch.Subscribe(func(c breaker.Change) { f(c.Service, c.Callable) })
}

type permitAdapter struct{ breaker.Permit }

// Done implements sink.Permit.
func (p permitAdapter) Done(v sink.Verdict, why string) {
	switch v {
	case sink.Success:
		p.Permit.Done(breaker.Success)
	case sink.Failure:
		p.Permit.Failed(why)
	default:
		p.Permit.Done(breaker.Neutral)
	}
}

// storeBreakers are the breakers that the drain asks; nil for a store inside the
// appliance, which is no outside service: its faults are this node's alone.
//
// The store looks at the database by itself every second. When it says that the
// database is there again, the breaker's probe need not wait for the recovery
// time, or the drain would stand still for a minute after a short outage.
func (a *Appliance) storeBreakers() sink.Breakers {
	if !a.sharesStore() {
		return nil
	}
	watch := a.group.Breakers()
	watch.Witness(sink.DatabaseService, func() bool { return a.store.Health().Up })
	return breakersAdapter{watch}
}

// maxShownBreakers bounds what /status.json lists: the hosts of webhooks may be
// thousands.
const maxShownBreakers = 200

func (a *Appliance) breakersStatus(s *admin.Status) {
	for _, b := range a.listBreakers() {
		if quiet := b.State == "closed" && b.Forced == "" && len(b.OpenOn) == 0 && !b.HostOff; quiet && !slices.Contains(breaker.Names, b.Name) {
			continue
		}
		if s.Breakers = append(s.Breakers, b); len(s.Breakers) == maxShownBreakers {
			return
		}
	}
}

// listBreakers lists the breakers this node knows, and the named ones also
// before the first call; ascending by name.
func (a *Appliance) listBreakers() []admin.BreakerStatus {
	known := a.group.Breakers().Services()
	list := make([]admin.BreakerStatus, 0, len(known)+len(breaker.Names))
	seen := map[string]bool{}
	for _, s := range known {
		seen[s.Service] = true
		list = append(list, breakerStatus(s))
	}
	for _, name := range breaker.Names {
		if !seen[name] {
			list = append(list, breakerStatus(breaker.Status{Service: name}))
		}
	}
	list = a.noteHostsOff(list)
	slices.SortFunc(list, func(x, y admin.BreakerStatus) int {
		if x.Name < y.Name {
			return -1
		}
		return 1
	})
	return list
}

func breakerStatus(s breaker.Status) admin.BreakerStatus {
	return admin.BreakerStatus{
		Name: s.Service, State: s.Phase.String(), OpenOn: s.OpenOn, Since: s.Since.UTC(), Failures: uint64(s.Failures), Generation: s.Generation,
		NextProbe: s.RetryAt.UTC(), Probing: s.Probe, Reason: s.Reason, Forced: string(s.Forced), ForcedBy: s.Who, ForcedAt: s.ForcedAt,
	}
}

// breakerChecks are the breakers as /readyz shows them. One that is open
// degrades the appliance; that of a webhook host does not, for it is somebody
// else's server.
func (a *Appliance) breakerChecks() (checks map[string]admin.BreakerCheck, degraded bool) {
	checks = make(map[string]admin.BreakerCheck, len(breaker.Names))
	for name, s := range a.group.Breakers().Worst() {
		checks[name] = admin.BreakerCheck{State: s.Phase.String()}
		degraded = degraded || s.Service == name && s.Phase != breaker.Closed
	}
	return checks, degraded
}

// operatorBreakers is the breakers as the admin API sees them.
type operatorBreakers Appliance

// Breakers implements admin.Breakers.
func (b *operatorBreakers) Breakers() []admin.BreakerStatus { return (*Appliance)(b).listBreakers() }

// ForceBreaker implements admin.Breakers.
func (b *operatorBreakers) ForceBreaker(ctx context.Context, name, position, who string) (admin.BreakerStatus, error) {
	err := b.group.ForceBreaker(ctx, name, breaker.Position(position), who)
	switch {
	case errors.Is(err, raftstate.ErrNoBreaker):
		return admin.BreakerStatus{}, fmt.Errorf("%w: %w", admin.Refuse(admin.CodeNotFound, "there is no breaker of that name; `forebay breaker list` shows those there are"), err)
	case err != nil:
		return admin.BreakerStatus{}, refuse(err)
	}
	for _, s := range b.group.Breakers().Services() {
		if s.Service == name {
			return breakerStatus(s), nil
		}
	}
	return admin.BreakerStatus{Name: name, State: breaker.Closed.String()}, nil
}
