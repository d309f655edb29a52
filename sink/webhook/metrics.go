package webhook

import (
	"errors"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics say how many endpoints fail for long, and what patience has come to.
type metrics struct {
	endpoints *prometheus.GaugeVec
	stages    *prometheus.CounterVec
}

// The states of an endpoint that is kept, in metrics.
const (
	stateFailing  = "failing"  // for longer than keepAfter
	stateWarned   = "warned"   // for half of the patience and longer
	stateDisabled = "disabled" // it is switched off
)

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		endpoints: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "forebay_webhook_endpoints",
			Help: "Webhook addresses, of all accounts and nodes, that keep failing, that somebody was warned of, or that are switched off."}, []string{"state"}),
		stages: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "forebay_webhook_endpoint_stages_total",
			Help: "Stages that failing webhook addresses have come to on this node: percent of the patience, or why they were switched off."}, []string{"stage"}),
	}
	for _, percent := range stages {
		m.stages.WithLabelValues(strconv.Itoa(percent))
	}
	m.stages.WithLabelValues(ReasonGone)
	m.stages.WithLabelValues(ReasonFailed)
	m.stand(nil)
	if reg == nil {
		return m, nil
	}
	return m, errors.Join(reg.Register(m.endpoints), reg.Register(m.stages))
}

// stand shows how the endpoints that are kept stand now.
func (m *metrics) stand(kept map[Endpoint]Standing) {
	n := map[string]int{stateFailing: 0, stateWarned: 0, stateDisabled: 0}
	for _, s := range kept {
		switch {
		case !s.Disabled.IsZero():
			n[stateDisabled]++
		case s.Warned > 0:
			n[stateWarned]++
		default:
			n[stateFailing]++
		}
	}
	for state, count := range n {
		m.endpoints.WithLabelValues(state).Set(float64(count))
	}
}

func stageOf(s Standing) string {
	if s.Reason != "" {
		return s.Reason
	}
	return strconv.Itoa(s.Warned)
}
