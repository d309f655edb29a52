package sink

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the pipeline's. No label takes a value that a client chooses.
type metrics struct {
	duration    prometheus.Histogram
	batch       prometheus.Histogram
	rows        map[Outcome]prometheus.Counter
	errorsDown  prometheus.Counter
	errorsFault prometheus.Counter
	unreadable  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, store Store) (*metrics, error) {
	rows := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "forebay_store_rows_total",
		Help: "Records that the store took, by what became of them."}, []string{"outcome"})
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "forebay_store_insert_errors_total",
		Help: "Inserts that failed and are tried again: the store was down, or refused the whole batch."}, []string{"reason"})
	m := &metrics{
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "forebay_store_batch_duration_seconds",
			Help: "How long an insert of one batch took, whatever its end.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160, NativeHistogramMinResetDuration: time.Hour}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "forebay_store_batch_messages",
			Help: "How many records an insert had.", Buckets: []float64{1, 10, 50, 100, 250, 500, 1000, 2000, 3000, 5000, 10000}}),
		rows:        make(map[Outcome]prometheus.Counter),
		errorsDown:  failures.WithLabelValues("down"),
		errorsFault: failures.WithLabelValues("refused"),
		unreadable: prometheus.NewCounter(prometheus.CounterOpts{Name: "forebay_store_unreadable_total",
			Help: "Entries of the log that could not be decoded and stay there."}),
	}
	for _, o := range Outcomes {
		m.rows[o] = rows.WithLabelValues(o.String())
	}
	up := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "forebay_store_up", Help: "1 while the store answers."},
		func() float64 {
			if store.Health().Up {
				return 1
			}
			return 0
		})
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.duration, m.batch, rows, failures, m.unreadable, up} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}
