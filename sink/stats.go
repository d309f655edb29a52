package sink

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats is what a pipeline says of itself.
type Stats struct {
	Stored    uint64        // records stored since the start, of every outcome
	Rate      float64       // records a second, over the last ten
	BatchSize int           // of the last insert
	Latency   time.Duration // of the last insert
	DownSince time.Time     // zero: the last call found the store up
}

// Stats returns the figures of this moment.
func (p *Pipeline) Stats() Stats {
	s := p.meter.stats(time.Now())
	s.DownSince = p.gate.since()
	return s
}

// BatchDuration is the histogram of the time of one insert, in seconds.
func (p *Pipeline) BatchDuration() prometheus.Metric { return p.metrics.duration }

// span is how many seconds a rate looks back.
const span = 10

// meter counts what is stored, second by second.
type meter struct {
	mu     sync.Mutex // guards what follows
	last   Stats
	counts [span + 1]uint64 // of second n at n modulo the length
	latest int64            // the second that was counted in last, Unix time
	first  int64
}

// insert notes the last insert.
func (m *meter) insert(n int, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last.BatchSize, m.last.Latency = n, took
}

// add counts n records that were stored now.
func (m *meter) add(now time.Time, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.advanceLocked(now.Unix())
	m.last.Stored += uint64(n)
	m.counts[m.latest%int64(len(m.counts))] += uint64(n)
}

// advanceLocked empties the seconds in which nothing was counted.
func (m *meter) advanceLocked(second int64) {
	if m.first == 0 {
		m.first, m.latest = second, second
	}
	if second-m.latest > int64(len(m.counts)) {
		m.latest = second - int64(len(m.counts))
	}
	for m.latest < second { // never backwards, whatever the wall clock does
		m.latest++
		m.counts[m.latest%int64(len(m.counts))] = 0
	}
}

// stats returns the figures; the rate is that of whole seconds.
func (m *meter) stats(now time.Time) Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.advanceLocked(now.Unix())
	s := m.last
	var sum uint64
	for back := int64(1); back <= span; back++ {
		sum += m.counts[(m.latest-back+int64(len(m.counts))*2)%int64(len(m.counts))]
	}
	if whole := min(m.latest-m.first, span); whole > 0 {
		s.Rate = float64(sum) / float64(whole)
	}
	return s
}
