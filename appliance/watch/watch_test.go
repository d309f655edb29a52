package watch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"forebay/httpapi/admin"
)

// appliance is a status that a test changes while it is watched.
type appliance struct {
	mu     sync.Mutex // guards status
	status admin.Status
	logs   bytes.Buffer
}

func (a *appliance) change(f func(*admin.Status)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(&a.status)
}

func (a *appliance) watch(t *testing.T, s Settings) *Watch {
	t.Helper()
	a.status = well()
	w, err := New(Config{Status: func() admin.Status {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.status
	}, Settings: s, Logger: slog.New(slog.NewTextHandler(&a.logs, nil)), Registerer: prometheus.NewPedanticRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestWatch follows an outage on the fake clock: the alert fires and is over,
// the last hour shows it, and viewers see both.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a appliance
		w := a.watch(t, settings)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		time.Sleep(90 * time.Minute)
		h := w.History(1, time.Now(), time.Time{})
		if n := len(h.Points); n != points {
			t.Errorf("the last hour has %d points, want %d", n, points)
		}
		for i := 1; i < len(h.Points); i++ {
			if h.Points[i][0]-h.Points[i-1][0] != 5 {
				t.Fatalf("points %v and %v are not 5 s apart", h.Points[i-1][0], h.Points[i][0])
			}
		}
		if p := h.Points[len(h.Points)-1]; p[1] != 100 || len(p) != len(columns)+1 {
			t.Errorf("the last point is %v", p)
		}
		viewer, first, err := w.Subscribe()
		if err != nil || !json.Valid(first) {
			t.Fatalf("%s %v", first, err)
		}
		var pictures, ringing, grown int
		var reading sync.WaitGroup
		reading.Go(func() {
			for event := range viewer.Events {
				var e struct {
					Alerts []admin.Alert
					Point  []float64
				}
				if err := json.Unmarshal(event, &e); err != nil {
					t.Errorf("%v: %s", err, event)
				}
				pictures++
				ringing += len(e.Alerts)
				grown += min(1, len(e.Point))
			}
		})
		a.change(func(s *admin.Status) { s.Store.Up = false })
		time.Sleep(30 * time.Second)
		s := well()
		w.Fill(&s)
		if len(s.Alerts) != 1 || s.Alerts[0].Name != "database_down" || testutil.ToFloat64(w.metrics.firing.WithLabelValues("database_down")) != 1 {
			t.Errorf("alerts: %+v", s.Alerts)
		}
		a.change(func(s *admin.Status) { s.Store.Up = true })
		time.Sleep(30 * time.Second)
		if w.Fill(&s); len(s.Alerts) != 0 || testutil.ToFloat64(w.metrics.firing.WithLabelValues("database_down")) != 0 {
			t.Errorf("alerts: %+v", s.Alerts)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		reading.Wait()
		if pictures < 58 || ringing < 30 || ringing > 45 || grown < 11 {
			t.Errorf("the viewer saw %d pictures, %d of them with the alert, and %d points", pictures, ringing, grown)
		}
		if _, _, err := w.Subscribe(); err == nil {
			t.Error("a feed that has ended takes viewers")
		}
	})
}

// TestErrorRate: the rate is that of the last ten seconds.
func TestErrorRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a appliance
		w := a.watch(t, settings)
		for i := range 40 {
			a.change(func(s *admin.Status) {
				s.Intake.AcceptedTotal += 90
				refused := map[string]uint64{"overloaded": s.Intake.Refused["overloaded"], "invalid": s.Intake.Refused["invalid"] + 5}
				if i >= 20 {
					refused["overloaded"] += 5
				}
				s.Intake.Refused = refused
			})
			w.look(time.Now(), i)
			time.Sleep(time.Second)
		}
		s := well()
		w.Fill(&s)
		if s.Intake.ErrorRate != .05 || s.Intake.RefusedRate != 10 || len(s.Alerts) != 1 || s.Alerts[0].Name != "error_rate" {
			t.Errorf("error rate %v (want .05), refused %v/s (want 10), alerts %+v", s.Intake.ErrorRate, s.Intake.RefusedRate, s.Alerts)
		}
	})
}

// TestSlowViewer: one that does not read is dropped, and costs the others nothing.
func TestSlowViewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a appliance
		w := a.watch(t, settings)
		slow, _, _ := w.Subscribe()
		good, _, _ := w.Subscribe()
		for i := range 10 {
			w.look(time.Now(), i)
			<-good.Events
		}
		n := 0
		for range slow.Events {
			n++
		}
		if n != viewerLag || testutil.ToFloat64(w.metrics.dropped) != 1 || testutil.ToFloat64(w.metrics.viewers) != 1 {
			t.Errorf("the slow one got %d, %v dropped, %v left", n, testutil.ToFloat64(w.metrics.dropped), testutil.ToFloat64(w.metrics.viewers))
		}
		for range maxViewers - 1 {
			if _, _, err := w.Subscribe(); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := w.Subscribe(); err == nil {
			t.Errorf("%d viewers and one more", maxViewers)
		}
		slow.Close()
		good.Close()
		good.Close()
	})
}

