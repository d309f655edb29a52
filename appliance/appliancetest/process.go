package appliancetest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"forebay/httpapi/admin"
)

// Process is an appliance in a process of its own: the real binary.
type Process struct {
	namespace string // of the network; empty: the test's
	URL       string
	OpsURL    string
	Key       string
	Dir       string // data_dir

	Client *http.Client

	tb   testing.TB
	env  []string
	open uint64 // RLIMIT_NOFILE of the process; 0: that of the test
	cmd  *exec.Cmd
	mu   sync.Mutex
	tail []string // of what it logged
	done chan error
}

var build struct {
	once sync.Once
	path string
	err  error
	out  []byte
}

// Binary builds the forebay command, once for a test binary, and returns its
// path.
func Binary(tb testing.TB) string {
	tb.Helper()
	build.once.Do(func() {
		dir, err := os.MkdirTemp("", "forebay-test-")
		if err != nil {
			build.err = err
			return
		}
		build.path = filepath.Join(dir, "forebay")
		build.out, build.err = exec.Command("go", "build", "-o", build.path, "forebay/appliance/forebay").CombinedOutput()
	})
	if build.err != nil {
		tb.Fatalf("build forebay: %v\n%s", build.err, build.out)
	}
	return build.path
}

// RemoveBinary is for TestMain, after the last test.
func RemoveBinary() {
	if build.path != "" {
		os.RemoveAll(filepath.Dir(build.path))
	}
}

// StartProcess starts an appliance with its data in dir and these settings (such
// as FOREBAY_BUFFER_CAPACITY=100), waits until it is ready, and makes the
// account "acme" with a key. It is killed when the test ends.
func StartProcess(tb testing.TB, dir string, settings ...string) *Process {
	tb.Helper()
	p := NewProcess(tb, dir, settings...)
	p.Begin()
	return p
}

// Begin starts a process for the first time and makes the account "acme" with a
// key.
func (p *Process) Begin() {
	p.tb.Helper()
	p.Start()
	p.Key = p.account()
}

// NewProcess prepares the same and starts nothing.
func NewProcess(tb testing.TB, dir string, settings ...string) *Process {
	tb.Helper()
	api, ops := freePort(tb), freePort(tb)
	p := &Process{tb: tb, Dir: dir, URL: "http://" + api, OpsURL: "http://" + ops}
	p.Client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true}}
	tb.Cleanup(p.Client.CloseIdleConnections)
	config := filepath.Join(tb.TempDir(), "forebay.yaml")
	if err := os.WriteFile(config, []byte("node: 1\nlog: {level: warn}\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	p.env = append(os.Environ(), "FOREBAY_CONFIG="+config, "FOREBAY_DATA_DIR="+dir, "FOREBAY_HTTP_LISTEN="+api,
		"FOREBAY_HTTP_OPS_LISTEN="+ops, "FOREBAY_BUFFER_MIN_FREE_DISK_BYTES=256MiB",
		// Not in the way of tests of other things.
		"FOREBAY_RATE_LIMITING_TIERS={test: {requests_per_minute: 100000000, burst: 1000000, concurrent: 100000}}")
	p.env = append(p.env, settings...)
	tb.Cleanup(p.Kill)
	return p
}

// LimitFiles sets how many files the process may open when it is started next,
// with prlimit: soft and hard limit.
func (p *Process) LimitFiles(n uint64) { p.open = n }

// Set changes settings for the next start.
func (p *Process) Set(settings ...string) { p.env = append(p.env, settings...) }

// InNamespace puts the process into a network namespace, and its client too.
func (p *Process) InNamespace(name string) {
	p.namespace = name
	p.Client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, address string) (net.Conn, error) {
		return dialIn(ctx, name, address)
	}
}

// Target is the process as a client sees it.
func (p *Process) Target() Target { return Target{p.URL, p.Key, p.Client} }

