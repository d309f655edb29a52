package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"forebay/sink"
	"forebay/wal/message"
)

// What is read of an answer, and how long each phase of a call may take. The
// whole call is bounded by Settings.Timeout.
const (
	maxAnswerHeader = 16 << 10
	maxAnswerBody   = 64 << 10
	dialTimeout     = 5 * time.Second
	tlsTimeout      = 5 * time.Second
	drainTimeout    = time.Second // for a body that nobody reads: the status has said all
	idleTimeout     = 60 * time.Second
	maxIdle         = 1024             // connections kept, over all hosts
	pingAfter       = 10 * time.Second // of silence on a connection of HTTP/2
	pingWait        = 5 * time.Second
)

// Secrets knows the signing secrets of accounts.
type Secrets interface {
	// WebhookSecrets returns the secrets in force, whsec_…, the newest first: one,
	// or two while the older is being rotated out. None: there is no such
	// account. It may make the first one, and so may take a moment.
	WebhookSecrets(ctx context.Context, account string) ([]string, error)
}

// Settings are what may change while the channel runs.
type Settings struct {
	Timeout   time.Duration  // of one call; 100 ms to 10 min, 0: 15 s
	Allow     []netip.Prefix // networks that are not public and allowed all the same
	AllowHTTP bool           // http:// as well as https://
	PerHost   int            // connections to one host; 0: 16
	// TLS is for receivers whose certificates the system does not know; nil: the usual.
	TLS *tls.Config
}

// Validate says what is wrong with the settings.
func (s Settings) Validate() error {
	if s.Timeout < 0 || s.Timeout > 10*time.Minute {
		return fmt.Errorf("webhook: timeout %s is out of range", s.Timeout)
	}
	if s.PerHost < 0 {
		return fmt.Errorf("webhook: %d connections per host", s.PerHost)
	}
	return nil
}

// Config is what a Channel is made of.
type Config struct {
	Settings Settings
	Secrets  Secrets
	// Patience follows endpoints that fail; nil: none is ever switched off.
	Patience *Patience
	// UserAgent names us to receivers; empty: "Forebay".
	UserAgent string
}

// Channel posts messages. It is safe for concurrent use.
type Channel struct {
	secrets  Secrets
	patience *Patience
	agent    string
	client   atomic.Pointer[client]
}

var _ sink.Channel = (*Channel)(nil)

// client is what follows from one version of the settings.
type client struct {
	settings  Settings
	transport *http.Transport
}

// New makes a channel. Nothing is dialled before the first Send.
func New(c Config) (*Channel, error) {
	if c.Secrets == nil {
		return nil, errors.New("webhook: no source of secrets")
	}
	if c.UserAgent == "" {
		c.UserAgent = "Forebay"
	}
	ch := &Channel{secrets: c.Secrets, patience: c.Patience, agent: c.UserAgent}
	return ch, ch.Apply(c.Settings)
}

// Apply puts other settings in force for the calls that begin from now on.
func (c *Channel) Apply(s Settings) error {
	if err := s.Validate(); err != nil {
		return err
	}
	if s.Timeout == 0 {
		s.Timeout = 15 * time.Second
	}
	if s.PerHost == 0 {
		s.PerHost = 16
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second, Control: newGuard(s.Allow, s.AllowHTTP).Control}
	transport := &http.Transport{
		Proxy:                  nil, // of the environment: it would dial in our place, unchecked
		DialContext:            dialer.DialContext,
		TLSClientConfig:        s.TLS.Clone(),
		TLSHandshakeTimeout:    tlsTimeout,
		ResponseHeaderTimeout:  s.Timeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
		MaxConnsPerHost:        s.PerHost,
		MaxIdleConnsPerHost:    s.PerHost, // the default of 2 would dial anew for each further call
		MaxIdleConns:           maxIdle,
		IdleConnTimeout:        idleTimeout,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // an answer's body is thrown away: let nobody make us inflate it
		HTTP2:                  http2Of(s),
	}
	if old := c.client.Swap(&client{settings: s, transport: transport}); old != nil {
		old.transport.CloseIdleConnections()
	}
	return nil
}

// Settings are those in force.
func (c *Channel) Settings() Settings { return c.client.Load().settings }

// http2Of bounds what a receiver may make us hold, and finds out when it is gone.
func http2Of(s Settings) *http.HTTP2Config {
	return &http.HTTP2Config{
		// What we have not asked for is not to be sent: by default a receiver may
		// fill 4 MiB of memory with each answer.
		MaxReceiveBufferPerStream:     maxAnswerBody,
		MaxReceiveBufferPerConnection: 4 * maxAnswerBody,
		// A connection that a firewall has forgotten would take every further call to
		// its host until TCP gives up, after a quarter of an hour.
		SendPingTimeout: min(s.Timeout, pingAfter),
		PingTimeout:     min(s.Timeout, pingWait),
	}
}

// Close closes the connections that are kept open. No Send may be running.
func (c *Channel) Close() error {
	c.client.Load().transport.CloseIdleConnections()
	return nil
}

// Service implements sink.Channel.
func (c *Channel) Service(m *message.Message) string {
	u, problem := parseAddress(m.To, true)
	if problem != "" {
		return "webhook:invalid"
	}
	return "webhook:" + hostOf(u)
}

