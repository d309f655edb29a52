package sink

// Places are what calls under way take: of an account, of a host, and of what
// strangers may have together.

// takePlacesLocked and givePlacesLocked count a call of account and host.
func (o *outlet) takePlacesLocked(j *job) {
	j.account.inflight++
	j.host.inflight++
	if j.strange = j.host.strange(); j.strange {
		o.strangers.calls++
		j.account.strangers++
	}
}

func (o *outlet) givePlacesLocked(j *job) {
	j.account.inflight--
	j.host.inflight--
	if j.strange {
		j.strange = false
		o.strangers.calls--
		j.account.strangers--
	}
}

// fullLocked reports whether the host has as much in flight as it may. A channel
// with one service for all is held to its workers alone.
func (o *outlet) fullLocked(h *host) bool {
	return h.shared() && h.inflight >= min(o.d.delivery.PerHost, h.width)
}

// promoteLocked gives free places of the host to jobs that wait for one.
func (o *outlet) promoteLocked(h *host) {
	for p := range h.aside {
		q := &h.aside[p]
		for n := q.len(); n > 0 && !o.fullLocked(h); n-- {
			j := q.pop()
			if j.account.inflight >= o.d.delivery.PerAccount || o.barredLocked(h, j.account) {
				q.push(j)
				continue
			}
			o.leftAsideLocked(j)
			o.takePlacesLocked(j)
			o.express[p].push(j)
		}
	}
	o.noteStrangerLocked(h)
}

// promoteAllLocked gives the places that a job had to others that wait for them.
func (o *outlet) promoteAllLocked(j *job) {
	o.promoteLocked(j.host)
	for h := range j.account.aside {
		if j.account.inflight >= o.d.delivery.PerAccount {
			break
		}
		o.promoteLocked(h)
	}
	o.promoteStrangersLocked()
	o.enterLocked(j.account)
}

func (o *outlet) leftAsideLocked(j *job) {
	if j.account.aside[j.host]--; j.account.aside[j.host] == 0 {
		delete(j.account.aside, j.host)
	}
}
