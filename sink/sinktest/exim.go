package sinktest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Exim is a real mail server, Debian's exim4, private to a test: it listens on a
// loopback port, wants STARTTLS and a login (SMTPUser, SMTPPassword), refuses
// the local part "nobody", defers "later" until it is open, and keeps what it
// takes as files.
type Exim struct {
	Port        int
	Certificate string // the file of its certificate, in PEM
	roots       *x509.CertPool
	dir, mails  string
}

const eximConfig = `
exim_user = %[2]s
exim_group = %[3]s
spool_directory = %[1]s/spool
log_file_path = %[1]s/log/%%slog
pid_file_path = %[1]s/exim.pid
primary_hostname = relay.test
tls_advertise_hosts = *
tls_certificate = %[1]s/cert.pem
tls_privatekey = %[1]s/key.pem
auth_advertise_hosts = ${if def:tls_in_cipher{*}{}}
smtputf8_advertise_hosts = *
message_size_limit = 1M
log_selector = +smtp_connection
smtp_accept_queue_per_connection = 0
host_lookup =
rfc1413_query_timeout = 0s
keep_environment =
acl_smtp_rcpt = rcpt
begin acl
rcpt:
  deny condition = ${if eq{$local_part}{nobody}}
       message = no such user here
  defer condition = ${if and{{eq{$local_part}{later}}{!exists{%[1]s/open}}}}
       message = 450 4.2.1 the mailbox is busy
  accept authenticated = *
         encrypted = *
  deny message = log in first
begin routers
all:
  driver = accept
  transport = file
begin transports
file:
  driver = appendfile
  directory = %[1]s/mail
  user = %[2]s
  group = %[3]s
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if and{{eq{$auth2}{%[4]s}}{eq{$auth3}{%[5]s}}}}
  server_set_id = $auth2
`

// StartExim starts one. It needs the exim4 of Debian and the right to start it,
// which is root's.
func StartExim(t testing.TB) *Exim {
	t.Helper()
	binary, err := exec.LookPath("/usr/sbin/exim4")
	if err != nil {
		t.Fatal("exim4 is missing: run make deps")
	}
	owner, err := user.Lookup("Debian-exim")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "forebay-exim-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	e := &Exim{Port: port, Certificate: filepath.Join(dir, "cert.pem"), dir: dir, mails: filepath.Join(dir, "mail")}
	e.writeFiles(t, dir, owner)
	var said bytes.Buffer
	cmd := exec.Command(binary, "-bdf", "-C", filepath.Join(dir, "exim.conf"), "-oX", "<; [127.0.0.1]:"+strconv.Itoa(e.Port))
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start exim4: %v", err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "log", "mainlog"))
			t.Logf("exim4 said:\n%s%s", said.String(), log)
		}
	})
	e.await(t)
	return e
}

func (e *Exim) writeFiles(t testing.TB, dir string, owner *user.User) {
	t.Helper()
	certificate, key := e.certificate(t)
	config := fmt.Sprintf(eximConfig, dir, owner.Username, owner.Username, SMTPUser, SMTPPassword)
	uid, err1 := strconv.Atoi(owner.Uid)
	gid, err2 := strconv.Atoi(owner.Gid)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	for name, content := range map[string][]byte{"": nil, "spool": nil, "log": nil, "mail": nil, "cert.pem": certificate, "key.pem": key} {
		path := filepath.Join(dir, name)
		var err error
		if content == nil {
			err = os.MkdirAll(path, 0o750)
		} else {
			err = os.WriteFile(path, content, 0o640)
		}
		if err == nil {
			err = os.Chown(path, uid, gid)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "exim.conf"), []byte(config), 0o644); err != nil { // root's, as exim wants it
		t.Fatal(err)
	}
}

func (e *Exim) certificate(t testing.TB) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "relay.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	e.roots = x509.NewCertPool()
	certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	e.roots.AppendCertsFromPEM(certificate)
	return certificate, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

func (e *Exim) await(t testing.TB) {
	t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-look.C {
		if conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(e.Port))); err == nil {
			_ = conn.Close()
			return
		}
	}
	t.Fatal("exim4 does not listen")
}

// TLS trusts the server's certificate.
func (e *Exim) TLS() *tls.Config {
	return &tls.Config{RootCAs: e.roots, MinVersion: tls.VersionTLS12}
}

// Open lets the server take mail for "later".
func (e *Exim) Open(t testing.TB) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(e.dir, "open"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Connections counts those that were made and gave their name, by the server's log.
func (e *Exim) Connections(t testing.TB) int {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(e.dir, "log", "mainlog"))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(log, []byte("SMTP connection from [127.0.0.1]"))
}

// Mails waits until the server has delivered n mails and returns their texts, as
// they lie on its disk.
func (e *Exim) Mails(t testing.TB, n int) (texts []string) {
	t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	var names []string
	for deadline := time.Now().Add(time.Minute); len(names) < n; <-look.C {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d mails were delivered", len(names), n)
		}
		var err error
		if names, err = filepath.Glob(filepath.Join(e.mails, "q*")); err != nil { // a name with q is whole
			t.Fatal(err)
		}
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	return texts
}
