package httpapi

import (
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"forebay/wal/message"

	"github.com/prometheus/client_golang/prometheus"
)

const namespace = "forebay"

// durationBuckets are in seconds, dense around the promise of 500 ms.
var durationBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .2, .35, .5, .75, 1, 2.5, 5, 10, 30}

// statuses are all that a route can answer with; a child for each is resolved
// at start, so that a request costs no lookup by label.
var statuses = []int{200, 201, 202, 204, 400, 401, 403, 404, 405, 406, 408, 409, 413, 415, 422, 429, 431, statusClientGone, 501, 503, 505}

// metrics counts what comes in. Messages are counted here and nowhere else:
// Prometheus and Intake read the same numbers.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec

	accepted [message.ChannelWebhook + 1][message.Lanes]atomic.Uint64
	refused  []atomic.Uint64 // in the order of kinds
	window   window
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace,
			Name: "http_requests_total", Help: "Requests answered, by route and status."}, []string{"route", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace,
			Name: "http_request_duration_seconds", Help: "Time from the head of a request to the end of its answer, by route.",
			Buckets: durationBuckets}, []string{"route"}),
		refused: make([]atomic.Uint64, len(kinds)),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range m.collectors() {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) collectors() []prometheus.Collector {
	collectors := []prometheus.Collector{m.requests, m.duration}
	for _, c := range message.Channels {
		for p := range message.Priority(message.Lanes) {
			collectors = append(collectors, counterOf(&m.accepted[c][p], "messages_accepted_total",
				"Messages that are durable and were answered, by channel and priority: submitted, or requeued. Callbacks, which nobody asks for one by one, have a counter of their own.",
				prometheus.Labels{"channel": c.String(), "priority": p.String()}))
		}
	}
	for i, k := range kinds {
		if k.code == codeClientGone {
			continue
		}
		collectors = append(collectors, counterOf(&m.refused[i], "messages_refused_total",
			"Submissions refused, by code.", prometheus.Labels{"code": string(k.code)}))
	}
	return collectors
}

func counterOf(n *atomic.Uint64, name, help string, labels prometheus.Labels) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help,
		ConstLabels: labels}, func() float64 { return float64(n.Load()) })
}

// AcceptedAnew counts a message that was requeued, by its account or an operator: it
// is a message as any other, but by the way that it came.
func (a *API) AcceptedAnew(m *message.Message) { a.metrics.accept(m, time.Now()) }

// accept counts one message that is new in the log.
func (m *metrics) accept(msg *message.Message, now time.Time) {
	m.accepted[msg.Channel][msg.Priority].Add(1)
	m.window.accept(now)
}

// refuse counts one message that was not taken. What became of a message whose
// client left is not known, so that is none.
func (m *metrics) refuse(code Code) {
	for i := range kinds {
		if kinds[i].code == code && code != codeClientGone {
			m.refused[i].Add(1)
			return
		}
	}
}

// routeMetrics are the children of one route.
type routeMetrics struct {
	duration prometheus.Observer
	byStatus map[int]prometheus.Counter // never written after start
}

func (m *metrics) route(label string) routeMetrics {
	r := routeMetrics{duration: m.duration.WithLabelValues(label), byStatus: make(map[int]prometheus.Counter, len(statuses))}
	for _, status := range statuses {
		r.byStatus[status] = m.requests.WithLabelValues(label, strconv.Itoa(status))
	}
	return r
}

func (r *routeMetrics) observe(status int, took time.Duration) {
	counter, ok := r.byStatus[status]
	if !ok { // no route answers with a status that is not in the list
		counter = r.byStatus[http.StatusServiceUnavailable]
	}
	counter.Inc()
	r.duration.Observe(took.Seconds())
}

// Intake is what came in, for the status page.
type Intake struct {
	Rate          float64           `json:"rate"`           // messages accepted per second, of late
	AcceptedTotal uint64            `json:"accepted_total"` // since start
	RefusedByCode map[string]uint64 `json:"refused"`        // since start; codes that never occurred are left out
	Latency       Latency           `json:"latency"`        // of single submissions answered 2xx without waiting, of late
}

// Latency holds quantiles in seconds, each at most 1/8 too high. All are 0 where
// there was nothing of late.
type Latency struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
}

// Intake returns what came in until now. "Of late" is the last ten seconds or
// so. It is cheap, and made to be called about once a second.
func (a *API) Intake() Intake {
	in := Intake{RefusedByCode: make(map[string]uint64)}
	for c := range a.metrics.accepted {
		for p := range a.metrics.accepted[c] {
			in.AcceptedTotal += a.metrics.accepted[c][p].Load()
		}
	}
	for i := range a.metrics.refused {
		if n := a.metrics.refused[i].Load(); n > 0 {
			in.RefusedByCode[string(kinds[i].code)] = n
		}
	}
	in.Rate, in.Latency = a.metrics.window.read(time.Now())
	return in
}
