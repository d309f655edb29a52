package sinktest

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	netmail "net/mail"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// What the SMTP stand-in takes as a login.
const (
	SMTPUser     = "forebay"
	SMTPPassword = "correct horse"
)

// The faults that the stand-in knows are "STAGE CODE" or "STAGE CODE ENHANCED",
// such as "rcpt 550 5.1.1", where the stage is greet, auth, mail, rcpt or data
// (the reply to the final dot), and these. Faults of greet, auth and mail are of
// Connections, the others of Rules.
const (
	FaultCutRcpt  Fault = "cut rcpt" // cuts the connection instead of answering RCPT
	FaultCutBody  Fault = "cut body" // cuts it inside the mail
	FaultCutDot   Fault = "cut dot"  // takes the mail and cuts before the reply
	FaultHangDot  Fault = "hang dot" // takes the mail and does not reply
	FaultBye      Fault = "bye"      // takes the mail, says so, and cuts at once
	FaultHangHelo Fault = "hang helo"
)

// SMTP is a stand-in for a mail relay.
type SMTP struct {
	Deliveries
	pause
	Rules       *Rules // asked at RCPT
	Connections *Rules // asked when a connection comes
	MaxMails    int    // a connection is answered 421 after so many; 0: never

	server *smtp.Server
	tls    *tls.Config
	roots  *x509.CertPool
	addr   *net.TCPAddr
	done   chan struct{}
	mu     sync.Mutex
	conns  int
	latest []Mail // at most 100
}

// Mail is one that was taken.
type Mail struct {
	From, To string
	UTF8     bool // SMTPUTF8 was asked for
	Text     string
}

// SMTPOptions say what kind of relay it is.
type SMTPOptions struct {
	Implicit bool // TLS from the first byte
	Plain    bool // no TLS at all
	NoAuth   bool // no login wanted
	NoUTF8   bool // SMTPUTF8 is not offered
}

// NewSMTP starts one on a loopback port.
func NewSMTP(t testing.TB, o SMTPOptions, rules, connections *Rules) *SMTP {
	t.Helper()
	s := &SMTP{Rules: rules, Connections: connections, done: make(chan struct{})}
	certificate := httptest.NewTLSServer(nil) // for its certificate, good for 127.0.0.1
	s.tls = &tls.Config{Certificates: certificate.TLS.Certificates, MinVersion: tls.VersionTLS12}
	s.roots = x509.NewCertPool()
	s.roots.AddCert(certificate.Certificate())
	certificate.Close()
	s.server = smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) { return s.session(c, o) }))
	s.server.Domain = "relay.test"
	s.server.EnableSMTPUTF8 = !o.NoUTF8
	s.server.AllowInsecureAuth = o.Plain
	s.server.MaxMessageBytes = 64 << 20
	s.server.MaxRecipients = 1
	s.server.ErrorLog = quietLog()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().(*net.TCPAddr)
	l = &smtpListener{Listener: l, smtp: s}
	switch {
	case o.Implicit:
		l = tls.NewListener(l, s.tls)
	case !o.Plain:
		s.server.TLSConfig = s.tls
	}
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(l) }()
	t.Cleanup(func() {
		close(s.done)
		_ = s.server.Close()
		_ = l.Close() // Serve may not have begun, and so not be known to Close
		if err := <-served; err != nil && !errors.Is(err, smtp.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return s
}

// Host and Port are where it listens.
func (s *SMTP) Host() string { return s.addr.IP.String() }

// Port is the port of Host.
func (s *SMTP) Port() int { return s.addr.Port }

// TLS trusts the stand-in's certificate.
func (s *SMTP) TLS() *tls.Config {
	return &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS12}
}

// Dialled counts the connections that ever came.
func (s *SMTP) Dialled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// Latest returns the mails that were taken last, the oldest first.
func (s *SMTP) Latest() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Mail(nil), s.latest...)
}

// smtpListener greets with a fault where the rules want one.
type smtpListener struct {
	net.Listener
	smtp *SMTP
}

func (l *smtpListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		l.smtp.mu.Lock()
		l.smtp.conns++
		l.smtp.mu.Unlock()
		fault := l.smtp.Connections.next("")
		if e := smtpFault(fault, "greet"); e != nil {
			_, _ = fmt.Fprintf(conn, "%d %s\r\n", e.Code, e.Message)
			_ = conn.Close()
			continue
		}
		return &smtpConn{Conn: conn, fault: fault}, nil
	}
}

// smtpConn remembers the fault of its connection.
type smtpConn struct {
	net.Conn
	fault Fault
}

// smtpFault reads a fault "STAGE CODE ENHANCED"; nil: none of this stage.
func smtpFault(fault Fault, stage string) *smtp.SMTPError {
	rest, ok := strings.CutPrefix(string(fault), stage+" ")
	if !ok {
		return nil
	}
	text, enhanced, _ := strings.Cut(rest, " ")
	code, err := strconv.Atoi(text)
	if err != nil {
		return nil
	}
	e := &smtp.SMTPError{Code: code, EnhancedCode: smtp.NoEnhancedCode, Message: "as the rules of the test say"}
	if enhanced != "" {
		if _, err := fmt.Sscanf(enhanced, "%d.%d.%d", &e.EnhancedCode[0], &e.EnhancedCode[1], &e.EnhancedCode[2]); err != nil {
			panic("sinktest: no such fault: " + string(fault))
		}
	}
	return e
}

