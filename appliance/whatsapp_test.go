package appliance_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// withWhatsApp makes a node send to the stand-in and take its updates.
func withWhatsApp(t *testing.T, meta *sinktest.WhatsApp) appliancetest.Option {
	dir := t.TempDir()
	for name, text := range map[string]string{"token": sinktest.WhatsAppToken, "app": sinktest.WhatsAppSecret} {
		must(t, "write a secret", os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600))
	}
	return func(c *config.Config) {
		w := &c.Channels.WhatsApp
		w.Enabled, w.BaseURL, w.PhoneNumberID, w.MessagesPerSecond = true, meta.URL(), sinktest.WhatsAppNumber, 10_000
		w.AccessTokenFile, w.AppSecretFile = filepath.Join(dir, "token"), filepath.Join(dir, "app")
		c.CircuitBreaker.FailureThreshold = 1000 // the faults are the messages' here, not the service's
		c.Delivery.BaseDelay, c.Delivery.MaxDelay = 20*time.Millisecond, 200*time.Millisecond
	}
}

// freeWhatsApp is a stand-in that limits nobody.
func freeWhatsApp(t *testing.T, seed uint64, rules *sinktest.Rules) *sinktest.WhatsApp {
	meta := sinktest.NewWhatsApp(t, seed, rules)
	meta.EveryoneWrote()
	meta.SetPace(time.Second/10_000, 10_000)
	return meta
}

func number(n int) string { return fmt.Sprintf("+49151%08d", 12300000+n) }

func text(to string) map[string]any {
	return map[string]any{"channel": "whatsapp", "to": to, "body": "text"}
}

// witness looks at messages all the time and complains of a status that none
// may come to from the one before.
type witness struct {
	mu    sync.Mutex // guards what follows
	ids   []string
	seen  map[string]message.Status
	looks int
	steps int // to another status
	wrong []string
	stop  func() // ends the looking; may be called again
}

func watchStatuses(t *testing.T, n *appliancetest.Node) *witness {
	done, stop := make(chan struct{}), make(chan struct{})
	w := &witness{seen: map[string]message.Status{}, stop: sync.OnceFunc(func() { close(stop); <-done })}
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			w.mu.Lock()
			id := ""
			if len(w.ids) > 0 {
				id = w.ids[i%len(w.ids)]
			}
			w.mu.Unlock()
			if id == "" {
				<-time.After(time.Millisecond)
				continue
			}
			if code, text := ask(t, n, "GET", "/v1/messages/"+id, ""); code == 200 {
				w.look(id, statusIn(text))
			}
		}
	}()
	t.Cleanup(w.stop)
	return w
}

func statusIn(text string) string {
	_, rest, _ := strings.Cut(text, `"status":"`)
	status, _, _ := strings.Cut(rest, `"`)
	return status
}

func (w *witness) add(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ids = append(w.ids, id)
}

func (w *witness) look(id, status string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	now, ok := message.ParseStatus(status)
	before, known := w.seen[id]
	if !ok || known && now != before && !before.CanReach(now) {
		w.wrong = append(w.wrong, fmt.Sprintf("%s: %v, then %s", id, before, status))
	}
	if known && now != before {
		w.steps++
	}
	w.seen[id] = now
}

