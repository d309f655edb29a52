package watch

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"forebay/httpapi/admin"
)

// Config says what a Watch looks at.
type Config struct {
	// Status measures the appliance. It is called once a second and must not wait.
	Status   func() admin.Status
	Settings Settings
	// Settle is how long a condition must be gone before its alert is over; 0: ten
	// seconds. It is no setting: what flaps would ring for each flap.
	Settle time.Duration

	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // nil: metrics are not registered
}

// Settings are what can change while the appliance runs.
type Settings struct {
	WebhookURL string        // receives alerts; empty: none are sent
	P99Latency time.Duration // of acceptance, over which an alert fires; over 0
	ErrorRate  float64       // fraction of submissions answered 5xx, over 0 and at most 1
	BacklogAge time.Duration // of the oldest waiting message; over 0

	// The fractions of the memory limit at which alerts fire; over 0.
	MemoryHigh, MemoryCritical float64
}

// Validate names what is wrong with the settings.
func (s Settings) Validate() error {
	var errs []error
	if s.P99Latency <= 0 || s.BacklogAge <= 0 {
		errs = append(errs, errors.New("watch: p99_latency and backlog_age must be over 0"))
	}
	if s.ErrorRate <= 0 || s.ErrorRate > 1 {
		errs = append(errs, errors.New("watch: error_rate must be over 0 and at most 1"))
	}
	if s.MemoryHigh <= 0 || s.MemoryCritical <= 0 {
		errs = append(errs, errors.New("watch: the memory fractions must be over 0"))
	}
	if s.WebhookURL != "" {
		// The address may hold a secret, so the error does not repeat it.
		if u, err := url.Parse(s.WebhookURL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			errs = append(errs, errors.New("watch: webhook_url must be an http or https URL"))
		}
	}
	return errors.Join(errs...)
}

// Validate names everything that is missing or wrong.
func (c Config) Validate() error {
	var missing error
	if c.Status == nil {
		missing = errors.New("watch: Status must be set")
	}
	return errors.Join(missing, c.Settings.Validate())
}

type metrics struct {
	firing        *prometheus.GaugeVec
	notifications *prometheus.CounterVec
	viewers       prometheus.Gauge
	dropped       prometheus.Counter
}

// The ends of a notification.
const (
	outcomeSent     = "sent"
	outcomeGivenUp  = "given_up"  // after the last attempt
	outcomeOverflow = "overflow"  // pushed out of the queue by newer ones
	outcomeDisabled = "cancelled" // the address was taken away meanwhile, or the appliance stops
)

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		firing: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "forebay_alerts_firing",
			Help: "Alerts that fire now, by name."}, []string{"name"}),
		notifications: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "forebay_alert_notifications_total",
			Help: "Notifications for alerts.webhook_url, by how they ended."}, []string{"outcome"}),
		viewers: prometheus.NewGauge(prometheus.GaugeOpts{Name: "forebay_feed_viewers",
			Help: "Viewers of the live feed."}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{Name: "forebay_feed_dropped_viewers_total",
			Help: "Viewers of the live feed that did not read and were dropped."}),
	}
	for _, name := range Names {
		m.firing.WithLabelValues(name)
	}
	for _, o := range []string{outcomeSent, outcomeGivenUp, outcomeOverflow, outcomeDisabled} {
		m.notifications.WithLabelValues(o)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.firing, m.notifications, m.viewers, m.dropped} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}
