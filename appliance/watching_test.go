package appliance_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/appliance/watch"
	"forebay/httpapi/admin"
	"forebay/sink/sinktest"
)

// receiver takes an appliance's alerts.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex // guards heard
	heard []string   // "alert.firing disk", in order
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		var n watch.Notification
		if err := json.NewDecoder(q.Body).Decode(&n); err != nil || n.Alert.WhatToDo == "" || n.Alert.Since.IsZero() || n.Alert.Severity == "" {
			t.Errorf("notification %+v: %v", n, err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.heard = append(r.heard, n.Type+" "+n.Alert.Name)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) has(what string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.heard, what)
}

// fires reports whether an alert is in the status now.
func fires(c operator, name string) bool {
	s, err := c.Status(context.Background())
	return err == nil && slices.ContainsFunc(s.Alerts, func(a admin.Alert) bool { return a.Name == name })
}

func alertComes(t *testing.T, c operator, r *receiver, name string) {
	t.Helper()
	appliancetest.Eventually(t, time.Minute, "the alert "+name+" fires", func() bool { return fires(c, name) })
	appliancetest.Eventually(t, time.Minute, "the receiver hears of "+name, func() bool { return r.has("alert.firing " + name) })
}

func alertGoes(t *testing.T, c operator, r *receiver, name string) {
	t.Helper()
	appliancetest.Eventually(t, 2*time.Minute, "the alert "+name+" is over", func() bool { return !fires(c, name) })
	appliancetest.Eventually(t, time.Minute, "the receiver hears that "+name+" is over", func() bool { return r.has("alert.resolved " + name) })
}

// TestAlertsOfAnOutage takes a real database away: that it is down, that messages
// wait too long, and (with a limit that nothing keeps) that answers are slow, is
// said, sent, and over by itself.
func TestAlertsOfAnOutage(t *testing.T) {
	t.Parallel()
	pg, r := sinktest.StartPostgres(t), newReceiver(t)
	n := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()), func(c *config.Config) {
		c.Alerts.WebhookURL, c.Alerts.BacklogAge, c.Alerts.P99Latency = r.URL, 2*time.Second, time.Microsecond
	})
	if status, a := submit(t, n, `{"channel":"store","body":"b"}`, "Prefer", "wait=30"); status != http.StatusCreated {
		t.Fatalf("%d %+v", status, a)
	}
	for _, name := range []string{"database_down", "backlog_age"} {
		if fires(n.Admin, name) {
			t.Fatalf("%s fires while all is well", name)
		}
	}
	pg.Stop(sinktest.Fast)
	appliancetest.Eventually(t, time.Minute, "the alert acceptance_latency fires", func() bool {
		submit(t, n, `{"channel":"store","body":"b"}`)
		return fires(n.Admin, "acceptance_latency")
	})
	alertComes(t, n.Admin, r, "database_down")
	alertComes(t, n.Admin, r, "backlog_age")
	if got := metric(t, n, `forebay_alerts_firing{name="database_down"}`); got != 1 {
		t.Errorf("/metrics says %v", got)
	}
	pg.Start()
	for _, name := range []string{"database_down", "backlog_age", "acceptance_latency"} {
		alertGoes(t, n.Admin, r, name)
	}
}

// TestAlertsOfAFullDisk fills a real disk: that it is full, and that submissions
// fail for it, is said, sent, and over once there is space.
func TestAlertsOfAFullDisk(t *testing.T) {
	t.Parallel()
	disk, r := appliancetest.NewDisk(t, 2048), newReceiver(t)
	p := appliancetest.StartProcess(t, filepath.Join(disk.Path, "data"), "FOREBAY_BUFFER_MAX_DISK_BYTES=512MiB", "FOREBAY_ALERTS_WEBHOOK_URL="+r.URL)
	c := p.Admin()
	defer c.Close()
	ledger := appliancetest.NewLedger()
	loadWhile(ledger, p.Target(), 2, "alert-", 1, func() {
		appliancetest.Eventually(t, time.Minute, "refused with 503 storage_full", func() bool {
			disk.Fill(64 << 20)
			return ledger.Count("503 storage_full") > 100
		})
		alertComes(t, c, r, "disk")
		alertComes(t, c, r, "error_rate")
		disk.Empty()
		alertGoes(t, c, r, "error_rate")
		alertGoes(t, c, r, "disk")
	})
}

