package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// testEnv carries the path of the binary from TestMain to the tests, which run
// it as the process that operators run.
const testEnv = "FOREBAYTEST_BINARY"

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "forebay-test-")
	if err == nil {
		binary := filepath.Join(dir, "forebay")
		build := exec.Command("go", "build", "-ldflags", "-X main.version=v0-test", "-o", binary, ".")
		build.Stderr = os.Stderr
		err = errors.Join(build.Run(), os.Setenv(testEnv, binary))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the command:", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// outcome is what a process left.
type outcome struct {
	stdout, stderr string
	code           int
}

// command prepares the binary with an environment that has nothing of ours but
// env, in a directory of its own.
func command(ctx context.Context, dir string, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Getenv(testEnv), args...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TZ=UTC"}, env...)
	return cmd
}

func run(t *testing.T, dir string, env []string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := command(ctx, dir, env, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// fakeAdmin is the operator's side of an appliance, with canned answers.
type fakeAdmin struct {
	dir string // where data/admin.sock is

	mu       sync.Mutex
	answers  map[string]string // "GET /accounts" → JSON
	requests []string          // "POST /accounts {…}"
}

func newFakeAdmin(t *testing.T, answers map[string]string) *fakeAdmin {
	t.Helper()
	f := &fakeAdmin{dir: t.TempDir(), answers: answers}
	if err := os.Mkdir(filepath.Join(f.dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(f.dir, "data", "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	f.serve(t, l)
	return f
}

func (f *fakeAdmin) serve(t *testing.T, l net.Listener) {
	server := &http.Server{Handler: f}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
}

func (f *fakeAdmin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body bytes.Buffer
	_, _ = body.ReadFrom(r.Body)
	route := r.Method + " " + strings.TrimPrefix(r.URL.RequestURI(), "/admin/v1")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, strings.TrimSpace(route+" "+body.String()))
	if token := r.Header.Get("Authorization"); token != "" {
		f.requests = append(f.requests, token)
	}
	answer, ok := f.answers[route]
	if !ok {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusNotFound)
		answer = `{"title":"Not found","status":404,"detail":"There is no such account.","code":"not_found"}`
	}
	fmt.Fprint(w, answer)
}

func (f *fakeAdmin) last(t *testing.T) string {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.requests) == 0 {
		t.Fatal("nothing was asked")
	}
	return f.requests[len(f.requests)-1]
}

// oneErrorLine checks that a failure is one line and not a page of usage.
func oneErrorLine(t *testing.T, o outcome, want string) {
	t.Helper()
	if strings.Count(o.stderr, "\n") != 1 || !strings.HasPrefix(o.stderr, "forebay") || !strings.Contains(o.stderr, want) || o.stdout != "" {
		t.Errorf("want one line with %q on standard error, got %q and %q", want, o.stderr, o.stdout)
	}
}

func isJSON(t *testing.T, o outcome) {
	t.Helper()
	if !json.Valid([]byte(o.stdout)) || o.stderr != "" || o.code != 0 {
		t.Errorf("want JSON, got %+v", o)
	}
}
