package appliance_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/sink/sinktest"
)

// TestKillDuringDelivery kills a real process with -9 while it delivers over all
// channels, to services that now and then take a message and never say so: what it
// had acknowledged reaches its receiver, and no more is sent twice than may have
// been in flight at the kills or was taken in silence. Where delivery.unknown_outcome
// is fail, nothing but a webhook is sent twice, and what nobody can know ends as
// failed for that reason.
func TestKillDuringDelivery(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"retry", "fail"} {
		t.Run("unknown_outcome="+policy, func(t *testing.T) {
			t.Parallel()
			killDuringDelivery(t, policy)
		})
	}
}

// services are stand-ins for all that a process delivers to.
type services struct {
	hooks     *hookReceiver
	mails     *sinktest.SMTP
	meta      *sinktest.WhatsApp
	mailRules *sinktest.Rules
	metaRules *sinktest.Rules
}

func newServices(t *testing.T, seed uint64) *services {
	s := &services{hooks: newHookReceiver(t), mailRules: sinktest.NewRules(t, seed).Chance(0.1, sinktest.FaultCutDot), metaRules: sinktest.NewRules(t, seed+1).Chance(0.1, sinktest.FaultCut)}
	s.mails = sinktest.NewSMTP(t, sinktest.SMTPOptions{Plain: true, NoAuth: true}, s.mailRules, nil)
	s.meta = freeWhatsApp(t, seed, s.metaRules)
	return s
}

// settings make a process deliver to the services.
func (s *services) settings(t *testing.T, workers int, policy string) []string {
	token := filepath.Join(t.TempDir(), "token")
	must(t, "write the token", os.WriteFile(token, []byte(sinktest.WhatsAppToken), 0o600))
	return []string{"FOREBAY_CHANNELS_WEBHOOK_ALLOW_CIDRS=[127.0.0.0/8]", "FOREBAY_CHANNELS_WEBHOOK_ALLOW_HTTP=true",
		"FOREBAY_CHANNELS_EMAIL_ENABLED=true", "FOREBAY_CHANNELS_EMAIL_HOST=" + s.mails.Host(), fmt.Sprint("FOREBAY_CHANNELS_EMAIL_PORT=", s.mails.Port()),
		"FOREBAY_CHANNELS_EMAIL_TLS=none", "FOREBAY_CHANNELS_EMAIL_FROM=noreply@example.org",
		"FOREBAY_CHANNELS_WHATSAPP_ENABLED=true", "FOREBAY_CHANNELS_WHATSAPP_BASE_URL=" + s.meta.URL(), "FOREBAY_CHANNELS_WHATSAPP_PHONE_NUMBER_ID=" + sinktest.WhatsAppNumber,
		"FOREBAY_CHANNELS_WHATSAPP_ACCESS_TOKEN_FILE=" + token, "FOREBAY_CHANNELS_WHATSAPP_MESSAGES_PER_SECOND=10000",
		"FOREBAY_CIRCUIT_BREAKER_FAILURE_THRESHOLD=1000", "FOREBAY_RATE_LIMITING_ENABLED=false", "FOREBAY_DELIVERY_UNKNOWN_OUTCOME=" + policy,
		"FOREBAY_DELIVERY_BASE_DELAY=20ms", "FOREBAY_DELIVERY_MAX_DELAY=200ms", "FOREBAY_DELIVERY_MAX_ATTEMPTS=20", fmt.Sprint("FOREBAY_DELIVERY_WORKERS_PER_CHANNEL=", workers)}
}

// order is the i-th message of a load over all channels.
func (s *services) order(i int) map[string]any {
	switch i % 3 {
	case 0:
		return map[string]any{"channel": "webhook", "to": fmt.Sprintf("%s/k%d", s.hooks.URL, i%5), "body": "x"}
	case 1:
		return map[string]any{"channel": "email", "to": fmt.Sprintf("a%d@example.org", i), "subject": "s", "body": "x"}
	}
	return text(number(i % 1_000_000))
}

// times is how often a message has arrived, over whichever channel.
func (s *services) times(id string) int {
	s.hooks.mu.Lock()
	n := s.hooks.byID[id]
	s.hooks.mu.Unlock()
	return n + s.mails.Times(id) + s.meta.Times(id)
}

// cuts counts messages that were taken without a word.
func (s *services) cuts() int {
	return s.mailRules.Met(sinktest.FaultCutDot) + s.metaRules.Met(sinktest.FaultCut)
}

