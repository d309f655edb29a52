package sinktest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// What the WhatsApp stand-in wants, as the real service would of one account.
const (
	WhatsAppToken   = "EAAG-a-token"
	WhatsAppNumber  = "106540352242922"
	WhatsAppVersion = "v23.0"
	WhatsAppSecret  = "an-app-secret"
)

// The faults that the stand-in knows beside those of the webhook receiver's HTTP
// (cut, refuse, hang) and Graph errors, which GraphError makes.
const (
	FaultHTML    Fault = "html"    // a proxy's 502 page
	FaultEmpty   Fault = "empty"   // takes the message and answers 200 with nothing
	FaultNoID    Fault = "noid"    // takes the message and answers 200 without an id
	FaultEarly   Fault = "early"   // sends the updates before the answer
	FaultToldCut Fault = "toldcut" // sends the updates, and cuts the line instead of an answer
	FaultSilent  Fault = "silent"  // takes the message and never sends an update
	FaultHeld    Fault = "held"    // takes the message for an assessment of its template, and drops it
)

// GraphError is a fault: an error of the Graph API under an HTTP status.
func GraphError(status, code, subcode int) Fault {
	return Fault(fmt.Sprintf("graph %d %d %d 0", status, code, subcode))
}

// GraphErrorAfter is GraphError with a Retry-After, in seconds.
func GraphErrorAfter(status, code, seconds int) Fault {
	return Fault(fmt.Sprintf("graph %d %d 0 %d", status, code, seconds))
}

// GraphLater is a fault: the message is taken, and an update says that it failed.
func GraphLater(code int) Fault { return Fault(fmt.Sprintf("later %d", code)) }

// WhatsApp is a stand-in for the Cloud API that checks what it is sent as
// strictly, holds callers to Meta's limits, and posts signed updates: shuffled,
// repeated, with some left out.
type WhatsApp struct {
	Deliveries
	Rules *Rules

	server *httptest.Server
	done   chan struct{}
	posts  sync.WaitGroup
	client *http.Client

	mu        sync.Mutex
	token     string
	hook      string // where updates go; empty: nowhere
	rng       *rand.Rand
	templates map[string]int // name and language → number of parameters
	next      int
	last      []byte // the latest body that was accepted
	lastTrace string // and its traceparent
	limits    whatsappLimits
	updates   updates
}

// NewWhatsApp starts one on a loopback port.
func NewWhatsApp(t testing.TB, seed uint64, rules *Rules) *WhatsApp {
	t.Helper()
	w := &WhatsApp{Rules: rules, done: make(chan struct{}), token: WhatsAppToken, rng: rand.New(rand.NewPCG(seed, 2)), client: &http.Client{Timeout: 10 * time.Second},
		templates: map[string]int{"order_shipped/en_US": 2, "hello/en": 0}, limits: newWhatsAppLimits(), updates: updates{fates: map[string][]string{}}}
	w.server = httptest.NewUnstartedServer(w)
	w.server.Config.ErrorLog = quietLog()
	w.server.Start()
	t.Cleanup(func() {
		close(w.done)
		w.posts.Wait()
		w.client.CloseIdleConnections()
		w.server.CloseClientConnections()
		w.server.Close()
	})
	return w
}

// URL is what channels.whatsapp.base_url is set to.
func (w *WhatsApp) URL() string { return w.server.URL }

// SetToken makes another access token the good one.
func (w *WhatsApp) SetToken(token string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.token = token
}

// PostUpdatesTo says where updates of accepted messages go.
func (w *WhatsApp) PostUpdatesTo(url string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hook = url
}

// Last returns the body that was accepted last.
func (w *WhatsApp) Last() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Clone(w.last)
}

// LastTrace returns the traceparent that came with it.
func (w *WhatsApp) LastTrace() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lastTrace
}

var e164 = regexp.MustCompile(`^\+[1-9]\d{6,14}$`)

type whatsappCall struct {
	Product       string `json:"messaging_product"`
	RecipientType string `json:"recipient_type"`
	To            string `json:"to"`
	Type          string `json:"type"`
	Text          *struct {
		PreviewURL bool   `json:"preview_url"`
		Body       string `json:"body"`
	} `json:"text"`
	Template *struct {
		Name     string `json:"name"`
		Language struct {
			Code string `json:"code"`
		} `json:"language"`
		Components []struct {
			Type       string `json:"type"`
			Parameters []struct {
				Type string `json:"type"`
				Text string `json:"text"`
			} `json:"parameters"`
		} `json:"components"`
	} `json:"template"`
	Callback string `json:"biz_opaque_callback_data"`
}

// ServeHTTP implements http.Handler.
func (w *WhatsApp) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(io.LimitReader(req.Body, 1<<20))
	if err != nil {
		return
	}
	var call whatsappCall
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	decodeErr := decoder.Decode(&call)
	fault := w.Rules.next(call.To)
	if fault == FaultRefuse {
		panic(http.ErrAbortHandler)
	}
	if code, sub, why := w.check(req, &call, decodeErr); why != "" {
		w.refuse("%s: %s", req.URL.Path, why)
		graphError(rw, 400, code, sub, why)
		return
	}
	if status, code, why := w.limit(&call, time.Now()); code != 0 {
		graphError(rw, status, code, 0, why)
		return
	}
	w.answer(rw, req, fault, &call, body)
}

