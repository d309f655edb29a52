package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// freeAddress is a loopback address that nothing listens on at the moment.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// devServer is a running `forebay serve --dev`.
type devServer struct {
	cmd    *exec.Cmd
	curl   string // the line that it prints
	page   string // and the address of the status page
	stderr bytes.Buffer
	output chan error // the end of standard output
}

func startDev(t *testing.T, dir string, env []string) *devServer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	s := &devServer{cmd: command(ctx, dir, env, "serve", "--dev"), output: make(chan error, 1)}
	s.cmd.Stderr = &s.stderr
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			_ = s.cmd.Wait()
			t.Fatalf("it ended before it was ready: %v\n%s", err, s.stderr.String())
		}
		if strings.HasPrefix(line, "  curl ") {
			s.curl = strings.TrimSpace(line)
		}
		if at, ok := strings.CutPrefix(line, "  watch it "); ok {
			s.page, _, _ = strings.Cut(strings.TrimSpace(at), " ")
		}
		if strings.HasPrefix(line, "  stop ") {
			break
		}
	}
	go func() {
		_, err := io.Copy(io.Discard, lines)
		s.output <- err
	}()
	return s
}

// visit opens the address that it prints, and logs in as it says.
func (s *devServer) visit(t *testing.T, token string) {
	t.Helper()
	code, err := get(t.Context(), s.page, "")
	if err != nil || code != http.StatusOK || !strings.HasSuffix(s.page, "/") {
		t.Errorf("the page at %q: %d %v", s.page, code, err)
	}
	content, err := os.ReadFile(token)
	if err != nil {
		t.Fatal(err)
	}
	if code, err := get(t.Context(), s.page+"admin/v1/status", strings.TrimSpace(string(content))); err != nil || code != http.StatusOK {
		t.Errorf("with the token: %d %v", code, err)
	}
	if info, err := os.Stat(token); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the token's file: %v, %v", info, err)
	}
}

// stop ends it as Ctrl-C does under make, which may deliver the signal twice, and
// returns its exit code.
func (s *devServer) stop(t *testing.T) int {
	t.Helper()
	for range 2 {
		if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
	}
	if err := <-s.output; err != nil {
		t.Error(err)
	}
	if err := s.cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return s.cmd.ProcessState.ExitCode()
}

var idPattern = regexp.MustCompile(`"id":"([0-9a-f-]{36})"`)

// What a newcomer does: start, paste the curl line, look at the message; then
// stop and start again, with the same key and the message still there.
func TestServeDev(t *testing.T) {
	dir := t.TempDir()
	env := []string{"FOREBAY_HTTP_LISTEN=" + freeAddress(t), "FOREBAY_HTTP_OPS_LISTEN=" + freeAddress(t)}
	var key, id string
	for start := range 2 {
		s := startDev(t, dir, env)
		out, err := exec.CommandContext(t.Context(), "sh", "-c", s.curl).CombinedOutput()
		match := idPattern.FindSubmatch(out)
		if err != nil || match == nil {
			t.Fatalf("start %d: %s\n%s, %v", start, s.curl, out, err)
		}
		if start == 0 {
			id = string(match[1])
		}
		if o := run(t, dir, env, "message", "show", id, "-o", "json"); o.code != 0 || !strings.Contains(o.stdout, id) || !strings.Contains(o.stdout, "Hello, Forebay") && !strings.Contains(o.stdout, `"account": "dev"`) {
			t.Errorf("start %d: message show: %+v", start, o)
		}
		content, err := os.ReadFile(filepath.Join(dir, "data", "dev.key"))
		if err != nil || start == 1 && string(content) != key {
			t.Errorf("start %d: key %q, was %q, %v", start, content, key, err)
		}
		key = string(content)
		if info, err := os.Stat(filepath.Join(dir, "data", "dev.key")); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode of the key file: %v, %v", info, err)
		}
		s.visit(t, filepath.Join(dir, "data", "admin.token"))
		if start == 1 {
			walkThrough(t, dir, env)
		}
		if code := s.stop(t); code != 0 {
			t.Errorf("start %d: exit code %d after an interrupt:\n%s", start, code, s.stderr.String())
		}
	}
	if o := run(t, dir, env, "wal", "verify"); o.code != 0 || !strings.Contains(o.stdout, "of these 0 grave") {
		t.Errorf("wal verify: %+v", o)
	}
}

// walkThrough runs the operator's commands against a real appliance.
func walkThrough(t *testing.T, dir string, env []string) {
	t.Helper()
	env = append(env, "FOREBAY_URL=http://"+strings.TrimPrefix(env[0], "FOREBAY_HTTP_LISTEN="))
	must := func(want string, args ...string) string {
		t.Helper()
		o := run(t, dir, env, args...)
		if o.code != 0 || !strings.Contains(o.stdout, want) {
			t.Errorf("%v: want %q, got %+v", args, want, o)
		}
		return o.stdout
	}
	must("acme", "account", "create", "acme", "--tier", "development")
	key := must("", "key", "create", "acme")
	if err := os.WriteFile(filepath.Join(dir, "acme.key"), []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	must("stored", "send", "to acme's log", "--key-file", "acme.key", "--client-ref", "walk", "--wait", "30")
	must("walk", "message", "list", "--account", "acme")
	must("node", "status")
	must("missing   0", "audit")
	must("status 202  200", "bench", "--key-file", "acme.key", "--count", "200", "--rate", "1000", "-c", "4")
	must("status 202  50", "bench", "--accounts", "3", "--count", "50", "--rate", "max", "-c", "4")
	if out := must("acme", "account", "list"); strings.Contains(out, "bench-") {
		t.Errorf("accounts of the bench are left:\n%s", out)
	}
	must("bytes", "backup", "backup")
	if o := run(t, dir, env, "account", "create", "acme", "--tier", "basic"); o.code != 1 {
		t.Errorf("an account created twice: %+v", o)
	} else {
		oneErrorLine(t, o, "acme")
	}
	if o := run(t, dir, env, "wal", "verify"); o.code != 1 {
		t.Errorf("wal verify beside a running appliance: %+v", o)
	}
	must("of these 0 grave", "restore", "backup", "--config", writeConfig(t, dir, filepath.Join(dir, "restored")))
}

func writeConfig(t *testing.T, dir, dataDir string) string {
	t.Helper()
	path := filepath.Join(dir, "restored.yaml")
	if err := os.WriteFile(path, fmt.Appendf(nil, "data_dir: %s\n", dataDir), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := run(t, t.TempDir(), []string{"FOREBAY_HTTP_LISTEN=" + l.Addr().String(), "FOREBAY_HTTP_OPS_LISTEN="}, "serve", "--dev")
	lines := strings.Split(strings.TrimSpace(o.stderr), "\n")
	if last := lines[len(lines)-1]; o.code != 1 || !strings.HasPrefix(last, "forebay: ") || !strings.Contains(last, "address already in use: stop what listens there, or choose other ports") {
		t.Errorf("got %+v", o)
	}
}
