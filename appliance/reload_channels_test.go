package appliance_test

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
)

// graph stands in for WhatsApp's API and remembers the last call.
type graph struct {
	*httptest.Server
	mu   sync.Mutex
	last string // path and token
}

func newGraph(t *testing.T) *graph {
	g := &graph{}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.last = r.URL.Path + " " + r.Header.Get("Authorization")
		g.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"messages":[{"id":"wamid.1"}]}`)
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *graph) saw(part string) func() bool {
	return func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return strings.Contains(g.last, part)
	}
}

// relay stands in for a mail server and remembers what is said to it.
type relay struct {
	listener net.Listener
	work     sync.WaitGroup
	mu       sync.Mutex
	said     strings.Builder
	mails    int
	open     map[net.Conn]bool
	peak     int           // connections at once
	hold     chan struct{} // nil: mails are taken at once; else when it is closed
}

func newRelay(t *testing.T, address string) *relay {
	l, err := net.Listen("tcp", address)
	must(t, "listen as a mail server", err)
	r := &relay{listener: l, open: map[net.Conn]bool{}}
	r.work.Go(func() {
		for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
			r.mu.Lock()
			r.open[conn] = true
			r.peak = max(r.peak, len(r.open))
			r.mu.Unlock()
			r.work.Go(func() { r.talk(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.mu.Lock()
		for conn := range r.open {
			conn.Close()
		}
		r.mu.Unlock()
		r.work.Wait()
	})
	return r
}

func (r *relay) port() int { return r.listener.Addr().(*net.TCPAddr).Port }

func (r *relay) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said.WriteString(text + "\n")
}

func (r *relay) heard(part string) func() bool {
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return strings.Contains(r.said.String(), part)
	}
}

func (r *relay) reset(hold chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said.Reset()
	r.mails, r.peak, r.hold = 0, 0, hold
}

func (r *relay) count() (mails, peak int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mails, r.peak
}

func (r *relay) talk(conn net.Conn) {
	defer func() {
		conn.Close()
		r.mu.Lock()
		delete(r.open, conn)
		r.mu.Unlock()
	}()
	in := bufio.NewReader(conn)
	say := func(text string) { io.WriteString(conn, text+"\r\n") }
	say("220 relay ESMTP")
	if first, err := in.Peek(1); err != nil || first[0] == 0x16 { // a TLS record: handshake
		r.note("TLS handshake")
		return
	}
	for line, err := in.ReadString('\n'); err == nil; line, err = in.ReadString('\n') {
		line = strings.TrimSpace(line)
		r.note(line)
		switch verb, argument, _ := strings.Cut(line, " "); strings.ToUpper(verb) {
		case "EHLO":
			say("250-relay\r\n250-STARTTLS\r\n250 AUTH PLAIN")
		case "AUTH":
			login, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(argument, "PLAIN "))
			r.note("login " + strings.ReplaceAll(string(login), "\x00", "/"))
			say("235 welcome")
		case "DATA":
			say("354 go on")
			for text, err := in.ReadString('\n'); err == nil && text != ".\r\n"; text, err = in.ReadString('\n') {
			}
			r.take()
			say("250 taken")
		case "STARTTLS":
			return
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 yes")
		}
	}
}

func (r *relay) take() {
	r.mu.Lock()
	hold := r.hold
	r.mu.Unlock()
	if hold != nil {
		<-hold
	}
	r.mu.Lock()
	r.mails++
	r.mu.Unlock()
}

// channelsWorld is a node whose file is written anew for each case.
type channelsWorld struct {
	*appliancetest.Node
	t     *testing.T
	file  *appliancetest.File
	base  map[string]string // keys below channels
	graph [2]*graph
	relay *relay
	port  *relay // another one on another port
	host  *relay // another one on another address, on the port of relay
	sent  []string
}

func newChannelsWorld(t *testing.T) *channelsWorld {
	w := &channelsWorld{t: t, graph: [2]*graph{newGraph(t), newGraph(t)}, relay: newRelay(t, "127.0.0.1:0"), port: newRelay(t, "127.0.0.1:0")}
	w.host = newRelay(t, net.JoinHostPort("127.0.0.2", strconv.Itoa(w.relay.port())))
	w.Node, w.file = startQuiet(t, nil)
	w.base = map[string]string{
		"webhook.enabled": "true", "whatsapp.enabled": "true", "whatsapp.base_url": w.graph[0].URL, "whatsapp.phone_number_id": `"111"`, "whatsapp.messages_per_second": "10000",
		"whatsapp.access_token_file": w.secret("token"), "whatsapp.app_secret_file": w.secret("app"), "whatsapp.verify_token_file": w.secret("verify"),
		"email.enabled": "true", "email.host": "127.0.0.1", "email.port": strconv.Itoa(w.relay.port()), "email.tls": "none", "email.from": "first@example.org",
		"email.username": "first", "email.password_file": w.secret("password"),
	}
	return w
}

// secret is a file that holds its own name.
func (w *channelsWorld) secret(name string) string {
	path := filepath.Join(w.t.TempDir(), name)
	must(w.t, "write a secret", os.WriteFile(path, []byte(name+"\n"), 0o600))
	return path
}

// put reloads with one key changed; empty: with none.
func (w *channelsWorld) put(key, value string) admin.ConfigResult {
	w.t.Helper()
	all := maps.Clone(w.base)
	if key != "" {
		all[key] = value
	}
	sections := map[string][]string{}
	for k, v := range all {
		section, name, _ := strings.Cut(k, ".")
		sections[section] = append(sections[section], name+": "+v)
	}
	text := "circuit_breaker: {failure_threshold: 1000}\ndelivery: {max_attempts: 1}\nchannels:\n"
	for name, lines := range sections {
		text += fmt.Sprintf("  %s: {%s}\n", name, strings.Join(lines, ", "))
	}
	w.file.Write(text)
	return reload(w.t, w.Node)
}

func (w *channelsWorld) mail() {
	w.t.Helper()
	w.sent = append(w.sent, post(w.t, w.Node, map[string]any{"channel": "email", "to": fmt.Sprintf("a%d@example.org", len(w.sent)), "subject": "s", "body": "b"}))
}

func (w *channelsWorld) text() {
	w.t.Helper()
	w.sent = append(w.sent, post(w.t, w.Node, map[string]any{"channel": "whatsapp", "to": fmt.Sprintf("+4915112345%03d", len(w.sent)), "body": "b"}))
}

// refuses: messages for the channel are refused at the door.
func (w *channelsWorld) refuses(body string) func() bool {
	return func() bool {
		status, text := ask(w.t, w.Node, "POST", "/v1/messages", body)
		return status == http.StatusUnprocessableEntity && strings.Contains(text, "not enabled")
	}
}

func (w *channelsWorld) takesReports(secret string) func() bool {
	return func() bool {
		const body = `{"object":"whatsapp_business_account","entry":[]}`
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(body))
		status, _ := ask(w.t, w.Node, "POST", "/hooks/whatsapp", body, "X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
		return status == http.StatusOK
	}
}

func (w *channelsWorld) subscribes(token string) func() bool {
	return func() bool {
		status, _ := ask(w.t, w.Node, "GET", "/hooks/whatsapp?hub.mode=subscribe&hub.challenge=word&hub.verify_token="+token, "")
		return status == http.StatusOK
	}
}

// oneConnection: while a mail is held up, no second one is on its way.
func (w *channelsWorld) oneConnection() bool {
	for _, id := range w.sent {
		appliancetest.Eventually(w.t, 30*time.Second, id+" has ended", func() bool { v := show(w.t, w.Node, id); return v.Final || v.Status == "sent" })
	}
	appliancetest.Eventually(w.t, 30*time.Second, "the connections of before are closed", func() bool {
		w.relay.mu.Lock()
		defer w.relay.mu.Unlock()
		return len(w.relay.open) == 0
	})
	hold := make(chan struct{})
	w.relay.reset(hold)
	for range 3 {
		w.mail()
	}
	appliancetest.Eventually(w.t, 30*time.Second, "a mail is on its way", w.relay.heard("DATA"))
	close(hold)
	appliancetest.Eventually(w.t, 30*time.Second, "all have come", func() bool { mails, _ := w.relay.count(); return mails == 3 })
	_, peak := w.relay.count()
	return peak == 1
}

// TestReloadChannels changes each key of the channels on a running appliance, one
// at a time, and sees it in what the outside services are told, or in what is
// taken from them. A key that is new in the schema has to be added here.
func TestReloadChannels(t *testing.T) {
	t.Parallel()
	w := newChannelsWorld(t)
	type change struct {
		value string
		act   func() // what makes it show; nil: nothing has to be done
		shows func() bool
	}
	cases := map[string]change{
		"webhook.enabled":            {"false", nil, w.refuses(`{"channel":"webhook","to":"https://example.org/","body":"b"}`)},
		"whatsapp.enabled":           {"false", nil, w.refuses(`{"channel":"whatsapp","to":"+4915112345678","body":"b"}`)},
		"whatsapp.base_url":          {w.graph[1].URL, w.text, w.graph[1].saw("/111/messages")},
		"whatsapp.api_version":       {"v99.0", w.text, w.graph[0].saw("/v99.0/")},
		"whatsapp.phone_number_id":   {`"222"`, w.text, w.graph[0].saw("/222/messages")},
		"whatsapp.access_token_file": {w.secret("another-token"), w.text, w.graph[0].saw("Bearer another-token")},
		"whatsapp.app_secret_file":   {w.secret("another-app"), nil, w.takesReports("another-app")},
		"whatsapp.verify_token_file": {w.secret("another-verify"), nil, w.subscribes("another-verify")},
		"whatsapp.messages_per_second": {"77", nil, func() bool {
			pace, _ := w.InForce("channels.whatsapp.messages_per_second")
			return pace == "77"
		}},
		"email.enabled":       {"false", nil, w.refuses(`{"channel":"email","to":"a@example.org","subject":"s","body":"b"}`)},
		"email.host":          {"127.0.0.2", w.mail, w.host.heard("MAIL FROM")},
		"email.port":          {strconv.Itoa(w.port.port()), w.mail, w.port.heard("MAIL FROM")},
		"email.tls":           {"starttls", w.mail, w.relay.heard("STARTTLS")},
		"email.username":      {"another", w.mail, w.relay.heard("login /another/password")},
		"email.password_file": {w.secret("another-password"), w.mail, w.relay.heard("login /first/another-password")},
		"email.from":          {"another@example.org", w.mail, w.relay.heard("another@example.org")},
		"email.connections":   {"1", nil, w.oneConnection},
	}
	for _, l := range config.Config.Leaves(config.Config{}) {
		key, below := strings.CutPrefix(l.Key, "channels.")
		if _, figure := w.InForce(l.Key); !below || figure && cases[key].shows == nil {
			continue
		}
		c, there := cases[key]
		if !there {
			t.Errorf("%s: nothing proves that it changes", l.Key)
			continue
		}
		w.put("", "")
		w.relay.reset(nil)
		if c.act != nil {
			c.act()
		}
		if key != "email.connections" && c.shows() { // the control; of that one it is what else is seen below
			t.Errorf("%s: what is to be seen after the change is there before it", l.Key)
		}
		if r := w.put(key, c.value); r.Outcome != admin.ConfigApplied || !slices.Contains(keys(r.Applied), l.Key) {
			t.Errorf("%s to %s: %+v", l.Key, c.value, r)
			continue
		}
		if c.act != nil {
			c.act()
		}
		appliancetest.Eventually(t, 30*time.Second, l.Key+" shows", c.shows)
	}
	w.put("email.connections", "3")
	if w.oneConnection() {
		t.Error("with three connections all mails went over one: the case of email.connections cannot fail")
	}
}
