package watch

import (
	"time"

	"forebay/httpapi/admin"
)

// rateSpan is how far a rate looks back, in samples.
const rateSpan = 10

// failures are the codes that are answered with 5xx (httpapi/openapi.yaml); all others are
// the client's.
var failures = map[string]bool{"overloaded": true, "storage_full": true, "draining": true, "unavailable": true}

// tally is what the counters said at one moment.
type tally struct {
	at                        time.Time
	accepted, refused, failed uint64
}

// rates makes rates of counters.
type rates struct {
	ring [rateSpan + 1]tally
	n    int

	refused float64 // refusals a second
	errors  float64 // fraction of submissions that were answered 5xx
}

func (r *rates) add(now time.Time, s *admin.Status) {
	t := tally{at: now, accepted: s.Intake.AcceptedTotal}
	for code, n := range s.Intake.Refused {
		t.refused += n
		if failures[code] {
			t.failed += n
		}
	}
	r.ring[r.n%len(r.ring)] = t
	r.n++
	first := r.ring[0]
	if r.n > len(r.ring) {
		first = r.ring[r.n%len(r.ring)] // the oldest, which the next will overwrite
	}
	took := t.at.Sub(first.at).Seconds()
	if took <= 0 {
		return
	}
	r.refused = float64(t.refused-first.refused) / took
	r.errors = 0
	if all := float64(t.accepted-first.accepted) + float64(t.refused-first.refused); all > 0 {
		r.errors = float64(t.failed-first.failed) / all
	}
}
