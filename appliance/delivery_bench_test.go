package appliance_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/sink"
	"forebay/sink/webhook"
	"forebay/wal/message"
)

const benchWorkers = 32

// BenchmarkWebhooks delivers webhooks to a receiver on loopback through a whole
// appliance, beside a loop that uses the same client directly. The receiver
// answers nobody before all are accepted.
func BenchmarkWebhooks(b *testing.B) {
	total := 10_000
	if testing.Short() {
		total = 2000
	}
	var got atomic.Int64
	var gate atomic.Pointer[chan struct{}] // what arrives waits until all are accepted
	open := make(chan struct{})
	close(open)
	gate.Store(&open)
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		<-*gate.Load()
		got.Add(1)
	}))
	defer receiver.Close()
	for range b.N {
		direct := directWebhooks(b, receiver.URL, total/2)
		n := appliancetest.Start(b, withWebhooks, func(c *config.Config) {
			c.RateLimiting.Enabled = false
			c.Delivery.PerAccountInFlight, c.Delivery.PerHostInFlight = benchWorkers, benchWorkers
		})
		got.Store(0)
		shut := make(chan struct{})
		gate.Store(&shut)
		var senders sync.WaitGroup
		for range 32 {
			senders.Go(func() {
				for range total / 32 {
					tryPost(n.Target(), receiver.URL+"/x")
				}
			})
		}
		senders.Wait()
		from, start := got.Load(), time.Now()
		close(shut)
		appliancetest.Eventually(b, 3*time.Minute, "all are sent", func() bool { return got.Load() >= int64(total/32*32) })
		through := float64(got.Load()-from) / time.Since(start).Seconds()
		must2(b, n.Stop())
		b.ReportMetric(through, "sends/s")
		b.ReportMetric(through/direct, "ratio")
		report("webhooks through the appliance, of a loop with the same client", fmt.Sprintf("%.2f (%.0f/s of %.0f/s, %d left when accepted)", through/direct, through, direct, int64(total)-from), "≥ 0.8")
	}
}

// directWebhooks is the baseline: sends a second.
func directWebhooks(b *testing.B, url string, n int) float64 {
	ch, err := webhook.New(webhook.Config{Secrets: oneSecret{}, Settings: webhook.Settings{AllowHTTP: true, PerHost: benchWorkers,
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}})
	must2(b, err)
	defer ch.Close()
	start := time.Now()
	var workers sync.WaitGroup
	for w := range benchWorkers {
		workers.Go(func() {
			for i := range n / benchWorkers {
				d := &sink.Delivery{Attempt: 1, Record: message.Record{ID: message.NewID(uint64(time.Now().UnixMilli()), 1, 1, message.Normal, uint64(w*n+i)),
					Message: message.Message{Account: "acme", Channel: message.ChannelWebhook, To: url + "/x", Body: "x"}}}
				if _, err := ch.Send(context.Background(), d); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
	return float64(n/benchWorkers*benchWorkers) / time.Since(start).Seconds()
}

type oneSecret struct{}

func (oneSecret) WebhookSecrets(context.Context, string) ([]string, error) {
	return []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, nil
}

func must2(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
