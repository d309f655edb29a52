package appliance_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
)

// TestKillDuringDelivery kills a real process with -9 while it delivers: what it
// had acknowledged reaches its receiver, and no more is sent twice than may have
// been in flight at the kills.
func TestKillDuringDelivery(t *testing.T) {
	t.Parallel()
	const rounds, workers = 4, 8
	seed := seedOf(t)
	r := rand.New(rand.NewPCG(seed, 0))
	hooks := newHookReceiver(t)
	p := appliancetest.StartProcess(t, filepath.Join(t.TempDir(), "data"), "FOREBAY_CHANNELS_WEBHOOK_ALLOW_CIDRS=[127.0.0.0/8]",
		"FOREBAY_CHANNELS_WEBHOOK_ALLOW_HTTP=true", "FOREBAY_RATE_LIMITING_ENABLED=false", fmt.Sprint("FOREBAY_DELIVERY_WORKERS_PER_CHANNEL=", workers))
	var mu sync.Mutex
	var acked []string
	for range rounds {
		stop := make(chan struct{})
		var load sync.WaitGroup
		for c := range 8 {
			load.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					if id := tryPost(p.Target(), fmt.Sprintf("%s/k%d", hooks.URL, (c+i)%5)); id != "" {
						mu.Lock()
						acked = append(acked, id)
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
	if len(acked) == 0 {
		t.Fatal("nothing was acknowledged: nothing is proved")
	}
	missing := func() (n int) {
		hooks.mu.Lock()
		defer hooks.mu.Unlock()
		for _, id := range acked {
			if hooks.byID[id] == 0 {
				n++
			}
		}
		return n
	}
	appliancetest.Eventually(t, time.Minute, "everything acknowledged has arrived", func() bool { return missing() == 0 })
	awaitDrained(t, p.Admin())
	hooks.mu.Lock()
	defer hooks.mu.Unlock()
	twice := 0
	for _, n := range hooks.byID {
		twice += n - 1
	}
	t.Logf("%d acknowledged, all arrived, %d repeats over %d kills", len(acked), twice, rounds)
	if twice > rounds*workers {
		t.Errorf("%d repeats, at most %d attempts were in flight at the kills", twice, rounds*workers)
	}
}

// tryPost submits a webhook; empty: it was not acknowledged.
func tryPost(target appliancetest.Target, to string) string {
	body, _ := json.Marshal(map[string]any{"channel": "webhook", "to": to, "body": "x"})
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