// check returns the code with which the real service would refuse the call.
func (w *WhatsApp) check(req *http.Request, call *whatsappCall, decodeErr error) (code, subcode int, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case req.Header.Get("Authorization") != "Bearer "+w.token:
		return 190, 463, "the access token is not valid"
	case req.URL.Path != "/"+WhatsAppVersion+"/"+WhatsAppNumber+"/messages" || req.Method != http.MethodPost:
		return 100, 33, "no such object: " + req.Method + " " + req.URL.Path
	case req.Header.Get("Content-Type") != "application/json" || decodeErr != nil:
		return 100, 0, fmt.Sprintf("not a JSON body of this API: %v", decodeErr)
	case req.Header.Get("Idempotency-Key") != "":
		return 100, 0, "an idempotency key lets the transport repeat the call"
	case call.Product != "whatsapp" || call.RecipientType != "individual":
		return 100, 0, "messaging_product or recipient_type"
	case !e164.MatchString(call.To):
		return 131009, 0, "to is not E.164: " + call.To
	case len(call.Callback) > 512 || call.Callback == "":
		return 131009, 0, "biz_opaque_callback_data"
	}
	switch call.Type {
	case "text":
		if call.Text == nil || call.Text.Body == "" || utf8.RuneCountInString(call.Text.Body) > 4096 {
			return 131009, 0, "text.body"
		}
	case "template":
		return w.checkTemplate(call)
	default:
		return 131051, 0, "type " + call.Type
	}
	return 0, 0, ""
}

func (w *WhatsApp) checkTemplate(call *whatsappCall) (code, subcode int, why string) {
	t := call.Template
	if t == nil {
		return 131008, 0, "template"
	}
	want, ok := w.templates[t.Name+"/"+t.Language.Code]
	if !ok {
		return 132001, 0, "no template " + t.Name + " in " + t.Language.Code
	}
	n := 0
	for _, c := range t.Components {
		if c.Type != "body" {
			return 132012, 0, "component " + c.Type
		}
		for _, p := range c.Parameters {
			if p.Type != "text" || p.Text == "" || strings.ContainsAny(p.Text, "\n\t") || strings.Contains(p.Text, "     ") {
				return 132018, 0, "parameter"
			}
			if utf8.RuneCountInString(p.Text) > 1024 {
				return 132005, 0, "a parameter longer than any template"
			}
			n++
		}
	}
	if n != want {
		return 132000, 0, fmt.Sprintf("%d parameters, want %d", n, want)
	}
	return 0, 0, ""
}

func graphError(rw http.ResponseWriter, status, code, subcode int, details string) {
	e := map[string]any{"message": fmt.Sprintf("(#%d) an error", code), "type": "OAuthException", "code": code, "fbtrace_id": "Az8or2yhqkZfEZ",
		"error_data": map[string]any{"messaging_product": "whatsapp", "details": details}}
	if subcode != 0 {
		e["error_subcode"] = subcode
	}
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	_ = json.NewEncoder(rw).Encode(map[string]any{"error": e})
}

func (w *WhatsApp) answer(rw http.ResponseWriter, req *http.Request, fault Fault, call *whatsappCall, body []byte) {
	if rest, ok := strings.CutPrefix(string(fault), "graph "); ok {
		var status, code, sub, after int
		if _, err := fmt.Sscan(rest, &status, &code, &sub, &after); err != nil {
			panic("sinktest: no such fault: " + string(fault))
		}
		if after > 0 {
			rw.Header().Set("Retry-After", strconv.Itoa(after))
		}
		graphError(rw, status, code, sub, "as the rules of the test say")
		return
	}
	if fault == FaultRedirect {
		rw.Header().Set("Location", "http://169.254.169.254/latest")
		rw.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	if fault == FaultHTML {
		rw.Header().Set("Content-Type", "text/html")
		rw.WriteHeader(http.StatusBadGateway)
		_, _ = io.WriteString(rw, "<html><body>502 Bad Gateway</body></html>")
		return
	}
	w.mu.Lock()
	w.next++
	w.last, w.lastTrace = body, req.Header.Get("Traceparent")
	id := "wamid." + strconv.Itoa(w.next) + "." + strings.TrimPrefix(call.To, "+")
	w.mu.Unlock()
	w.accept(call.Callback)
	w.decide(id, call, fault)
	switch fault {
	case FaultCut, FaultToldCut:
		panic(http.ErrAbortHandler)
	case FaultHang:
		select {
		case <-req.Context().Done():
		case <-w.done:
		}
		return
	case FaultEmpty:
		return
	case FaultHuge:
		_, _ = rw.Write(bytes.Repeat([]byte("x"), 10<<20))
		return
	case FaultTrickle:
		w.trickle(rw, req)
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	answer := map[string]any{"messaging_product": "whatsapp", "contacts": []any{map[string]any{"input": call.To, "wa_id": call.To[1:]}}}
	if fault != FaultNoID {
		sent := map[string]any{"id": id}
		if fault == FaultHeld {
			sent["message_status"] = "held_for_quality_assessment"
		}
		answer["messages"] = []any{sent}
	}
	_ = json.NewEncoder(rw).Encode(answer)
}

// trickle answers a byte now and then until the caller goes.
func (w *WhatsApp) trickle(rw http.ResponseWriter, req *http.Request) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := rw.Write([]byte(" ")); err != nil {
			return
		}
		if http.NewResponseController(rw).Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-req.Context().Done():
			return
		case <-w.done:
			return
		}
	}
}