type smtpSession struct {
	smtp  *SMTP
	conn  *smtp.Conn
	opts  SMTPOptions
	fault Fault // the connection's
	login bool
	mails int

	from, to string
	utf8     bool
	mail     Fault
}

func (s *SMTP) session(c *smtp.Conn, o SMTPOptions) (smtp.Session, error) {
	session := &smtpSession{smtp: s, conn: c, opts: o, login: o.NoAuth}
	raw := c.Conn()
	if secure, ok := raw.(*tls.Conn); ok {
		raw = secure.NetConn()
	}
	if conn, ok := raw.(*smtpConn); ok {
		session.fault = conn.fault
	}
	if session.fault == FaultHangHelo {
		<-s.done
	}
	return session, nil
}

// cut ends the connection without a word.
func (s *smtpSession) cut() error {
	_ = s.conn.Conn().Close()
	return errors.New("cut")
}

func (s *smtpSession) AuthMechanisms() []string {
	if s.opts.NoAuth {
		return nil
	}
	return []string{sasl.Plain}
}

func (s *smtpSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if e := smtpFault(s.fault, "auth"); e != nil {
			return e
		}
		if user != SMTPUser || password != SMTPPassword {
			return &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: "bad credentials"}
		}
		s.login = true
		return nil
	}), nil
}

func (s *smtpSession) Reset() { s.from, s.to, s.mail = "", "", "" }

func (s *smtpSession) Logout() error { return nil }

func (s *smtpSession) Mail(from string, opts *smtp.MailOptions) error {
	if _, encrypted := s.conn.TLSConnectionState(); !encrypted && !s.opts.Plain {
		s.smtp.refuse("a mail without TLS")
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "STARTTLS first"}
	}
	if !s.login {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "log in first"}
	}
	if e := smtpFault(s.fault, "mail"); e != nil {
		return e
	}
	if s.smtp.MaxMails > 0 && s.mails >= s.smtp.MaxMails {
		_, _ = io.WriteString(s.conn.Conn(), "421 4.7.0 enough\r\n")
		return s.cut()
	}
	s.from, s.utf8 = from, opts.UTF8
	return nil
}

func (s *smtpSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.smtp.wait(s.smtp.done)
	s.to, s.mail = to, s.smtp.Rules.next(to)
	if s.mail == FaultCutRcpt {
		return s.cut()
	}
	if e := smtpFault(s.mail, "rcpt"); e != nil {
		return e
	}
	return nil
}

func (s *smtpSession) Data(r io.Reader) error {
	if s.mail == FaultCutBody {
		_, _ = io.ReadFull(r, make([]byte, 100))
		return s.cut()
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if e := smtpFault(s.mail, "data"); e != nil {
		return e
	}
	id, problem := checkMail(string(text))
	if problem != "" {
		s.smtp.refuse("%s", problem)
		return &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 6, 0}, Message: problem}
	}
	s.mails++
	s.smtp.take(id, Mail{From: s.from, To: s.to, UTF8: s.utf8, Text: string(text)})
	switch s.mail {
	case FaultCutDot:
		return s.cut()
	case FaultHangDot:
		<-s.smtp.done
	case FaultBye:
		_, _ = io.WriteString(s.conn.Conn(), "250 2.0.0 Ok: queued as LAST\r\n")
		return s.cut()
	}
	return &smtp.SMTPError{Code: 250, EnhancedCode: smtp.EnhancedCode{2, 0, 0}, Message: "Ok: queued as Q" + strconv.Itoa(s.smtp.Total())}
}

func (s *SMTP) take(id string, m Mail) {
	s.accept(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest = append(s.latest, m); len(s.latest) > 100 {
		s.latest = s.latest[1:]
	}
}

// checkMail returns our id from a mail's Message-ID, and what is wrong with it.
func checkMail(text string) (id, problem string) {
	m, err := netmail.ReadMessage(strings.NewReader(text))
	if err != nil {
		return "", "not a mail: " + err.Error()
	}
	for _, name := range []string{"Message-Id", "Date", "From", "To", "Subject", "Mime-Version", "Content-Type"} {
		if len(m.Header[name]) != 1 {
			return "", fmt.Sprintf("%d headers %s", len(m.Header[name]), name)
		}
	}
	if _, err := m.Header.Date(); err != nil {
		return "", "Date: " + err.Error()
	}
	for line := range strings.SplitSeq(text, "\r\n") {
		if len(line) > 998 {
			return "", "a line of more than 998 bytes"
		}
	}
	id, domain, ok := strings.Cut(strings.Trim(m.Header.Get("Message-Id"), "<>"), "@")
	if !ok || domain == "" {
		return "", "Message-ID " + m.Header.Get("Message-Id")
	}
	return id, ""
}
