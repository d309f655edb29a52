package sinktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// installHint is what a machine without PostgreSQL is told.
const installHint = "PostgreSQL is not installed: apt-get install -y postgresql"

// startTimeout bounds how long a server may take to answer; it covers crash
// recovery on a busy machine.
const startTimeout = 60 * time.Second

// Names in the template: an ordinary role that owns the database, because the
// appliance does not run as a superuser either.
const (
	superuser = "postgres"
	role      = "forebay"
	database  = "forebay"
	password  = "forebay-test"
)

// Postgres is a private PostgreSQL server for one test. Its faults are real:
// processes are stopped, killed and paused by signal.
type Postgres struct {
	tb       testing.TB
	bin      string // directory of the server's programs
	dir      string // holds data, socket and log; short, for the socket's path
	port     int
	tcp      bool
	settings []string // -c arguments
	owner    *syscall.Credential

	process *os.Process
	ended   chan struct{} // closed when process has been waited for
	created int           // databases made by NewDatabase
}

// PostgresOption changes how StartPostgres starts the server.
type PostgresOption func(*Postgres)

// WithFsync makes the server flush to disk, as in production: for benchmarks and
// for tests that kill it. Without it the server is as fast as it can be.
func WithFsync() PostgresOption { return WithSetting("fsync", "on") }

// WithTCP makes the server listen on a free port of the loopback interface too,
// where a password is asked for. See TCPURL.
func WithTCP() PostgresOption { return func(p *Postgres) { p.tcp = true } }

// WithMaxConnections sets max_connections; three more are kept for superusers.
func WithMaxConnections(n int) PostgresOption {
	return func(p *Postgres) {
		p.settings = append(p.settings, "-c", "max_connections="+strconv.Itoa(n+3), "-c", "superuser_reserved_connections=3")
	}
}

// WithSetting sets any parameter of postgresql.conf.
func WithSetting(name, value string) PostgresOption {
	return func(p *Postgres) { p.settings = append(p.settings, "-c", name+"="+value) }
}

// StartPostgres starts a private PostgreSQL and stops it when the test ends. It
// listens on a Unix socket. A machine without PostgreSQL fails the test: a fault
// test that was skipped has proved nothing.
func StartPostgres(tb testing.TB, options ...PostgresOption) *Postgres {
	tb.Helper()
	p := &Postgres{tb: tb, port: 5432, settings: []string{"-c", "fsync=off", "-c", "max_connections=250"}}
	for _, o := range options {
		o(p)
	}
	var err error
	if p.bin, err = findPostgres(); err == nil {
		p.owner, err = unprivileged()
	}
	if err == nil {
		err = p.prepare()
	}
	if err != nil {
		tb.Fatalf("start PostgreSQL: %v", err)
	}
	p.Start()
	return p
}

// URL is the connection string of the test's database, over the Unix socket, as
// an ordinary role that owns it.
func (p *Postgres) URL() string { return p.socketURL(role, database) }

// AdminURL is the same as superuser.
func (p *Postgres) AdminURL() string { return p.socketURL(superuser, database) }

// TCPURL is the connection string over TCP, with this password. It needs WithTCP.
func (p *Postgres) TCPURL(password string) string {
	return fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d/%s?sslmode=disable", role, password, p.port, database)
}

// Password is the ordinary role's password, for TCPURL.
func (p *Postgres) Password() string { return password }

// Dir is the directory that the server owns: data, socket and log are in it.
func (p *Postgres) Dir() string { return p.dir }

func (p *Postgres) socketURL(user, db string) string {
	return fmt.Sprintf("postgres://%s@/%s?host=%s&port=%d", user, db, p.dir, p.port)
}

// NewDatabase creates another, empty database on the same server and returns its
// connection string. It is much faster than another server.
func (p *Postgres) NewDatabase() string {
	p.tb.Helper()
	p.created++
	name := "forebay_" + strconv.Itoa(p.created)
	p.ExecSQL("CREATE DATABASE " + name + " OWNER " + role)
	return p.socketURL(role, name)
}

// ExecSQL runs a statement in the test's database as superuser: for faults.
func (p *Postgres) ExecSQL(sql string, args ...any) {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.AdminURL())
	if err == nil {
		_, err = conn.Exec(ctx, sql, args...)
		conn.Close(ctx)
	}
	if err != nil {
		p.tb.Fatalf("exec %q: %v", sql, err)
	}
}

