package breaker

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Names are the names of breakers in metrics and in answers about health. The
// breakers of webhook hosts are counted together, for a host is a value that
// clients choose; the worst of them is shown.
var Names = []string{"database", "email", "webhook", "whatsapp"}

// class is the name a service is counted under; "": it is not.
func class(service string) string {
	name, _, _ := strings.Cut(service, ":")
	for _, known := range Names {
		if name == known {
			return known
		}
	}
	return ""
}

type metrics struct {
	transitions map[string]map[Phase]prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, w *Watch) (*metrics, error) {
	count := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "forebay_breaker_transitions_total",
		Help: "Transitions of circuit breakers on this node, those of all webhook hosts together.",
	}, []string{"name", "to"})
	m := &metrics{transitions: map[string]map[Phase]prometheus.Counter{}}
	for _, name := range Names {
		m.transitions[name] = map[Phase]prometheus.Counter{}
		for _, to := range Phases {
			m.transitions[name][to] = count.WithLabelValues(name, to.String())
		}
	}
	if reg == nil {
		return m, nil
	}
	if err := reg.Register(count); err != nil {
		return nil, err
	}
	return m, reg.Register(&gauge{watch: w, desc: prometheus.NewDesc("forebay_breaker_state",
		"Circuit breakers on this node: 0 closed, 1 half-open, 2 open; the worst of all webhook hosts.", []string{"name"}, nil)})
}

func (m *metrics) transition(service string, to Phase) {
	if name := class(service); name != "" {
		m.transitions[name][to].Inc()
	}
}

// gauge reads the phases when they are asked for.
type gauge struct {
	watch *Watch
	desc  *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (g *gauge) Describe(ch chan<- *prometheus.Desc) { ch <- g.desc }

// Collect implements prometheus.Collector.
func (g *gauge) Collect(ch chan<- prometheus.Metric) {
	worst := g.watch.Worst()
	for _, name := range Names {
		ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, float64(worst[name].Phase), name)
	}
}

// Worst returns a breaker for each of Names: the service's own, or of several
// hosts the one that is furthest from closed.
func (w *Watch) Worst() map[string]Status {
	worst := make(map[string]Status, len(Names))
	for _, name := range Names {
		worst[name] = Status{Service: name}
	}
	for _, s := range w.Services() {
		name := class(s.Service)
		if have, ok := worst[name]; ok && (s.Service == name && have.Phase <= s.Phase || s.Phase > have.Phase) {
			worst[name] = s
		}
	}
	return worst
}
