package email

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	gomail "github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"
)

// When a connection is given up, so that no relay's own limit is met: relays cut
// at the hundredth mail or after some minutes without notice.
const (
	maxMails = 100
	maxAge   = 5 * time.Minute
	maxIdle  = 30 * time.Second
	quitTime = 2 * time.Second
	dialTime = 10 * time.Second
)

// connection is one to the relay, logged in. It has one owner at a time.
type connection struct {
	client *gomail.Client // its own: the library keeps what it found out about logins in it
	smtp   *smtp.Client
	raw    net.Conn // below TLS: closing it ends whatever is under way
	made   time.Time
	used   time.Time
	mails  int
}

// dial makes a connection, TLS and login done.
func (c *Channel) dial(send context.Context) (_ *connection, err error) {
	now := time.Now()
	conn := &connection{made: now, used: now}
	stop := func() bool { return true }
	defer func() {
		if !stop() && err == nil {
			err = context.Cause(send)
		}
		// The library leaves the socket open when greeting, TLS or login fail.
		if err != nil && conn.raw != nil {
			_ = conn.raw.Close()
		}
	}()
	config := c.tlsConfig()
	dialer := &net.Dialer{Timeout: dialTime, KeepAlive: 30 * time.Second}
	options := append(c.options(config), gomail.WithDialContextFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		raw, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		// The library's context is for dialling alone: closing the socket is
		// what ends a silent greeting or login.
		conn.raw, stop = raw, context.AfterFunc(send, func() { _ = raw.Close() })
		if c.config.TLS == TLSImplicit {
			secure := tls.Client(raw, config)
			return secure, secure.HandshakeContext(ctx)
		}
		return raw, nil
	}))
	if conn.client, err = gomail.NewClient(c.config.Host, options...); err != nil {
		return nil, fmt.Errorf("connect to the relay: %w", err)
	}
	if conn.smtp, err = conn.client.DialToSMTPClientWithContext(send); err != nil {
		return nil, fmt.Errorf("connect to the relay: %w", err)
	}
	return conn, nil
}

func (c *Channel) tlsConfig() *tls.Config {
	config := c.config.TLSConfig.Clone()
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	config.ServerName = c.config.Host
	return config
}

// options are those of the library, but for how it dials.
func (c *Channel) options(config *tls.Config) []gomail.Option {
	options := []gomail.Option{
		gomail.WithPort(c.config.Port), gomail.WithTimeout(c.config.Timeout), gomail.WithTLSConfig(config),
		gomail.WithoutNoop(), gomail.WithoutRset(), // three round trips less for each mail
	}
	switch c.config.TLS {
	case TLSImplicit:
		options = append(options, gomail.WithSSL())
	case TLSNone:
		options = append(options, gomail.WithTLSPolicy(gomail.NoTLS))
	default:
		options = append(options, gomail.WithTLSPolicy(gomail.TLSMandatory))
	}
	if c.config.Helo != "" {
		options = append(options, gomail.WithHELO(c.config.Helo))
	}
	if c.config.Username != "" {
		options = append(options, gomail.WithUsername(c.config.Username), gomail.WithPassword(c.config.Password))
		// The library's own discovery would not offer PLAIN, for it cannot see
		// the TLS that was made here.
		options = append(options, gomail.WithOpportunisticSMTPAuth(logins(c.config.TLS)...))
	}
	return options
}

// logins are the mechanisms, the best first. Where nothing is encrypted the
// relay is on this machine; a password in clear is then no news to anyone.
func logins(tls string) []gomail.SMTPAuthType {
	if tls == TLSNone {
		return []gomail.SMTPAuthType{gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthSCRAMSHA1, gomail.SMTPAuthCramMD5, gomail.SMTPAuthPlainNoEnc, gomail.SMTPAuthLoginNoEnc}
	}
	return []gomail.SMTPAuthType{gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthSCRAMSHA1, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin, gomail.SMTPAuthCramMD5}
}

// fresh reports whether the connection may carry another mail.
func (c *connection) fresh(now time.Time) bool {
	return c.mails < maxMails && now.Sub(c.made) < maxAge && now.Sub(c.used) < maxIdle
}

// close says goodbye, as long as that takes no time, and closes.
func (c *connection) close(politely bool) {
	if politely {
		_ = c.raw.SetDeadline(time.Now().Add(quitTime))
		_ = c.smtp.Quit()
	}
	_ = c.raw.Close()
}