// Start starts the server again after Stop or Kill and waits until it answers.
func (p *Postgres) Start() {
	p.tb.Helper()
	if err := p.launch(); err != nil {
		p.tb.Fatalf("start PostgreSQL: %v", err)
	}
	deadline := time.Now().Add(startTimeout)
	for {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		conn, err := pgx.Connect(ctx, p.AdminURL())
		if err == nil {
			conn.Close(ctx)
		}
		cancel()
		if err == nil {
			return
		}
		select {
		case <-p.ended:
			p.tb.Fatalf("PostgreSQL ended while starting; its log:\n%s", p.logTail())
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.tb.Fatalf("PostgreSQL does not answer (%v); its log:\n%s", err, p.logTail())
		}
	}
}

// launch starts the postmaster. The goroutine keeps its thread until the
// postmaster has ended, because Pdeathsig means the death of the thread: when
// the test binary dies without cleaning up, the server goes with it.
func (p *Postgres) launch() error {
	args := []string{"-D", filepath.Join(p.dir, "data"), "-k", p.dir, "-p", strconv.Itoa(p.port)}
	if !p.tcp {
		args = append(args, "-c", "listen_addresses=")
	} else {
		args = append(args, "-c", "listen_addresses=127.0.0.1")
	}
	cmd := p.command("postgres", append(args, p.settings...)...)
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	started, ended := make(chan error), make(chan struct{})
	go func() { // joined by Stop, Kill or the cleanup, which wait for ended
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait() // its exit code says only how it was stopped
		}
		close(ended)
	}()
	if err := <-started; err != nil {
		return err
	}
	p.process, p.ended = cmd.Process, ended
	return nil
}

// prepare makes the data directory from the template and a socket directory.
func (p *Postgres) prepare() error {
	template, err := p.template()
	if err != nil {
		return err
	}
	if p.dir, err = os.MkdirTemp("", "pg"); err != nil {
		return err
	}
	p.tb.Cleanup(p.remove)
	if p.owner != nil {
		if err := os.Chown(p.dir, int(p.owner.Uid), int(p.owner.Gid)); err != nil {
			return err
		}
	}
	if out, err := p.command("/bin/cp", "-a", "--reflink=auto", template, filepath.Join(p.dir, "data")).CombinedOutput(); err != nil {
		return fmt.Errorf("copy template: %w: %s", err, out)
	}
	if p.tcp {
		p.port, err = freePort()
	}
	return err
}

// remove is the cleanup at the end of the test.
func (p *Postgres) remove() {
	if p.process != nil {
		p.Resume()
		p.signal(syscall.SIGQUIT)
		<-p.ended
	}
	if p.tb.Failed() {
		p.tb.Logf("end of PostgreSQL's log:\n%s", p.logTail())
	}
	if err := os.RemoveAll(p.dir); err != nil {
		p.tb.Errorf("remove PostgreSQL: %v", err)
	}
}

func (p *Postgres) logTail() []byte {
	text, err := os.ReadFile(filepath.Join(p.dir, "log"))
	if err != nil {
		return []byte(err.Error())
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-20):], []byte("\n"))
}

// command builds a command that runs as the server's owner.
func (p *Postgres) command(program string, args ...string) *exec.Cmd {
	if !filepath.IsAbs(program) {
		program = filepath.Join(p.bin, program)
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = "/" // the working directory may be closed to the owner
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.owner}
	return cmd
}

// findPostgres returns the directory of the newest server's programs.
func findPostgres() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // only a bad pattern is an error
	newest, best := "", -1
	for _, path := range found {
		dir := filepath.Dir(path)
		if version, err := strconv.Atoi(filepath.Base(filepath.Dir(dir))); err == nil && version > best {
			newest, best = dir, version
		}
	}
	if newest != "" {
		return newest, nil
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	return "", errors.New(installHint)
}

// unprivileged returns who runs the server: nil for the caller, and the user
// postgres for root, as whom the server refuses to run.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("%w (%s)", err, installHint)
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}

// freePort returns a port of the loopback interface that nobody listens on. The
// server takes it a moment later: a race that costs a clear failure at worst.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
