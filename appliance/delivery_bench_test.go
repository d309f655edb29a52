package appliance_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/sink"
	"forebay/sink/email"
	"forebay/sink/sinktest"
	"forebay/sink/webhook"
	"forebay/wal/message"
)

const (
	benchWorkers = 32                   // calls at once, of the appliance and of the loop beside it
	benchSlots   = 128                  // attempts whose end is not durable, in the shipped proportion to the calls
	benchRelays  = 8                    // connections to the relay, of both
	usualAnswer  = 5 * time.Millisecond // of a service that is near: what stands still here has no way at all
)

// outside is a stand-in, and both ways to it: through an appliance, and by the
// client that an appliance has.
type outside struct {
	message message.Message
	client  sink.Channel
	pause   func() (resume func())
	slow    func(time.Duration)
	total   func() int
	setting appliancetest.Option
	trust   func(secret string) // nil: it asks for none
}

// BenchmarkDelivery delivers through a whole appliance to the strict stand-ins,
// beside a loop that uses the same client directly, with as many calls at once.
// The stand-in answers nobody before all is accepted and stored. It shares the
// processors with both; where it answers at once, these are all that is measured.
func BenchmarkDelivery(b *testing.B) {
	for _, c := range []struct {
		channel string
		total   int
		slow    time.Duration
		open    func(*testing.B) outside
	}{{"webhook", 50_000, 0, webhooksOutside}, {"webhook", 50_000, usualAnswer, webhooksOutside},
		{"email", 10_000, 0, emailsOutside}, {"email", 10_000, usualAnswer, emailsOutside}} {
		b.Run(fmt.Sprintf("channel=%s/answer=%v", c.channel, c.slow), func(b *testing.B) {
			total := c.total
			if testing.Short() {
				total /= 10
			}
			out := c.open(b)
			out.slow(c.slow)
			for range b.N {
				direct := out.directly(b, total/5)
				through := out.through(b, total)
				direct = (direct + out.directly(b, total/5)) / 2
				b.ReportMetric(through, "sends/s")
				b.ReportMetric(through/direct, "ratio")
				report(fmt.Sprintf("%s sends through the appliance, of a loop with the same client; answers after %v", c.channel, c.slow),
					fmt.Sprintf("%.2f (%d: %.0f/s of %.0f/s)", through/direct, total, through, direct), "≥ 0.8")
			}
		})
	}
}

// through sends n messages by an appliance: sends a second.
func (o outside) through(b *testing.B, n int) float64 {
	b.Helper()
	node := appliancetest.Start(b, func(c *config.Config) {
		c.RateLimiting.Enabled = false
		c.Delivery.WorkersPerChannel, c.Delivery.PerAccountInFlight, c.Delivery.PerHostInFlight = benchSlots, benchWorkers, benchWorkers
		c.CircuitBreaker.Timeout, c.Channels.Webhook.Timeout = 5*time.Minute, 5*time.Minute
	}, o.setting)
	if o.trust != nil {
		secret, err := node.Admin.WebhookSecret(context.Background(), "acme")
		must2(b, err)
		o.trust(secret.Secret)
	}
	before := o.total()
	resume := o.pause()
	m := o.message
	lines := strings.Repeat(fmt.Sprintf(`{"channel":%q,"to":%q,"subject":%q,"body":%q}`+"\n", m.Channel, m.To, m.Subject, m.Body), n)
	if m.Channel != message.ChannelEmail {
		lines = strings.ReplaceAll(lines, `"subject":"",`, "")
	}
	postBatch(b, node.Target(), lines, n)
	awaitRows(b, node, uint64(n))
	start, used := time.Now(), processorUsed()
	resume()
	rate := o.await(b, before+n, float64(n), start)
	awaitEmpty(b, node)
	b.Logf("%d sent in %v, settled after %v; %v of processor time each", n, time.Duration(float64(n)/rate*1e9).Round(time.Millisecond),
		time.Since(start).Round(time.Millisecond), (processorUsed()-used)/time.Duration(n))
	must2(b, node.Stop())
	return rate
}

// await waits until the stand-in has so many and returns n a second since start.
func (o outside) await(b *testing.B, want int, n float64, start time.Time) float64 {
	b.Helper()
	appliancetest.Eventually(b, 5*time.Minute, "all is sent", func() bool { return o.total() >= want })
	return n / time.Since(start).Seconds()
}

