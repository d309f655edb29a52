package embedded

import (
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the store's. No label takes a value that a client chooses.
type metrics struct {
	queries map[string]prometheus.Observer
	slow    map[string]prometheus.Counter
	deleted prometheus.Counter
	lost    prometheus.Gauge
}

// queryNames are the calls, but for inserts, whose duration is measured.
var queryNames = [...]string{"get", "list", "count", "missing", "first_since", "issued", "numbered", "scrub", "update", "report",
	"unreported", "usage", "tidy"}

func newMetrics(reg prometheus.Registerer, s *Store) (*metrics, error) {
	queries := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "forebay_store_query_duration_seconds",
		Help: "How long a query of the store took.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160, NativeHistogramMinResetDuration: time.Hour}, []string{"query"})
	slow := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "forebay_store_slow_queries_total",
		Help: "Queries that took longer than database.slow_query, by name."}, []string{"query"})
	m := &metrics{
		queries: make(map[string]prometheus.Observer),
		slow:    make(map[string]prometheus.Counter),
		deleted: prometheus.NewCounter(prometheus.CounterOpts{Name: "forebay_store_expired_total",
			Help: "Messages that were deleted because their time of retention was over."}),
		lost: prometheus.NewGauge(prometheus.GaugeOpts{Name: "forebay_store_lost_messages",
			Help: "Messages that the store has counted and does not have any more, when it last looked. Above 0: restore a backup."}),
	}
	for _, name := range queryNames {
		m.queries[name], m.slow[name] = queries.WithLabelValues(name), slow.WithLabelValues(name)
	}
	if reg == nil {
		return m, nil
	}
	disk := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "forebay_store_disk_bytes",
		Help: "Disk space that the embedded store uses."}, func() float64 { return float64(diskBytes(s.cfg.Dir)) })
	var errs []error
	for _, c := range []prometheus.Collector{queries, slow, m.deleted, m.lost, disk} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

// slowLogEvery bounds the lines about slow queries: when the disk is slow, all are.
const slowLogEvery = time.Second

// observe counts a query that has ended. A slow one is logged by its name alone:
// what it was asked for is a client's.
func (s *Store) observe(query string, start time.Time) {
	took := time.Since(start)
	s.metrics.queries[query].Observe(took.Seconds())
	if took < s.settings.Load().SlowQuery {
		return
	}
	s.metrics.slow[query].Inc()
	now, last := time.Now().UnixMilli(), s.slowLogged.Load()
	if now-last >= slowLogEvery.Milliseconds() && s.slowLogged.CompareAndSwap(last, now) {
		s.cfg.Logger.Warn("slow query", "query", query, "duration_ms", took.Milliseconds())
	}
}

// diskBytes adds up the blocks that dir's files have: their lengths say nothing,
// for Badger maps them sparsely. What vanishes meanwhile does not count.
func diskBytes(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				total += st.Blocks * 512
			}
		}
		return nil
	})
	return total
}