func killDuringDelivery(t *testing.T, policy string) {
	const rounds, workers = 4, 8
	seed := seedOf(t)
	r := rand.New(rand.NewPCG(seed, 0))
	s := newServices(t, seed)
	p := appliancetest.StartProcess(t, filepath.Join(t.TempDir(), "data"), s.settings(t, workers, policy)...)
	var mu sync.Mutex
	acked := map[string]string{} // id → channel
	for range rounds {
		stop := make(chan struct{})
		var load sync.WaitGroup
		for c := range 6 {
			load.Go(func() {
				for i := c; ; i += 5 {
					select {
					case <-stop:
						return
					default:
					}
					order := s.order(i)
					if id := tryPost(p.Target(), order); id != "" {
						mu.Lock()
						acked[id] = order["channel"].(string)
						mu.Unlock()
					}
				}
			})
		}
		<-time.After(time.Duration(200+r.IntN(400)) * time.Millisecond)
		p.Kill()
		close(stop)
		load.Wait()
		p.Spawn()
		p.AwaitReady(time.Minute)
	}
	if len(acked) == 0 || s.cuts() == 0 {
		t.Fatalf("%d messages were acknowledged, %d answers were cut: nothing is proved", len(acked), s.cuts())
	}
	settled := map[string]bool{}
	failed := 0
	appliancetest.Eventually(t, 2*time.Minute, "everything acknowledged has arrived, or failed as nobody can know", func() bool {
		for id, channel := range acked {
			if settled[id] {
				continue
			}
			if ended, lost := s.ended(t, p, id, channel, policy); !ended {
				return false
			} else if lost {
				failed++
			}
			settled[id] = true
		}
		return true
	})
	awaitDrained(t, p.Admin())
	commandAudit(t, p)
	s.count(t, acked, failed, policy, rounds*workers)
}

// ended reports whether a message has come to its end; lost: it failed, and may
// have arrived or not.
func (s *services) ended(t *testing.T, p *appliancetest.Process, id, channel, policy string) (ended, lost bool) {
	t.Helper()
	if policy == "retry" || channel == "webhook" {
		return s.times(id) > 0, false
	}
	v := show(t, &appliancetest.Node{URL: p.URL, Key: p.Key, Client: p.Client}, id)
	switch v.Status {
	case "sent":
		if s.times(id) == 0 {
			t.Fatalf("%s is sent, and nobody took it", id)
		}
		return true, false
	case "failed":
		// outcome_unknown: a kill cut its attempt off, which then is not in the list.
		if n := len(v.Attempts); v.Error.Code != "outcome_unknown" && (n == 0 || v.Attempts[n-1].Outcome != "unknown") {
			t.Fatalf("%s failed, and not for an unknown outcome: %+v", id, v)
		}
		return true, true
	}
	return false, false
}

// count holds the stand-ins' ledgers against what was acknowledged. inFlight bounds
// the attempts of one channel that the kills may have cut off.
func (s *services) count(t *testing.T, acked map[string]string, failed int, policy string, inFlight int) {
	t.Helper()
	twice := map[string]int{}
	for id, channel := range acked {
		twice[channel] += max(s.times(id)-1, 0)
	}
	t.Logf("%d acknowledged, none lost; sent twice %v; %d failed for an unknown outcome; %d answers cut", len(acked), twice, failed, s.cuts())
	most := map[string]int{"webhook": inFlight, "email": inFlight + s.mailRules.Met(sinktest.FaultCutDot), "whatsapp": inFlight + s.metaRules.Met(sinktest.FaultCut)}
	if policy == "fail" {
		most["email"], most["whatsapp"] = 0, 0
		if failed == 0 || failed > s.cuts()+2*inFlight {
			t.Errorf("%d failed for an unknown outcome, %d answers were cut", failed, s.cuts())
		}
	}
	for channel, n := range twice {
		if n > most[channel] {
			t.Errorf("%s: %d were sent twice, at most %d may be", channel, n, most[channel])
		}
	}
	if wrong := append(s.mails.Wrong(), s.meta.Wrong()...); len(wrong) > 0 {
		t.Errorf("a real service would refuse: %q", wrong)
	}
}

// tryPost submits a message; empty: it was not acknowledged.
func tryPost(target appliancetest.Target, fields map[string]any) string {
	body, _ := json.Marshal(fields)
	req, err := http.NewRequest("POST", target.URL+"/v1/messages", bytes.NewReader(body))
	if err != nil {
		return ""
	}
	req.Header.Set("Authorization", "Bearer "+target.Key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := target.Client.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	var answer struct{ ID string }
	if resp.StatusCode != http.StatusAccepted || json.Unmarshal(text, &answer) != nil {
		return ""
	}
	return answer.ID
}
