package sinktest

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// updates are what a WhatsApp has to say of the messages that it took. WhatsApp.mu
// guards them.
type updates struct {
	hold     bool
	held     []any
	failing  float64             // chance that a message fails later
	fates    map[string][]string // by our id: the last status that updates give it, each time it was taken
	unposted int                 // that the hook did not answer 200
}

// HoldUpdates keeps updates back until PostHeld, but those of FaultEarly and FaultToldCut.
func (w *WhatsApp) HoldUpdates() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.updates.hold = true
}

// FailLater makes messages fail after they were taken, with a chance of 0 to 1.
func (w *WhatsApp) FailLater(chance float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.updates.failing = chance
}

// Fates is what the updates of a message make of it, for each time that it was
// taken: sent, delivered, read or undelivered.
func (w *WhatsApp) Fates(id string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.updates.fates[id]...)
}

// Unposted counts updates that no 200 came for.
func (w *WhatsApp) Unposted() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.updates.unposted
}

// decide chooses what becomes of a message, and tells it now, soon or when it is
// asked to.
func (w *WhatsApp) decide(id string, call *whatsappCall, fault Fault) {
	if fault == FaultSilent {
		return
	}
	w.mu.Lock()
	statuses := w.fateLocked(id, call, fault)
	atOnce := fault == FaultEarly || fault == FaultToldCut
	hook, hold := w.hook, w.updates.hold && !atOnce
	if hold {
		w.updates.held = append(w.updates.held, statuses...)
	}
	alone := w.rng.IntN(2) == 0
	w.mu.Unlock()
	switch {
	case hold || hook == "":
	case atOnce:
		w.postAll(hook, statuses, alone)
	default:
		w.posts.Go(func() { w.postAll(hook, statuses, alone) })
	}
}

// fateLocked makes the updates of a message, in any order, some of them twice.
func (w *WhatsApp) fateLocked(id string, call *whatsappCall, fault Fault) []any {
	code, fails := 131026, w.rng.Float64() < w.updates.failing
	if fault == FaultHeld {
		code, fails = 132015, true
	}
	if text, ok := strings.CutPrefix(string(fault), "later "); ok {
		fails = true
		if _, err := fmt.Sscan(text, &code); err != nil {
			panic("sinktest: no such fault: " + string(fault))
		}
	}
	names := [][]string{{"sent", "delivered", "read"}, {"sent", "read"}, {"sent", "delivered"}, {"sent"}}[w.rng.IntN(4)] // delivered may be left out
	if fails {
		names = [][]string{{"sent", "failed"}, {"failed"}}[w.rng.IntN(2)]
	}
	fate := names[len(names)-1]
	if fails {
		fate = "undelivered"
	}
	w.updates.fates[call.Callback] = append(w.updates.fates[call.Callback], fate)
	names = append(names[:len(names):len(names)], names[w.rng.IntN(len(names))])
	w.rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	var statuses []any
	for _, name := range names {
		s := map[string]any{"id": id, "status": name, "timestamp": strconv.FormatInt(time.Now().Unix(), 10),
			"recipient_id": call.To[1:], "biz_opaque_callback_data": call.Callback, "pricing": map[string]any{"billable": true}}
		if name == "failed" {
			s["errors"] = []any{map[string]any{"code": code, "title": "Message undeliverable", "error_data": map[string]any{"details": "Message Undeliverable – “ä”."}}}
		}
		statuses = append(statuses, s)
	}
	return statuses
}

// PostHeld posts the updates that were kept back: those of all messages shuffled,
// each third of them twice, in bodies of up to most. It returns how many it posted.
func (w *WhatsApp) PostHeld(most int) int {
	w.mu.Lock()
	hook, all := w.hook, w.updates.held
	w.updates.held = nil
	for _, s := range all {
		if w.rng.IntN(3) == 0 {
			all = append(all, s)
		}
	}
	w.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var bodies [][]any
	for rest := all; len(rest) > 0; {
		n := min(1+w.rng.IntN(most), len(rest))
		bodies, rest = append(bodies, rest[:n]), rest[n:]
	}
	w.mu.Unlock()
	for _, b := range bodies {
		w.post(hook, b)
	}
	return len(all)
}

// postAll posts a message's updates in one body, or each alone.
func (w *WhatsApp) postAll(hook string, statuses []any, alone bool) {
	if !alone {
		w.post(hook, statuses)
		return
	}
	for _, s := range statuses {
		w.post(hook, []any{s})
	}
}

func (w *WhatsApp) post(hook string, statuses []any) {
	body := HookBody(statuses...)
	for range 5 { // Meta repeats what was not answered 200
		req, err := http.NewRequest(http.MethodPost, hook, bytes.NewReader(body))
		if err != nil {
			break
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Hub-Signature-256", HookSignature(WhatsAppSecret, body))
		if resp, err := w.client.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.updates.unposted += len(statuses)
}

// HookBody is the body of an update with these statuses, with every character
// beyond ASCII escaped, as Meta writes it.
func HookBody(statuses ...any) []byte {
	body, err := json.Marshal(map[string]any{"object": "whatsapp_business_account", "entry": []any{map[string]any{"id": "102290129340398",
		"changes": []any{map[string]any{"field": "messages", "value": map[string]any{"messaging_product": "whatsapp",
			"metadata": map[string]any{"display_phone_number": "15550783881", "phone_number_id": WhatsAppNumber}, "statuses": statuses}}}}}})
	if err != nil {
		panic(err)
	}
	var out bytes.Buffer
	for _, r := range string(body) {
		if r < 0x80 {
			out.WriteRune(r)
		} else if r <= 0xffff {
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.Bytes()
}

// HookSignature is the value of X-Hub-Signature-256 for a body.
func HookSignature(secret string, body []byte) string {
	sum := hmac.New(sha256.New, []byte(secret))
	sum.Write(body)
	return "sha256=" + hex.EncodeToString(sum.Sum(nil))
}