// Check implements sink.Channel: the shape of the address, and that it does not
// name a forbidden one outright. What its name resolves to is for Send.
func (c *Channel) Check(m *message.Message) *message.Failure {
	s := c.client.Load().settings
	u, problem := parseAddress(m.To, s.AllowHTTP)
	if problem == "" {
		if addr, err := netip.ParseAddr(u.Hostname()); err == nil && newGuard(s.Allow, true).check(netip.AddrPortFrom(addr, 443)) != nil {
			problem = "The address does not lead to a public host."
		}
	}
	if problem != "" {
		return &message.Failure{Code: "invalid_recipient", Category: "recipient", Message: problem}
	}
	return nil
}

// Send implements sink.Channel.
func (c *Channel) Send(ctx context.Context, d *sink.Delivery) (sink.Sent, error) {
	cl := c.client.Load()
	u, problem := parseAddress(d.Record.To, cl.settings.AllowHTTP)
	if problem != "" {
		return sink.Sent{}, &sink.Permanent{Fault: sink.Fault{Neutral: true,
			Failure: message.Failure{Code: "invalid_recipient", Category: "recipient", Message: problem}}}
	}
	call, cancel := context.WithTimeout(ctx, cl.settings.Timeout)
	defer cancel()
	req, left, err := c.request(call, d, u)
	if err != nil {
		return sink.Sent{}, err
	}
	// After the secrets: while these wait for the replicated state, so does what
	// is known of addresses.
	end := endpointOf(d.Record.Account, u)
	if c.patience != nil && c.patience.Disabled(end) {
		return sink.Sent{}, &sink.Permanent{Fault: sink.Fault{Neutral: true, Failure: message.Failure{Code: "endpoint_disabled", Category: "recipient",
			Message: "The address is switched off: it said that it is gone, or failed for days."}}}
	}
	resp, err := cl.transport.RoundTrip(req) // and not a Client's Do: no redirects, no cookies
	if err != nil {
		err = unanswered(ctx, err, left.Load())
		c.observe(ctx, end, 0, err)
		return sink.Sent{}, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		_ = resp.Body.Close() // it is the bare connection, which no context ends
	} else {
		enough := time.AfterFunc(drainTimeout, cancel)
		drain(resp.Body)
		enough.Stop()
	}
	err = judge(resp.StatusCode, d.Attempt, retryAfter(resp.Header, time.Now()))
	c.observe(ctx, end, resp.StatusCode, err)
	if err != nil {
		return sink.Sent{}, err
	}
	return sink.Sent{ChannelCode: strconv.Itoa(resp.StatusCode), Delivered: true}, nil
}

// request builds the call. left turns true when the first of its bytes may have
// gone out.
func (c *Channel) request(ctx context.Context, d *sink.Delivery, u *url.URL) (*http.Request, *atomic.Bool, error) {
	secrets, err := c.secrets.WebhookSecrets(ctx, d.Record.Account)
	local := sink.Fault{Neutral: true, Cause: err, Failure: message.Failure{Code: "channel_unavailable", Category: "channel", Retryable: true,
		Message: "The signing secret is not at hand."}}
	if err != nil {
		local.Uncalled = true // the group has no leader to make the account's first secret
		return nil, nil, &sink.Transient{Fault: local}
	}
	if len(secrets) == 0 {
		local.Failure = message.Failure{Code: "channel_auth", Category: "account", Message: "The account is gone."}
		return nil, nil, &sink.Permanent{Fault: local}
	}
	body := []byte(d.Record.Body)
	id, at := d.Record.ID.String(), time.Now()
	signature, err := Sign(id, at, body, secrets...)
	if err != nil {
		local.Cause = err
		return nil, nil, &sink.Transient{Fault: local}
	}
	left := new(atomic.Bool)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// Before the bytes are written and not after: of what is not yet known
		// to have gone nobody can say that it has not.
		WroteHeaderField: func(string, []string) { left.Store(true) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, &sink.Permanent{Fault: sink.Fault{Neutral: true, Cause: err,
			Failure: message.Failure{Code: "invalid_recipient", Category: "recipient", Message: "The address cannot be used."}}}
	}
	h := req.Header
	h.Set("User-Agent", c.agent)
	h.Set("Content-Type", contentType(body))
	// Standard Webhooks writes them in lower case; HTTP does not care.
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
	h.Set("Webhook-Signature", signature)
	if trace := d.Record.TraceParent; trace != "" {
		h.Set("Traceparent", trace)
	}
	return req, left, nil
}

// contentType says what a body is: JSON if it is that, else text.
func contentType(body []byte) string {
	if jsontext.Value(body).IsValid() {
		return "application/json"
	}
	return "text/plain; charset=utf-8"
}

// drain reads an answer's body so that its connection can be used again; where
// there is too much of it, closing cuts the connection instead.
func drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, maxAnswerBody+1)
	_ = body.Close()
}

// observe tells the endpoint's patience how a call ended.
func (c *Channel) observe(ctx context.Context, e Endpoint, status int, err error) {
	if c.patience == nil || ctx.Err() == context.Canceled {
		return
	}
	switch {
	case err == nil:
		c.patience.Succeeded(e)
	case status == http.StatusGone:
		c.patience.Gone(e, time.Now())
	case status == http.StatusTooManyRequests:
		// Busy is not broken.
	default:
		c.patience.Failed(e, time.Now())
	}
}
