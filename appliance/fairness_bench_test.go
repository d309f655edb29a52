package appliance_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
	"forebay/sink/sinktest"
)

// customer is an account of a node, with a key.
func customer(b *testing.B, n *appliancetest.Node, name string) appliancetest.Target {
	b.Helper()
	_, err := n.Admin.CreateAccount(context.Background(), admin.CreateAccount{ID: name, Tier: "development"})
	must2(b, err)
	key, err := n.Admin.CreateKey(context.Background(), name, admin.CreateKey{Label: "bench"})
	must2(b, err)
	return appliancetest.Target{URL: n.URL, Key: key.Secret, Client: n.Client}
}

// trusting starts receivers that trust the customer's signatures and answer as late
// as a real one.
func trusting(b *testing.B, n *appliancetest.Node, account string, rules *sinktest.Rules) *sinktest.WebhookReceiver {
	b.Helper()
	r := sinktest.NewWebhookReceiver(b, false, rules)
	secret, err := n.Admin.WebhookSecret(context.Background(), account)
	must2(b, err)
	r.Trust(secret.Secret)
	r.Slow(usualAnswer)
	return r
}

// BenchmarkDeadHost delivers to a hundred hosts of ten accounts, all well or one of
// them dead: what the other ninety-nine keep of their throughput.
func BenchmarkDeadHost(b *testing.B) {
	each := 200
	if testing.Short() {
		each = 40
	}
	for range b.N {
		healthy := hundredHosts(b, each, "")
		for _, dead := range []string{"never answers", "refuses"} {
			with := hundredHosts(b, each, dead)
			again := hundredHosts(b, each, "")
			share := 2 * with / (healthy + again)
			healthy = again
			b.ReportMetric(share, strings.ReplaceAll(dead, " ", "_"))
			report("webhooks to 99 hosts beside one that "+dead+", of their rate without it", fmt.Sprintf("%.2f (%.0f/s)", share, with), "≥ 0.95")
		}
	}
}

// hundredHosts returns how many sends a second the ninety-nine get.
func hundredHosts(b *testing.B, each int, dead string) float64 {
	b.Helper()
	n := appliancetest.Start(b, withWebhooks, func(c *config.Config) { c.RateLimiting.Enabled = false })
	const accounts, hosts = 10, 10
	var receivers []*sinktest.WebhookReceiver
	var resume []func()
	total := 0
	for a := range accounts {
		name := fmt.Sprint("customer", a)
		target := customer(b, n, name)
		var urls []string
		for h := range hosts {
			switch {
			case a == 0 && h == 0 && dead == "refuses":
				urls = append(urls, closedPort(b))
				continue
			case a == 0 && h == 0 && dead != "":
				urls = append(urls, trusting(b, n, name, sinktest.NewRules(b, 1).Every(1, sinktest.FaultHang)).URL())
				continue
			}
			r := trusting(b, n, name, nil)
			if a != 0 || h != 0 {
				receivers = append(receivers, r)
			}
			resume = append(resume, r.Pause())
			urls = append(urls, r.URL())
		}
		var lines strings.Builder
		for i := range each * hosts {
			fmt.Fprintf(&lines, `{"channel":"webhook","to":"%s/x","body":"x"}`+"\n", urls[i%hosts])
		}
		postBatch(b, target, lines.String(), each*hosts)
		total += each * hosts
	}
	awaitRows(b, n, uint64(total))
	start := time.Now()
	for _, open := range resume {
		open()
	}
	want := len(receivers) * each
	appliancetest.Eventually(b, 5*time.Minute, "the others have all", func() bool {
		got := 0
		for _, r := range receivers {
			got += r.Total()
		}
		return got >= want
	})
	rate := float64(want) / time.Since(start).Seconds()
	must2(b, n.Stop())
	return rate
}

// closedPort is the address of a host that refuses connections.
func closedPort(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must2(b, err)
	defer l.Close()
	return "http://" + l.Addr().String()
}

// BenchmarkBurst measures when an account's single message arrives, alone and
// while a hundred thousand of another account wait on the same channel in the same
// priority.
func BenchmarkBurst(b *testing.B) {
	burst := 100_000
	if testing.Short() {
		burst = 20_000
	}
	for range b.N {
		n := appliancetest.Start(b, withWebhooks, func(c *config.Config) { c.RateLimiting.Enabled = false })
		busy, quiet := trusting(b, n, "acme", nil), (*sinktest.WebhookReceiver)(nil)
		other := customer(b, n, "other")
		quiet = trusting(b, n, "other", nil)
		const singles = 15
		alone := arrivals(b, other, quiet, singles)
		lines := strings.Repeat(fmt.Sprintf(`{"channel":"webhook","to":"%s/x","body":"x"}`+"\n", busy.URL()), burst)
		postBatch(b, n.Target(), lines, burst)
		awaitRows(b, n, uint64(burst))
		with := arrivals(b, other, quiet, singles)
		left := burst - busy.Total()
		if left < burst/20 {
			b.Fatalf("%d of the burst wait at the end: nothing is measured", left)
		}
		b.ReportMetric(with.Seconds()/alone.Seconds(), "ratio")
		report(fmt.Sprintf("one account's message beside %d of another (%d left at the end)", burst, left),
			fmt.Sprintf("%.2f × its time alone (%v, %v)", with.Seconds()/alone.Seconds(), with.Round(time.Millisecond), alone.Round(time.Millisecond)), "≤ 2")
		must2(b, n.Stop())
	}
}

// arrivals sends messages one after another and returns the median time until one
// has arrived.
func arrivals(b *testing.B, from appliancetest.Target, at *sinktest.WebhookReceiver, n int) time.Duration {
	b.Helper()
	var took []time.Duration
	for range n {
		start, before := time.Now(), at.Total()
		if id := tryPost(from, map[string]any{"channel": "webhook", "to": at.URL() + "/y", "body": "x"}); id == "" {
			b.Fatal("a message was not accepted")
		}
		for at.Total() == before {
			if time.Since(start) > time.Minute {
				b.Fatal("a message has not arrived after a minute")
			}
			<-time.After(500 * time.Microsecond)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took[len(took)/2]
}