// directly is the baseline: sends a second.
func (o outside) directly(b *testing.B, n int) float64 {
	b.Helper()
	var next atomic.Int64
	var workers sync.WaitGroup
	start, used := time.Now(), processorUsed()
	for range benchWorkers {
		workers.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				d := &sink.Delivery{Attempt: 1, Record: message.Record{Message: o.message,
					ID: message.NewID(uint64(time.Now().UnixMilli()), 1, 1, message.Normal, uint64(i))}}
				if _, err := o.client.Send(context.Background(), d); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
	b.Logf("%d sent directly in %v; %v of processor time each", n, time.Since(start).Round(time.Millisecond), (processorUsed()-used)/time.Duration(n))
	return float64(n) / time.Since(start).Seconds()
}

// processorUsed is the time that this process has had of the processors. It tells
// the cost of a message where other programs take their share of the machine.
func processorUsed() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func webhooksOutside(b *testing.B) outside {
	receiver := sinktest.NewWebhookReceiver(b, false, nil, benchSecret)
	client, err := webhook.New(webhook.Config{Secrets: oneSecret{}, Settings: webhook.Settings{AllowHTTP: true, PerHost: benchWorkers,
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}})
	must2(b, err)
	b.Cleanup(func() { must2(b, client.Close()) })
	return outside{message.Message{Account: "acme", Channel: message.ChannelWebhook, To: receiver.URL() + "/x", Body: "x"},
		client, receiver.Pause, receiver.Slow, receiver.Total, withWebhooks, receiver.Trust}
}

func emailsOutside(b *testing.B) outside {
	relay := sinktest.NewSMTP(b, sinktest.SMTPOptions{Plain: true, NoAuth: true}, nil, nil)
	client, err := email.New(email.Config{Host: relay.Host(), Port: relay.Port(), TLS: email.TLSNone, From: "forebay@example.org", Connections: benchRelays})
	must2(b, err)
	b.Cleanup(func() { must2(b, client.Close()) })
	return outside{message.Message{Account: "acme", Channel: message.ChannelEmail, To: "someone@example.com", Subject: "s", Body: "x"},
		client, relay.Pause, relay.Slow, relay.Total, func(c *config.Config) {
			c.Channels.Email = config.Email{Enabled: true, Host: relay.Host(), Port: relay.Port(), TLS: email.TLSNone, From: "forebay@example.org", Connections: benchRelays}
		}, nil}
}

// postBatch submits lines as one batch; all n of them are accepted.
func postBatch(b *testing.B, target appliancetest.Target, lines string, n int) {
	b.Helper()
	req, err := http.NewRequest("POST", target.URL+"/v1/messages/batch", strings.NewReader(lines))
	must2(b, err)
	req.Header.Set("Authorization", "Bearer "+target.Key)
	req.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := (&http.Client{}).Do(req)
	must2(b, err)
	defer resp.Body.Close()
	accepted := 0
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if !strings.Contains(s.Text(), `"status":"accepted"`) {
			b.Fatalf("a line of the batch: %s", s.Text())
		}
		accepted++
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || accepted != n {
		b.Fatalf("%d of %d accepted: %v", accepted, n, err)
	}
}

// awaitRows waits until the store has n messages.
func awaitRows(b *testing.B, node *appliancetest.Node, n uint64) {
	b.Helper()
	appliancetest.Eventually(b, 5*time.Minute, "all is stored", func() bool {
		<-time.After(100 * time.Millisecond)
		a, err := node.Admin.Audit(context.Background(), time.Time{})
		return err == nil && a.Stored >= n
	})
}

// awaitEmpty waits until the log is empty.
func awaitEmpty(b *testing.B, node *appliancetest.Node) {
	b.Helper()
	appliancetest.Eventually(b, 5*time.Minute, "the log is empty", func() bool {
		<-time.After(100 * time.Millisecond)
		s, err := node.Admin.Status(context.Background())
		n := s.Log.Parked
		for _, lane := range s.Log.Backlog {
			n += lane
		}
		return err == nil && n == 0
	})
}

const benchSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

type oneSecret struct{}

func (oneSecret) WebhookSecrets(context.Context, string) ([]string, error) {
	return []string{benchSecret}, nil
}

func must2(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
