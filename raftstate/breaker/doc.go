// Package breaker is the circuit breakers that all nodes of a cluster share: one
// for each outside service, by name ("database", "whatsapp", "email",
// "webhook:HOST:PORT").
//
// State is the pure half: a state machine whose commands stand in the replicated
// log. Watch is a node's half: it lets calls through or holds them back in
// nanoseconds, counts how they end, and proposes what the group must know.
//
// # States
//
//	closed ──threshold failures in a row──► open ──recovery time, a node asks──► half-open
//	   ▲                                      ▲                                      │
//	   │                                      └── failure, or no report in time ─────┤
//	   └────────────────────────── success ──────────────────────────────────────────┘
//
// Half-open is one permit for one call of one node; while it is out nobody else
// in the cluster has one for that service. Each failed probe doubles the
// recovery time, to ten times at most; a success sets it back. A node that gets a
// permit and has nothing to call gives it back, which costs nothing. A breaker
// that opened for all is probed by the nodes in turn, for the node that failed
// last may itself be what is ill.
//
// Evidence is kept by node. A node that reaches the threshold while another has
// called the same service with success within the recovery time opens only its
// own breaker (OpenOn); otherwise it opens for all. The question is asked again
// at each failed probe, so an outage that reaches the nodes one after another
// ends as one breaker that is open for all.
//
// # Generations
//
// Each transition gives the breaker a new generation, and a report carries the
// one under which its calls began. A report of another generation is ignored:
// a success that was on its way when the breaker opened does not close it, and
// a command that is repeated or late changes nothing. Generations come from one
// counter for all services, so a service that was forgotten and comes back does
// not begin again with an old one.
//
// # Time
//
// The state's time is that of the commands' stamps, in ms. What a node reports it
// dates by age, never by a clock of its own. A probe's end is noticed at the next
// command about its service; nothing needs to happen at that moment, for until
// then nobody has asked.
//
// # Without a group
//
// A node opens its own breaker at once at the threshold and reports then. While
// the group has no leader, the node goes by its own view: it tries one call at a
// time after the recovery time, which grows with each that fails, and closes after
// one that succeeds. What it found last is reported when there is a leader again,
// and counts if the group still is in the generation that it was about. The same
// holds where the group has heard that a node opened its breaker and has not gone
// along, for want of room or because the threshold has been raised since.
//
// A crash loses what was not reported: failures under the threshold, and the
// result of a probe, which the group then takes for a failure.
package breaker
