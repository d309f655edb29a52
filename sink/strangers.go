package sink

import "strings"

// A host is a stranger until it has taken a message, and again once it fails. Nobody
// knows how long a call to one takes: to a dead one as long as it may. Clients choose
// hosts, and a few of them could have every worker wait for hosts without end, each
// of which is given one call. So strangers together have half of the workers, beyond
// one for each account: hosts that do take messages are never without, nor is an
// account that writes to a host for the first time.

// strangers are those of an outlet.
type strangers struct {
	calls   int                // with places taken
	waiting map[*host]struct{} // hosts that might have a call, but for the others'
}

// shared reports whether the channel has other hosts beside this one.
func (h *host) shared() bool { return strings.Contains(h.name, ":") }

func (h *host) strange() bool { return h.width == 1 && h.shared() }

// barredLocked reports whether there are calls enough to strangers, of whom the host
// is one.
func (o *outlet) barredLocked(h *host, a *account) bool {
	return h.strange() && a.strangers > 0 && o.strangersFullLocked()
}

func (o *outlet) strangersFullLocked() bool { return o.strangers.calls >= max(o.workers/2, 1) }

// noteStrangerLocked notes a host with jobs aside that only other strangers keep from
// a call.
func (o *outlet) noteStrangerLocked(h *host) {
	if !h.strange() || h.inflight > 0 || h.setAside() == 0 {
		return
	}
	if o.strangers.waiting == nil {
		o.strangers.waiting = map[*host]struct{}{}
	}
	o.strangers.waiting[h] = struct{}{}
}

// promoteStrangersLocked gives free places to hosts that wait for one. Those of the
// account whose call has ended have had theirs before.
func (o *outlet) promoteStrangersLocked() {
	for h := range o.strangers.waiting {
		if o.strangersFullLocked() {
			return
		}
		o.promoteLocked(h)
		if h.inflight > 0 || h.setAside() == 0 {
			delete(o.strangers.waiting, h)
		}
	}
}

// setAside is how many jobs wait for the host.
func (h *host) setAside() (n int) {
	for p := range h.aside {
		n += h.aside[p].len()
	}
	return n
}