func freePort(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Start starts the process and waits until it is ready.
func (p *Process) Start() {
	p.tb.Helper()
	p.Spawn()
	p.AwaitReady(60 * time.Second)
}

// Spawn starts the process and does not wait.
func (p *Process) Spawn() {
	p.tb.Helper()
	p.cmd = p.Command("serve")
	if p.open > 0 {
		p.cmd = exec.Command("prlimit", append([]string{fmt.Sprintf("--nofile=%d:%d", p.open, p.open)}, p.cmd.Args...)...)
		p.cmd.Env = p.env
	}
	if p.namespace != "" {
		p.cmd = exec.Command("ip", append([]string{"netns", "exec", p.namespace}, p.cmd.Args...)...)
		p.cmd.Env = p.env
	}
	out, err := p.cmd.StderrPipe()
	if err != nil {
		p.tb.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.tb.Fatalf("start forebay: %v", err)
	}
	p.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan error) {
		p.keepTail(out)
		done <- cmd.Wait()
	}(p.cmd, p.done)
}

// Command is any forebay command with the environment of this process: the same
// configuration, so the same data and admin socket.
func (p *Process) Command(args ...string) *exec.Cmd {
	p.tb.Helper()
	cmd := exec.Command(Binary(p.tb), args...)
	cmd.Env = p.env
	return cmd
}

const (
	tailLines  = 40
	deathLines = 60 // of a crash the beginning counts, not the end
)

func (p *Process) keepTail(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	dying := 0
	for lines.Scan() {
		text := lines.Text()
		p.mu.Lock()
		if dying > 0 || strings.HasPrefix(text, "panic: ") || strings.HasPrefix(text, "fatal error: ") || strings.HasPrefix(text, "unexpected fault ") {
			dying++
		}
		if dying <= deathLines {
			p.tail = append(p.tail, text)
		}
		if dying == 0 {
			p.tail = p.tail[max(0, len(p.tail)-tailLines):]
		}
		p.mu.Unlock()
	}
}

// Log is the end of what the process has logged.
func (p *Process) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.tail, "\n")
}

// AwaitReady waits until /readyz says so.
func (p *Process) AwaitReady(limit time.Duration) {
	p.tb.Helper()
	deadline := time.Now().Add(limit)
	for {
		select {
		case err := <-p.done:
			p.done <- err
			p.tb.Fatalf("forebay ended: %v\n%s", err, p.Log())
		case <-time.After(5 * time.Millisecond):
		}
		if r, err := p.Client.Get(p.URL + "/readyz"); err == nil {
			io.Copy(io.Discard, r.Body)
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			p.tb.Fatalf("forebay is not ready after %v\n%s", limit, p.Log())
		}
	}
}

func (p *Process) account() string {
	p.tb.Helper()
	c := p.Admin()
	defer c.Close()
	ctx := context.Background()
	if _, err := c.CreateAccount(ctx, admin.CreateAccount{ID: "acme", Tier: "test"}); err != nil {
		if _, err := c.Account(ctx, "acme"); err != nil {
			p.tb.Fatalf("make an account: %v", err)
		}
	}
	k, err := c.CreateKey(ctx, "acme", admin.CreateKey{Label: "test"})
	if err != nil {
		p.tb.Fatalf("make a key: %v", err)
	}
	return k.Secret
}

// Admin returns a client of the admin socket.
func (p *Process) Admin() *admin.Client {
	return admin.NewSocketClient(filepath.Join(p.Dir, "admin.sock"))
}

// Kill kills the process as kill -9 does, and waits until it is gone.
func (p *Process) Kill() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	p.cmd.Process.Kill()
	p.Wait()
}

// Signal sends a signal.
func (p *Process) Signal(s syscall.Signal) { p.cmd.Process.Signal(s) }

// Wait waits until the process has ended and returns how.
func (p *Process) Wait() error {
	err := <-p.done
	p.done <- err
	return err
}

// Exiting reports whether the process has come to its end, be it that threads of
// it still hang in the kernel (proc(5), stat: state Z).
func (p *Process) Exiting() bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	return err != nil || strings.Contains(string(text), ") Z ")
}

// Memory is what a process uses, in bytes.
type Memory struct {
	Anonymous int64 // its own: what no file backs
	Resident  int64 // with the pages of mapped files that happen to be cached
	Peak      int64 // highest Resident
}

// Memory reads the memory of the process.
func (p *Process) Memory() Memory { return MemoryOf(p.tb, p.cmd.Process.Pid) }

// PID is the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// MemoryOf reads the memory of any process.
func MemoryOf(tb testing.TB, pid int) (m Memory) {
	tb.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
		switch name {
		case "RssAnon":
			m.Anonymous = kib << 10
		case "VmRSS":
			m.Resident = kib << 10
		case "VmHWM":
			m.Peak = kib << 10
		}
	}
	return m
}