// TestAlertOfACertificate: a certificate that ends in an hour is said at once. The
// control, one that ends in a year, is not.
func TestAlertOfACertificate(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		lasts time.Duration
		want  bool
	}{{time.Hour, true}, {365 * 24 * time.Hour, false}} {
		cert, key := selfSigned(t, test.lasts)
		p := appliancetest.NewProcess(t, filepath.Join(t.TempDir(), "data"), "FOREBAY_HTTP_TLS_CERT_FILE="+cert, "FOREBAY_HTTP_TLS_KEY_FILE="+key)
		p.Spawn()
		c := p.Admin()
		appliancetest.Eventually(t, time.Minute, "the appliance has looked at itself", func() bool {
			s, err := c.Status(context.Background())
			return err == nil && s.UptimeSeconds > 3
		})
		if got := fires(c, "certificate_ends"); got != test.want {
			t.Errorf("with a certificate for %v, certificate_ends fires: %v, want %v\n%s", test.lasts, got, test.want, p.Log())
		}
		c.Close()
		p.Kill()
	}
}

// selfSigned writes a certificate that is good from now on for that long.
func selfSigned(t *testing.T, lasts time.Duration) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, "make a key", err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(lasts)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	must(t, "make a certificate", err)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, "encode the key", err)
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(t, "write the certificate", os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, "write the key", os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	return cert, key
}

// TestFeed reads the live feed and the last hour as a program does.
func TestFeed(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t)
	resp, err := n.Client.Get(n.OpsURL + "/events")
	must(t, "open the feed", err)
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Errorf("the feed is %s", kind)
	}
	submit(t, n, `{"channel":"store","body":"b"}`, "Prefer", "wait=10")
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	events := 0
	for deadline := time.Now().Add(30 * time.Second); events < 4 && time.Now().Before(deadline) && lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var s admin.Status
		if err := json.Unmarshal([]byte(data), &s); err != nil || s.Node != 1 || s.Raft.Leader != 1 || s.Store.Kind != "embedded" {
			t.Fatalf("event %s: %v", data, err)
		}
		if events++; events == 4 && s.Intake.AcceptedTotal != 1 {
			t.Errorf("accepted: %d", s.Intake.AcceptedTotal)
		}
	}
	if events < 4 {
		t.Fatalf("%d events: %v", events, lines.Err())
	}
	var h watch.History
	appliancetest.Eventually(t, 30*time.Second, "the last hour has a point", func() bool {
		resp, err := n.Client.Get(n.OpsURL + "/history.json?since=0")
		must(t, "ask for the history", err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		must(t, "read the history", err)
		return json.Unmarshal(body, &h) == nil && len(h.Points) > 0 && len(h.Points[0]) == len(h.Columns)+1
	})
	resp, err = n.Client.Get(n.OpsURL + "/history.json?since=yesterday")
	must(t, "ask wrongly", err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("a wrong since: %d", resp.StatusCode)
	}
}

// TestPageIsClosed: on an address that is not loopback nothing is shown without
// the token, and a page of another site can change nothing.
func TestPageIsClosed(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t, func(c *config.Config) { c.HTTP.OpsListen, c.HTTP.AdminToken = "0.0.0.0:0", "correct-horse" })
	_, port, _ := strings.Cut(n.OpsAddr().String(), "]:")
	base := "http://127.0.0.1:" + port
	for _, path := range []string{"/", "/assets/app.js", "/events", "/history.json", "/status.json", "/metrics"} {
		resp, err := n.Client.Get(base + path)
		must(t, "ask", err)
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized || bytes.Contains(body, []byte("node")) {
			t.Errorf("%s without the token: %d %s", path, resp.StatusCode, body)
		}
	}
	q, _ := http.NewRequest(http.MethodPost, base+"/admin/v1/drain", nil)
	q.SetBasicAuth("admin", "correct-horse") // as a browser adds it by itself
	q.Header.Set("Sec-Fetch-Site", "cross-site")
	q.Header.Set("Origin", "https://elsewhere.example")
	resp, err := n.Client.Do(q)
	must(t, "ask", err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("another site's page drains the appliance: %d", resp.StatusCode)
	}
}