// TestStatusReports: updates of a provider that come early, late, in any order and
// more than once leave each message with what became of it, and take it there by
// allowed steps alone. Nothing that is not signed changes anything.
func TestStatusReports(t *testing.T) {
	worlds(t, func(t *testing.T, w world) {
		const messages = 120
		seed := seedOf(t)
		rules := sinktest.NewRules(t, seed).Chance(0.3, sinktest.FaultEarly).Chance(0.1, sinktest.FaultCut).Chance(0.1, sinktest.FaultNoID)
		meta := freeWhatsApp(t, seed, rules)
		meta.HoldUpdates()
		meta.FailLater(0.2)
		options := []appliancetest.Option{withWhatsApp(t, meta)}
		if w.pg != nil {
			options = append(options, appliancetest.WithPostgres(w.pg.URL()))
		}
		n := appliancetest.Start(t, options...)
		meta.PostUpdatesTo(n.URL + "/hooks/whatsapp")
		t.Run("run", func(t *testing.T) {
			witness, feed := watchStatuses(t, n), openFeed(t, n)
			var ids []string
			for i := range messages {
				ids = append(ids, post(t, n, text(number(i))))
				witness.add(ids[i])
			}
			for _, id := range ids {
				appliancetest.Eventually(t, 30*time.Second, id+" is sent", func() bool {
					s, _ := message.ParseStatus(show(t, n, id).Status)
					return s == message.Sent || message.Sent.CanReach(s)
				})
			}
			forge(t, n, ids)
			posted := meta.PostHeld(40)
			if early := rules.Met(sinktest.FaultEarly); early == 0 || posted == 0 || rules.Met(sinktest.FaultCut) == 0 {
				t.Fatalf("%d early, %d late updates, %d cut answers: nothing is proved", early, posted, rules.Met(sinktest.FaultCut))
			}
			for _, id := range ids {
				appliancetest.Eventually(t, 30*time.Second, id+" is "+strings.Join(meta.Fates(id), " or "), func() bool { return fated(t, n, meta, id) })
			}
			ledger(t, meta, ids, rules.Met(sinktest.FaultCut))
			witness.stop()
			witness.mu.Lock()
			defer witness.mu.Unlock()
			t.Logf("%d updates late, %d messages early; %d looks saw %d steps", posted, rules.Met(sinktest.FaultEarly), witness.looks, witness.steps)
			if len(witness.wrong) > 0 || witness.steps < messages/4 {
				t.Errorf("%d looks saw %d steps; forbidden: %q", witness.looks, witness.steps, witness.wrong)
			}
			for _, id := range ids {
				feed.toldInOrder(t, id, show(t, n, id).Status)
			}
			if meta.Unposted() > 0 {
				t.Errorf("the hook did not take %d updates", meta.Unposted())
			}
			key := n.Key
			n = n.Restart()
			n.Key = key
			appliancetest.Eventually(t, 30*time.Second, "the store answers", func() bool {
				status, _ := ask(t, n, "GET", "/v1/messages/"+ids[0], "")
				return status == 200
			})
			for _, id := range ids {
				if !fated(t, n, meta, id) {
					t.Errorf("after a restart %s is %s, want %v", id, show(t, n, id).Status, meta.Fates(id))
				}
			}
		})
	})
}

// fated reports whether a message is what became of it. One that was sent twice
// may have come to either end.
func fated(t *testing.T, n *appliancetest.Node, meta *sinktest.WhatsApp, id string) bool {
	status := show(t, n, id).Status
	for _, fate := range meta.Fates(id) {
		if status == fate {
			return true
		}
	}
	return false
}

// ledger holds what the stand-in has taken against what was accepted.
func ledger(t *testing.T, meta *sinktest.WhatsApp, ids []string, cuts int) {
	t.Helper()
	for _, id := range ids {
		if meta.Times(id) == 0 {
			t.Errorf("%s never arrived", id)
		}
	}
	if extra := meta.Total() - len(ids); extra > cuts || len(meta.All()) != len(ids) {
		t.Errorf("%d messages of %d arrived, %d times more than once, and %d answers were cut", len(meta.All()), len(ids), extra, cuts)
	}
	if wrong := meta.Wrong(); len(wrong) > 0 {
		t.Errorf("the real service would refuse: %q", wrong)
	}
}

// forge posts updates that are not Meta's: each is refused, and changes nothing.
func forge(t *testing.T, n *appliancetest.Node, ids []string) {
	t.Helper()
	id := ""
	for _, candidate := range ids {
		if show(t, n, candidate).Status == "sent" {
			id = candidate
		}
	}
	if id == "" {
		t.Fatal("no message waits for its report: nothing is proved")
	}
	body := sinktest.HookBody(map[string]any{"id": "wamid.forged", "status": "read", "timestamp": strconv.FormatInt(time.Now().Unix(), 10), "biz_opaque_callback_data": id})
	good := sinktest.HookSignature(sinktest.WhatsAppSecret, body)
	for what, signature := range map[string]string{"of another secret": sinktest.HookSignature("another", body), "of another body": sinktest.HookSignature(sinktest.WhatsAppSecret, body[1:]),
		"cut short": good[:len(good)-2], "without its name": strings.TrimPrefix(good, "sha256="), "none": ""} {
		if status, text := ask(t, n, "POST", "/hooks/whatsapp", string(body), "X-Hub-Signature-256", signature); status != 403 {
			t.Errorf("a signature %s: %d %s, want 403", what, status, text)
		}
	}
	if v := show(t, n, id); v.Status != "sent" {
		t.Errorf("forged updates made it %s", v.Status)
	}
}
