package email

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"strings"
	"sync"
	"time"

	gomail "github.com/wneessen/go-mail"

	"forebay/sink"
	"forebay/wal/message"
)

// service is the name of the breaker.
const service = "email"

// How a connection is encrypted.
const (
	TLSStartTLS = "starttls" // it must be offered
	TLSImplicit = "implicit"
	TLSNone     = "none" // only to a relay on this machine
)

// Config is what a Channel is made of.
type Config struct {
	Host        string
	Port        int    // 0: 587
	TLS         string // empty: TLSStartTLS
	Username    string // empty: no login
	Password    string
	From        string        // an address, with or without a name
	Connections int           // at once; 0: 8
	Timeout     time.Duration // of one mail; 0: 90 s
	Helo        string        // empty: the machine's name
	TLSConfig   *tls.Config   // nil: the usual
}

// Channel sends mail over a few connections. It is safe for concurrent use. It
// has no settings that change: other settings are another Channel.
type Channel struct {
	config Config
	from   *mail.Address
	slots  chan struct{} // one for each connection that may be in use

	mu      sync.Mutex
	idle    []*connection // the last used at the end
	closed  bool
	sweeper *time.Timer    // nil: none is set
	work    sync.WaitGroup // sends and closings under way
}

var _ sink.Channel = (*Channel)(nil)

// New makes a channel. Nothing is dialled before the first Send.
func New(c Config) (*Channel, error) {
	if c.Port == 0 {
		c.Port = 587
	}
	if c.TLS == "" {
		c.TLS = TLSStartTLS
	}
	if c.Connections == 0 {
		c.Connections = 8
	}
	if c.Timeout == 0 {
		c.Timeout = 90 * time.Second
	}
	from, ok := parseFrom(c.From)
	switch {
	case c.Host == "" || c.Port < 1 || c.Port > 65535 || c.Connections < 1:
		return nil, fmt.Errorf("email: relay %q, port %d, %d connections", c.Host, c.Port, c.Connections)
	case !ok:
		return nil, errors.New("email: the sender is not an e-mail address")
	case c.TLS != TLSStartTLS && c.TLS != TLSImplicit && c.TLS != TLSNone:
		return nil, fmt.Errorf("email: tls %q", c.TLS)
	case c.TLS == TLSNone && !isLoopback(c.Host):
		return nil, errors.New("email: tls none is for a relay on this machine only")
	}
	return &Channel{config: c, from: from, slots: make(chan struct{}, c.Connections)}, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// Service implements sink.Channel.
func (c *Channel) Service(*message.Message) string { return service }

// Close waits for the sends that are under way and closes every connection.
func (c *Channel) Close() error {
	c.mu.Lock()
	c.closed = true
	idle := c.idle
	c.idle = nil
	if c.sweeper != nil {
		c.sweeper.Stop()
	}
	c.mu.Unlock()
	for _, conn := range idle {
		conn.close(true)
	}
	c.work.Wait()
	return nil
}

// begin counts a send; false: the channel is closed.
func (c *Channel) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.work.Add(1)
	return true
}

// Send implements sink.Channel.
func (c *Channel) Send(ctx context.Context, d *sink.Delivery) (sink.Sent, error) {
	local := sink.Fault{Neutral: true, Uncalled: true, Failure: unavailable}
	if !c.begin() {
		return sink.Sent{}, &sink.Transient{Fault: local}
	}
	defer c.work.Done()
	to, utf8Local, ok := parseAddress(d.Record.To)
	if !ok {
		return sink.Sent{}, invalid("", "The address is not an e-mail address.", nil)
	}
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done(): // waited for a connection for all of its time
		return sink.Sent{}, &sink.Transient{Fault: local}
	}
	m, err := render(&d.Record, c.from, to)
	if err != nil {
		return sink.Sent{}, invalid("", "The mail cannot be written.", err)
	}
	conn, reused := c.takeIdle(), true
	if conn == nil {
		if conn, err = c.dial(ctx); err != nil {
			return sink.Sent{}, dialFault(ctx, err)
		}
		reused = false
	}
	sent, err, again := c.sendOver(ctx, conn, m, utf8Local)
	if again && reused {
		// The relay closed it while it lay idle: nothing of the mail had gone.
		if conn, err = c.dial(ctx); err != nil {
			return sink.Sent{}, dialFault(ctx, err)
		}
		sent, err, _ = c.sendOver(ctx, conn, m, utf8Local)
	}
	return sent, err
}

func invalid(channelCode, text string, cause error) error {
	return &sink.Permanent{Fault: sink.Fault{Neutral: true, Cause: cause,
		Failure: message.Failure{Code: "invalid_recipient", Category: "recipient", ChannelCode: channelCode, Message: text}}}
}

// sendOver sends over a connection and puts it back or away. again: it was dead
// before anything of the mail went out.
func (c *Channel) sendOver(ctx context.Context, conn *connection, m *gomail.Msg, utf8Local bool) (sent sink.Sent, err error, again bool) {
	if known, _ := conn.smtp.Extension("SMTPUTF8"); utf8Local && !known {
		// The library would send it all the same, and the relay make of it what
		// it likes (RFC 6531 §3.2: not to be sent).
		c.put(conn, true)
		return sent, invalid("5.6.7", "The relay cannot take addresses that are not ASCII.", nil), false
	}
	// Asked for with every mail it would bounce where the next relay lacks it.
	conn.smtp.SkipSMTPUTF8(!utf8Local)
	stop := context.AfterFunc(ctx, func() { _ = conn.raw.Close() }) // the library knows no context here
	err = conn.client.SendWithSMTPClient(conn.smtp, m)
	aborted := !stop()
	conn.mails++
	conn.used = time.Now()
	if err == nil || m.IsDelivered() { // a relay may go right after it has taken the mail
		c.put(conn, err == nil && !aborted)
		return sink.Sent{ProviderID: queueID(m.ServerResponse()), ChannelCode: "250"}, nil, false
	}
	outcome, keep := sendFault(ctx, err)
	c.put(conn, keep && !aborted)
	return sent, outcome, !aborted && deadBefore(err)
}

// deadBefore reports whether a connection failed at the first word of a mail:
// nothing has gone, whatever the state of the relay.
func deadBefore(err error) bool {
	var e *gomail.SendError
	if !errors.As(err, &e) {
		return false
	}
	return (e.Reason == gomail.ErrSMTPMailFrom || e.Reason == gomail.ErrConnCheck) && (e.ErrorCode() == 0 || e.ErrorCode() == 421)
}

// queueID finds the relay's own name for a mail in its last words: what Postfix
// ("queued as X"), Exim ("id=X") and others say; empty: nothing known.
func queueID(response string) string {
	for _, mark := range []string{"queued as ", "id=", "Message accepted for delivery "} {
		if _, rest, ok := strings.Cut(response, mark); ok {
			id, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
			if id = strings.Trim(id, ".,;<>"); id != "" && len(id) <= 128 && isASCII(id) {
				return id
			}
		}
	}
	return ""
}