// TestWebhook: firing and resolved arrive, in order, also at a receiver that
// fails at first; its address, which may be a secret, is in no log.
func TestWebhook(t *testing.T) {
	var asked atomic.Int32
	arrived := make(chan Notification, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			http.Error(rw, "", http.StatusBadGateway)
			return
		}
		var n Notification
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
			t.Error(err)
		}
		arrived <- n
	}))
	defer receiver.Close()
	var a appliance
	s := settings
	s.WebhookURL = receiver.URL + "/hook?token=hunter2"
	w := a.watch(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { w.sender.run(ctx); close(done) }()
	now := time.Now()
	a.change(func(s *admin.Status) { s.Log.Full = true })
	w.look(now, 0)
	a.change(func(s *admin.Status) { s.Log.Full = false })
	w.look(now.Add(time.Second), 1)
	w.look(now.Add(12*time.Second), 2)
	for _, want := range []string{"alert.firing", "alert.resolved"} {
		select {
		case n := <-arrived:
			if n.Type != want || n.Node != 1 || n.Alert.Name != "disk" || n.Alert.WhatToDo == "" {
				t.Errorf("got %+v, want %s", n, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s does not arrive", want)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); testutil.ToFloat64(w.metrics.notifications.WithLabelValues(outcomeSent)) < 2 && time.Now().Before(deadline); {
		<-time.After(5 * time.Millisecond) // the receiver has it before the sender knows
	}
	cancel()
	<-done
	if asked.Load() != 3 || testutil.ToFloat64(w.metrics.notifications.WithLabelValues(outcomeSent)) != 2 {
		t.Errorf("asked %d times", asked.Load())
	}
	if strings.Contains(a.logs.String(), "hunter2") {
		t.Errorf("the address is in the log: %s", a.logs.String())
	}
}

// TestWebhookGone: a receiver that never answers holds nothing up, the queue
// stays bounded, and giving up is logged without the address.
func TestWebhookGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a appliance
		s := settings
		s.WebhookURL = "http://receiver.invalid/hook?token=hunter2"
		w := a.watch(t, s)
		w.sender.client.Transport = refusing{}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		for range 3 * queueLength {
			w.sender.offer(Notification{Type: "alert.firing", Alert: admin.Alert{Name: "disk"}})
		}
		go func() { w.sender.run(ctx); close(done) }()
		time.Sleep(6 * time.Hour)
		cancel()
		<-done
		count := func(o string) float64 { return testutil.ToFloat64(w.metrics.notifications.WithLabelValues(o)) }
		if count(outcomeOverflow) != 2*queueLength || count(outcomeGivenUp) != queueLength || count(outcomeSent) != 0 {
			t.Errorf("%v pushed out, %v given up, %v sent", count(outcomeOverflow), count(outcomeGivenUp), count(outcomeSent))
		}
		if logs := a.logs.String(); strings.Contains(logs, "hunter2") || !strings.Contains(logs, "an alert could not be delivered") {
			t.Errorf("the log says %s", logs)
		}
	})
}

type refusing struct{}

func (refusing) RoundTrip(r *http.Request) (*http.Response, error) {
	return nil, errors.New("refused")
}

// TestConfigure: new settings count from the next look on; wrong ones change
// nothing.
func TestConfigure(t *testing.T) {
	var a appliance
	w := a.watch(t, settings)
	s := settings
	s.P99Latency = time.Millisecond
	if err := w.Configure(s); err != nil {
		t.Fatal(err)
	}
	w.look(noon, 0)
	w.look(noon.Add(6*time.Second), 1)
	if got := w.engine.firing(); len(got) != 1 || got[0].Name != "acceptance_latency" {
		t.Errorf("alerts: %+v", got)
	}
	for _, wrong := range []func(*Settings){
		func(s *Settings) { s.P99Latency = 0 }, func(s *Settings) { s.ErrorRate = 1.5 }, func(s *Settings) { s.MemoryHigh = 0 },
		func(s *Settings) { s.WebhookURL = "ftp://hunter2@h/" }, func(s *Settings) { s.WebhookURL = "http://%zz" },
	} {
		bad := settings
		wrong(&bad)
		if err := w.Configure(bad); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if w.settings.Load().P99Latency != time.Millisecond {
		t.Error("wrong settings changed something")
	}
}
