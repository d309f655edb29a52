package appliance_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/appliance"
	"forebay/appliance/appliancetest"
	"forebay/httpapi/admin"
)

// tlsClients are clients of a public API that speaks TLS: one that connects anew
// for each request, and one that keeps its connection.
type tlsClients struct {
	url, key    string
	fresh, kept *http.Client
}

func newTLSClients(t *testing.T, n *appliancetest.Node, certificates ...string) *tlsClients {
	t.Helper()
	trusted := x509.NewCertPool()
	for _, name := range certificates {
		text, err := os.ReadFile(name)
		must(t, "read a certificate", err)
		trusted.AppendCertsFromPEM(text)
	}
	transport := func(anew bool) *http.Client {
		return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: anew, TLSClientConfig: &tls.Config{RootCAs: trusted, ServerName: "localhost"}}}
	}
	c := &tlsClients{"https://" + n.Addr().String(), n.Key, transport(true), transport(false)}
	t.Cleanup(c.kept.CloseIdleConnections)
	return c
}

// submit returns the status and the certificate that was shown.
func (c *tlsClients) submit(client *http.Client) (status int, shown []byte, err error) {
	req, err := http.NewRequest("POST", c.url+"/v1/messages", strings.NewReader(`{"channel":"store","body":"b"}`))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body) // else the connection is not kept
	return resp.StatusCode, resp.TLS.PeerCertificates[0].Raw, err
}

func derOf(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	must(t, "read a certificate", err)
	block, _ := pem.Decode(text)
	return block.Bytes
}

// TestReloadCertificate: the public API goes from plain HTTP to TLS, and from one
// certificate to the next, while clients send: each request is taken, a new
// connection sees the new certificate, one that is kept goes on. A pair that does
// not fit is refused with the line, and the old certificate stays.
func TestReloadCertificate(t *testing.T) {
	t.Parallel()
	cert, key := selfSigned(t, time.Hour)
	nextCert, nextKey := selfSigned(t, time.Hour)
	first, second := derOf(t, cert), derOf(t, nextCert)
	const patient = "alerts: {p99_latency: 1m}\n" // a slow machine must not take the change back
	f := appliancetest.NewFile(t, patient)
	n := appliancetest.StartFile(t, f, nil)
	c := newTLSClients(t, n, cert, nextCert)
	if _, _, err := c.submit(c.fresh); err == nil {
		t.Fatal("TLS before there is a certificate")
	}
	text := patient + fmt.Sprintf("http:\n  tls_cert_file: %q\n  tls_key_file: %q\n", cert, key)
	f.Write(text)
	appliancetest.Eventually(t, 30*time.Second, "the API speaks TLS", func() bool {
		status, shown, err := c.submit(c.fresh)
		return err == nil && status == http.StatusAccepted && bytes.Equal(shown, first)
	})
	if status, _, err := c.submit(c.kept); status != http.StatusAccepted {
		t.Fatalf("on a connection to keep: %d %v", status, err)
	}

	ctx, stop := context.WithCancel(t.Context())
	var senders sync.WaitGroup
	var mu sync.Mutex // guards what follows
	var failed []string
	sent := map[string]int{} // by certificate
	for range 4 {
		senders.Go(func() {
			for ctx.Err() == nil {
				status, shown, err := c.submit(c.fresh)
				mu.Lock()
				if sent[string(shown)]++; status != http.StatusAccepted {
					failed = append(failed, fmt.Sprint(status, " ", err))
				}
				mu.Unlock()
			}
		})
	}
	count := func(certificate []byte) int {
		mu.Lock()
		defer mu.Unlock()
		return sent[string(certificate)]
	}
	appliancetest.Eventually(t, 30*time.Second, "requests with the first certificate", func() bool { return count(first) > 20 })
	// As a tool that renews it does: the key and the certificate, one after the other.
	must(t, "replace the key", os.Rename(nextKey, key))
	must(t, "replace the certificate", os.Rename(nextCert, cert))
	appliancetest.Eventually(t, time.Minute, "requests with the second certificate", func() bool { return count(second) > 20 })
	stop()
	senders.Wait()
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed, as %q", len(failed), count(first)+count(second), failed[0])
	}
	t.Logf("%d requests with the first certificate, %d with the second, %d failed", count(first), count(second), len(failed))
	if status, shown, err := c.submit(c.kept); status != http.StatusAccepted || !bytes.Equal(shown, first) {
		t.Errorf("the connection that was kept: %d %v, a new one: %v", status, err, !bytes.Equal(shown, first))
	}

	_, stranger := selfSigned(t, time.Hour)
	f.Write(strings.Replace(text, key, stranger, 1))
	r := reload(t, n)
	if r.Outcome != admin.ConfigRejected || len(r.Rejected) != 1 || r.Rejected[0].Where != f.Path+":5" || r.Rejected[0].Key != "http.tls_cert_file" || !strings.Contains(r.Rejected[0].Reason, "private key does not match public key") {
		t.Errorf("a key of another certificate: %+v", r)
	}
	if status, shown, err := c.submit(c.fresh); status != http.StatusAccepted || !bytes.Equal(shown, second) {
		t.Errorf("after a refused pair: %d %v, the second certificate: %v", status, err, bytes.Equal(shown, second))
	}
}

// TestReloadAdminToken: the token changes with its file; the old one is refused
// from then on. An empty file changes nothing.
func TestReloadAdminToken(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	must(t, "write the token", os.WriteFile(token, []byte("correct-horse\n"), 0o600))
	f := appliancetest.NewFile(t, fmt.Sprintf("http: {admin_token_file: %q}\n", token))
	n := appliancetest.StartFile(t, f, func(o *appliance.Options) { o.Unwatched = true })
	asks := func(token string) int {
		req, err := http.NewRequest("GET", n.OpsURL+"/admin/v1/accounts", nil)
		must(t, "make a request", err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := n.Client.Do(req)
		must(t, "ask", err)
		resp.Body.Close()
		return resp.StatusCode
	}
	if asks("correct-horse") != http.StatusOK || asks("battery-staple") != http.StatusUnauthorized {
		t.Fatalf("at first: %d, and %d with another", asks("correct-horse"), asks("battery-staple"))
	}
	must(t, "write another", os.WriteFile(token, []byte("battery-staple\n"), 0o600))
	if r := reload(t, n); r.Outcome != admin.ConfigApplied || len(r.Applied) != 1 || strings.Contains(fmt.Sprint(r), "staple") {
		t.Errorf("reload: %+v", r)
	}
	if asks("correct-horse") != http.StatusUnauthorized || asks("battery-staple") != http.StatusOK {
		t.Errorf("after the change: %d with the old one, %d with the new one", asks("correct-horse"), asks("battery-staple"))
	}
	// An empty file is a mistake, not an open door and not a locked one.
	must(t, "empty the file", os.WriteFile(token, nil, 0o600))
	if r := reload(t, n); r.Outcome != admin.ConfigRejected || !strings.Contains(r.Rejected[0].Reason, "is empty; put the secret into it") {
		t.Errorf("reload of an empty file: %+v", r)
	}
	if got := asks("battery-staple"); got != http.StatusOK {
		t.Errorf("after a refused change: %d", got)
	}
	f.Write("")
	reload(t, n)
	if got := asks("battery-staple"); got != http.StatusForbidden {
		t.Errorf("without a token there is no administration over TCP: %d", got)
	}
}
