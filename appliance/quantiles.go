package appliance

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"forebay/httpapi/admin"
)

const (
	recentEvery = time.Second
	recentSpan  = 10 // times recentEvery: what "lately" is
)

// recent makes quantiles of late of a histogram that counts since the start: it
// remembers what the buckets were some seconds ago. Somebody must read it about
// once a second; the watch does.
type recent struct {
	mu     sync.Mutex // guards what follows
	ring   [recentSpan + 1][]uint64
	n      int
	at     time.Time
	bounds []float64 // of the buckets, in seconds; the last one is open
}

// read returns the quantiles of the last ten seconds, each at most one bucket
// too high; all are 0 where nothing was counted.
func (r *recent) read(now time.Time, m prometheus.Metric) admin.Quantiles {
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		return admin.Quantiles{}
	}
	h := out.GetHistogram()
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := make([]uint64, 0, len(h.GetBucket())+1)
	r.bounds = r.bounds[:0]
	for _, b := range h.GetBucket() {
		counts = append(counts, b.GetCumulativeCount())
		r.bounds = append(r.bounds, b.GetUpperBound())
	}
	counts = append(counts, h.GetSampleCount())
	if now.Sub(r.at) >= recentEvery-recentEvery/10 { // the ticks of a busy machine come early, too
		r.ring[r.n%len(r.ring)] = counts
		r.n++
		r.at = now
	}
	before := make([]uint64, len(counts)) // in the first seconds, since the start
	if r.n >= len(r.ring) {
		before = r.ring[r.n%len(r.ring)]
	}
	return admin.Quantiles{P50: r.quantileLocked(counts, before, 0.5), P90: r.quantileLocked(counts, before, 0.9), P99: r.quantileLocked(counts, before, 0.99)}
}

// quantileLocked estimates linearly within the bucket.
func (r *recent) quantileLocked(now, before []uint64, q float64) float64 {
	total := now[len(now)-1] - before[len(before)-1]
	if total == 0 {
		return 0
	}
	rank, lower, passed := q*float64(total), 0.0, 0.0
	for i, bound := range r.bounds {
		count := float64(now[i] - before[i])
		if count >= rank && count > passed {
			return lower + (bound-lower)*(rank-passed)/(count-passed)
		}
		lower, passed = bound, count
	}
	return lower
}
