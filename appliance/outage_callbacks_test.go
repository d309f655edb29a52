package appliance_test

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/sink/sinktest"
)

// TestFullLogOfMessagesWithCallbacks: a log that an outage of the database has filled
// with messages, each of which has a callback, drains once the database is back.
func TestFullLogOfMessagesWithCallbacks(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	hooks := newHookReceiver(t)
	n := appliancetest.Start(t, withWebhooks, appliancetest.WithPostgres(pg.URL()), func(c *config.Config) {
		c.Database.ConnectionTimeout = 2 * time.Second
		c.Buffer.MaxDiskBytes = 256 << 20
	})
	pg.Stop(sinktest.Fast)
	random := rand.New(rand.NewPCG(seedOf(t), 0))
	letters := make([]byte, 200<<10)
	for i := range letters {
		letters[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-"[random.IntN(64)]
	}
	accepted := 0
	appliancetest.Eventually(t, 2*time.Minute, "the log is full", func() bool {
		random.Shuffle(len(letters), func(i, j int) { letters[i], letters[j] = letters[j], letters[i] })
		status, text := ask(t, n, "POST", "/v1/messages", `{"channel":"store","priority":"critical","body":"`+string(letters)+`","callback_url":"`+hooks.URL+`/told"}`)
		if status == http.StatusAccepted {
			accepted++
		}
		return status == http.StatusServiceUnavailable && strings.Contains(text, "storage_full")
	})
	t.Logf("%d accepted until the log was full", accepted)
	pg.Start()
	appliancetest.Eventually(t, time.Minute, "something is accepted again", func() bool {
		status, _ := ask(t, n, "POST", "/v1/messages", `{"channel":"store","priority":"critical","body":"x"}`)
		return status == http.StatusAccepted
	})
	awaitDrained(t, n.Admin)
	if got := len(hooks.got("/told")); got != accepted {
		t.Errorf("%d callbacks of %d messages", got, accepted)
	}
}
