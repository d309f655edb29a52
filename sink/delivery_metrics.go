package sink

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"forebay/wal/message"
)

type deliveryMetrics struct {
	attempts [len(channelIndex)]map[string]prometheus.Counter
	duration [len(channelIndex)]prometheus.Observer
	finals   *prometheus.CounterVec
}

// throttledGauge says for how long a channel is yet to rest.
func (o *outlet) throttledGauge() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "forebay_channel_throttled_seconds",
		Help:        "For how long nothing more is sent on the channel, because its service asked for that; 0: it did not.",
		ConstLabels: prometheus.Labels{"channel": o.channel.String()}}, func() float64 {
		o.d.mu.Lock()
		defer o.d.mu.Unlock()
		now := time.Now()
		if until := o.pace.pausedUntil(now); !until.IsZero() {
			return until.Sub(now).Seconds()
		}
		return 0
	})
}

func newDeliveryMetrics(reg prometheus.Registerer) (*deliveryMetrics, error) {
	attempts := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "forebay_channel_attempts_total",
		Help: "Attempts to deliver a message, by how they ended."}, []string{"channel", "outcome"})
	duration := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "forebay_channel_duration_seconds",
		Help: "How long an attempt took, whatever its end.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)}, []string{"channel"})
	m := &deliveryMetrics{finals: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "forebay_messages_final_total",
		Help: "Messages that the log has let go of, by the status they had then."}, []string{"channel", "status"})}
	for _, c := range message.Channels {
		if c == message.ChannelStore {
			continue
		}
		m.duration[c] = duration.WithLabelValues(c.String())
		m.attempts[c] = map[string]prometheus.Counter{}
		for _, o := range outcomes {
			m.attempts[c][o] = attempts.WithLabelValues(c.String(), o)
		}
	}
	if reg == nil {
		return m, nil
	}
	return m, errors.Join(reg.Register(attempts), reg.Register(duration), reg.Register(m.finals))
}

func (m *deliveryMetrics) attempt(c message.Channel, outcome string, took time.Duration) {
	m.attempts[c][outcome].Inc()
	m.duration[c].Observe(took.Seconds())
}

func (m *deliveryMetrics) final(c message.Channel, s message.Status) {
	m.finals.WithLabelValues(c.String(), s.String()).Inc()
}

// ChannelStats is what a dispatcher says of one channel.
type ChannelStats struct {
	Channel        message.Channel
	Enabled        bool
	Rate           float64 // messages sent a second, over the last ten
	Queued         int     // in memory, and on their way to an attempt
	InFlight       int
	Parked         int       // in the log, about: since the start
	Sent, Failed   uint64    // since the start
	ThrottledUntil time.Time // the service asked that nothing be sent before; zero: it does not
}

// Stats returns the figures of this moment, a channel each.
func (d *Dispatcher) Stats() []ChannelStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	var all []ChannelStats
	for _, o := range d.outlets {
		if o == nil {
			continue
		}
		s := ChannelStats{Channel: o.channel, Enabled: o.sender != nil, Rate: o.meter.stats(now).Rate,
			InFlight: o.inflight, Parked: o.parked, Sent: o.meter.stats(now).Stored, Failed: o.failed, ThrottledUntil: o.pace.pausedUntil(now)}
		for _, n := range o.queued {
			s.Queued += n
		}
		all = append(all, s)
	}
	return all
}
