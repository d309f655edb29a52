package admin

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/julienschmidt/httprouter"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	scrapesAtOnce = 3
	scrapeTimeout = 5 * time.Second
)

// healthRoutes serves /healthz and /readyz to anyone: they tell a load balancer
// what it needs. detailed adds the words for operators.
func (h *Handler) healthRoutes(r *httprouter.Router, detailed bool) {
	healthz := h.serve("GET /healthz", nil, func(x *exchange) error {
		x.begin("text/plain; charset=utf-8")
		x.w.Write([]byte("ok\n"))
		return nil
	})
	readyz := h.serve("GET /readyz", nil, func(x *exchange) error {
		ready := h.cfg.Readiness()
		if !detailed {
			ready = withoutDetail(ready)
		}
		status := http.StatusOK
		if ready.Status == Unready {
			status = http.StatusServiceUnavailable
		}
		return x.answer(status, ready)
	})
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		r.Handler(method, "/healthz", healthz)
		r.Handler(method, "/readyz", readyz)
	}
}

func withoutDetail(r Readiness) Readiness {
	checks := make(map[string]Check, len(r.Checks))
	for name, c := range r.Checks {
		checks[name] = Check{Status: c.Status, Breakers: c.Breakers}
	}
	return Readiness{Status: r.Status, Checks: checks}
}

// statusRoutes serves what programs watch.
func (h *Handler) statusRoutes(r *httprouter.Router) {
	r.Handler(http.MethodGet, "/status.json", h.serve("GET /status.json", nil, h.status))
	r.Handler(http.MethodGet, "/metrics", h.metrics)
}

func (h *Handler) metricsHandler() http.Handler {
	return promhttp.HandlerFor(h.cfg.Gatherer, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(h.log.Handler(), slog.LevelError),
		Registry:            h.cfg.Registerer,
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: scrapesAtOnce,
		Timeout:             scrapeTimeout,
		CoalesceGather:      true,
	})
}
