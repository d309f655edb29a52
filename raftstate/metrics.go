package raftstate

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of this package. The library's own would go through a process-wide
// sink, so they are left off; what matters is timed here.
type metrics struct {
	commandsByKind *prometheus.CounterVec

	commands map[uint8]prometheus.Counter // by kind; each part's when it is added
	apply    prometheus.Histogram
	leader   prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	factory := promauto.With(reg) // nil: made, not registered
	commands := factory.NewCounterVec(prometheus.CounterOpts{
		Name: "forebay_raft_commands_total",
		Help: "Commands that this node has applied to the replicated state.",
	}, []string{"kind"})
	m := &metrics{
		commandsByKind: commands,
		commands:       map[uint8]prometheus.Counter{},
		apply: factory.NewHistogram(prometheus.HistogramOpts{
			Name:                            "forebay_raft_apply_duration_seconds",
			Help:                            "Time from proposing a command on this node to its being applied.",
			Buckets:                         []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  160,
			NativeHistogramMinResetDuration: time.Hour,
		}),
		leader: factory.NewGauge(prometheus.GaugeOpts{
			Name: "forebay_raft_leader",
			Help: "1 while this node leads the group, else 0.",
		}),
	}
	return m
}

// knowKind makes the counter of one kind of command, so that it is there before
// the first of them.
func (m *metrics) knowKind(kind uint8, name string) {
	m.commands[kind] = m.commandsByKind.WithLabelValues(name)
}
