package whatsapp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"forebay/sink"
	"forebay/wal/message"
)

// service is the name of the breaker: one phone number, one service.
const service = "whatsapp"

// How long each phase of a call may take; the whole of it is the caller's.
const (
	dialTimeout = 5 * time.Second
	tlsTimeout  = 5 * time.Second
	idleTimeout = 90 * time.Second
	pingAfter   = 10 * time.Second // of silence on a connection of HTTP/2
	pingWait    = 5 * time.Second
)

// Config is what a Channel is made of.
type Config struct {
	BaseURL       string // of the Graph API; empty: https://graph.facebook.com
	Version       string // empty: v23.0
	PhoneNumberID string
	Token         *TokenFile
	Connections   int         // to the API at once; 0: 64
	TLS           *tls.Config // nil: the usual
}

// Channel sends messages of one phone number. It is safe for concurrent use.
// It has no settings that change: other settings are another Channel.
type Channel struct {
	url       string
	token     *TokenFile
	transport *http.Transport
	pairs     pairs
}

var _ sink.Channel = (*Channel)(nil)

// New makes a channel. Nothing is dialled before the first Send.
func New(c Config) (*Channel, error) {
	if c.BaseURL == "" {
		c.BaseURL = "https://graph.facebook.com"
	}
	if c.Version == "" {
		c.Version = "v23.0"
	}
	if c.Connections == 0 {
		c.Connections = 64
	}
	base, err := url.Parse(c.BaseURL)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
		return nil, errors.New("whatsapp: the base URL is not an http or https URL")
	}
	if c.Token == nil || c.PhoneNumberID == "" {
		return nil, errors.New("whatsapp: no access token, or no phone number id")
	}
	if strings.ContainsFunc(c.PhoneNumberID, func(r rune) bool { return r < '0' || r > '9' }) {
		return nil, fmt.Errorf("whatsapp: phone number id %q is not a number", c.PhoneNumberID)
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	return &Channel{
		url:   base.JoinPath(c.Version, c.PhoneNumberID, "messages").String(),
		token: c.Token,
		transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         dialer.DialContext,
			TLSClientConfig:     c.TLS.Clone(),
			TLSHandshakeTimeout: tlsTimeout,
			MaxConnsPerHost:     c.Connections,
			MaxIdleConnsPerHost: c.Connections,
			IdleConnTimeout:     idleTimeout,
			ForceAttemptHTTP2:   true,
			// All calls share a connection or two: one that a firewall has forgotten
			// would stop the channel until TCP gives up, after a quarter of an hour.
			HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingWait},
		},
	}, nil
}

// Close closes the connections that are kept open. No Send may be running.
func (c *Channel) Close() error {
	c.transport.CloseIdleConnections()
	return nil
}

// Service implements sink.Channel.
func (c *Channel) Service(*message.Message) string { return service }

// Send implements sink.Channel.
func (c *Channel) Send(ctx context.Context, d *sink.Delivery) (sink.Sent, error) {
	to := d.Record.To
	if wait := c.pairs.take(to, time.Now()); wait > 0 {
		return sink.Sent{}, byCode[131056].outcome("", d.Attempt, wait)
	}
	body, err := render(d.Record.ID, &d.Record.Message)
	if err != nil {
		return sink.Sent{}, &sink.Permanent{Fault: sink.Fault{Neutral: true, Cause: err,
			Failure: message.Failure{Code: badBody, Category: "content", Message: "The message cannot be written as JSON."}}}
	}
	token, err := c.token.Token()
	if err != nil {
		return sink.Sent{}, lookUp(0, 0, 0, false).outcome("", d.Attempt, 0)
	}
	r, err := c.call(ctx, token, d.Record.TraceParent, body)
	if err != nil {
		return sink.Sent{}, err
	}
	return c.judge(r, d, token)
}

// judge says what an answer means.
func (c *Channel) judge(r reply, d *sink.Delivery, token string) (sink.Sent, error) {
	if r.status/100 == 2 && r.code == noCode {
		// Also without an id: Meta has taken the message, and to send it again
		// would send it twice. Its updates carry our id.
		c.pairs.sent(d.Record.To)
		return sink.Sent{ProviderID: r.id, ChannelCode: strconv.Itoa(r.status)}, nil
	}
	row := lookUp(r.status, r.code, r.subcode, r.isTransient)
	code := strconv.Itoa(r.code)
	if r.code == noCode {
		code = "HTTP " + strconv.Itoa(r.status)
	}
	switch {
	case row.code == 131056:
		wait := c.pairs.refused(d.Record.To, time.Now())
		return sink.Sent{}, row.outcome(code, d.Attempt, max(wait, r.after))
	case row.class == accountStop && row.ours == auth && c.token.again(token):
		// The file has another token than the one that was refused: go on with it.
		row.class = transient
	}
	return sink.Sent{}, row.outcome(code, d.Attempt, r.after)
}

// call makes the call. Its error is an outcome.
func (c *Channel) call(ctx context.Context, token, trace string, body []byte) (reply, error) {
	var left atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// When the header is written and not when all is: nobody can say of what
		// is on its way that it did not go.
		WroteHeaderField: func(string, []string) { left.Store(true) },
	})
	req, err := http.NewRequestWithContext(traced, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "Forebay")
	if trace != "" {
		req.Header.Set("Traceparent", trace)
	}
	// No Idempotency-Key: Meta knows none, and net/http would take one as leave
	// to send the call again by itself.
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return reply{}, unanswered(ctx, err, left.Load())
	}
	defer resp.Body.Close()
	return read(resp, time.Now()), nil
}

// unanswered says what a call without an answer means.
func unanswered(ctx context.Context, err error, left bool) error {
	f := sink.Fault{Cause: err, Failure: message.Failure{Code: down, Category: "channel", Retryable: true, Message: "WhatsApp could not be reached."}}
	var timeout net.Error
	switch {
	case ctx.Err() == context.Canceled:
		f.Neutral = true // we hung up
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		f.Failure.Code, f.Failure.Message = "channel_timeout", "WhatsApp did not answer in time."
	}
	if left {
		return &sink.Unknown{Fault: f}
	}
	return &sink.Transient{Fault: f}
}
