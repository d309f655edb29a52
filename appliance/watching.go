package appliance

import (
	"crypto/tls"
	"sync/atomic"
	"time"

	"forebay/appliance/config"
	"forebay/appliance/watch"
	"forebay/httpapi/admin"
)

// observed is what is remembered from one status to the next.
type observed struct {
	storeAway               absence       // of the store
	appendTimes, batchTimes recent        // of late
	missing                 atomic.Uint64 // messages, by the last whole audit
	certificateEnds         atomic.Int64  // that of the public API, Unix time; 0: none
}

func (a *Appliance) buildWatch(settle time.Duration) (err error) {
	a.watch, err = watch.New(watch.Config{
		Status:     a.measure,
		Settings:   watchSettings(a.cfg),
		Settle:     settle,
		Logger:     a.logger.With("part", "watch"),
		Registerer: a.registry,
	})
	return err
}

// watchSettings are what a reload changes of the watch.
func watchSettings(c config.Config) watch.Settings {
	return watch.Settings{
		WebhookURL: c.Alerts.WebhookURL, P99Latency: c.Alerts.P99Latency, ErrorRate: c.Alerts.ErrorRate, BacklogAge: c.Alerts.BacklogAge,
		MemoryHigh: c.Memory.High, MemoryCritical: c.Memory.Critical,
	}
}

// status is what the appliance is like at this moment, with the alerts of the
// last second.
func (a *Appliance) status() admin.Status {
	s := a.measure()
	a.watch.Fill(&s)
	return s
}

// watching is the watch as the operators' routes see it.
type watching Appliance

func (w *watching) Subscribe() (first []byte, events <-chan []byte, cancel func(), err error) {
	v, first, err := w.watch.Subscribe()
	if err != nil {
		return nil, nil, nil, err
	}
	return first, v.Events, v.Close, nil
}

func (w *watching) History(since time.Time) any { return w.watch.History(w.cfg.Node, w.started, since) }

// noteCertificate remembers when the public API's certificate ends; nil: it has
// none.
func (a *Appliance) noteCertificate(certificate *tls.Config) {
	if certificate == nil || certificate.Certificates[0].Leaf == nil {
		a.certificateEnds.Store(0)
		return
	}
	a.certificateEnds.Store(certificate.Certificates[0].Leaf.NotAfter.Unix())
}

// certificateStatus runs after raftStatus, which knows the cluster's certificate:
// the one that ends first counts.
func (a *Appliance) certificateStatus(s *admin.Status) {
	ends := a.certificateEnds.Load()
	if at := time.Unix(ends, 0).UTC(); ends != 0 && (s.Raft.CertificateEnds.IsZero() || at.Before(s.Raft.CertificateEnds)) {
		s.Raft.CertificateEnds = at
	}
}
