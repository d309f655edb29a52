package appliance_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forebay/appliance/appliancetest"
)

// stopGracefully stops a process with SIGTERM, which must succeed.
func stopGracefully(t *testing.T, p *appliancetest.Process) {
	t.Helper()
	p.Signal(syscall.SIGTERM)
	if err := p.Wait(); err != nil {
		t.Fatalf("forebay did not stop gracefully: %v\n%s", err, p.Log())
	}
}

// checkOutcomes fails for answers that the moment does not explain.
func checkOutcomes(ledger *appliancetest.Ledger, allowed ...string) error {
	for got, n := range ledger.Outcomes() {
		known := false
		for _, a := range allowed {
			known = known || a == got
		}
		if !known {
			return fmt.Errorf("%d answers were %q, want only %q", n, got, allowed)
		}
	}
	return nil
}

// loadWhile sends messages while during runs, and returns when the last answer
// is there.
func loadWhile(ledger *appliancetest.Ledger, target appliancetest.Target, connections int, prefix string, seed uint64, during func()) {
	ctx, cancel := context.WithCancel(context.Background())
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		ledger.Load(ctx, target, connections, seed, appliancetest.Mixed(prefix, 2000))
	}()
	during()
	cancel()
	<-loaded
}

// TestProperty08_GracefulStopAtAnyMoment: a stop at any moment under any load
// gives each request either a whole answer or a closed connection, and each
// acknowledged message is there after the next start.
func TestProperty08_GracefulStopAtAnyMoment(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, w world) {
		round := 0
		var options []appliancetest.Option
		if w.pg != nil {
			options = append(options, appliancetest.WithPostgres(w.pg.URL()))
		}
		n := appliancetest.Start(t, options...)
		ledger := appliancetest.NewLedger()
		rapid.Check(t, func(rt *rapid.T) {
			round++
			connections := rapid.IntRange(1, 40).Draw(rt, "connections")
			after := rapid.IntRange(0, 250).Draw(rt, "stopped after ms")
			var stopped error
			loadWhile(ledger, n.Target(), connections, fmt.Sprintf("s%d-", round), uint64(round), func() {
				<-time.After(time.Duration(after) * time.Millisecond)
				stopped = n.Stop()
			})
			if stopped != nil {
				rt.Fatalf("stop: %v", stopped)
			}
			n = n.Restart()
			if err := checkOutcomes(ledger, "202", "503 draining", "no answer"); err != nil {
				rt.Fatal(err)
			}
			if err := ledger.LookUp(n.Target(), ledger.Acked(), ""); err != nil {
				rt.Fatal(err)
			}
			ledger.Repeat(n.Target())
		})
		awaitDrained(t, n.Admin)
		checkAudit(t, n.Admin)
		must(t, "stop", n.Stop())
		must(t, "compare the store with what was sent", ledger.Compare(w.rows(t, n.Dir())))
		t.Log(ledger.Summary())
	})
}

// TestStopSignals: SIGTERM under load ends the real process with 0 and loses
// nothing; a second one ends it at once and loses nothing either.
func TestStopSignals(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	p := appliancetest.StartProcess(t, dir)
	ledger := appliancetest.NewLedger()

	loadWhile(ledger, p.Target(), 20, "once-", 1, func() {
		<-time.After(300 * time.Millisecond)
		stopGracefully(t, p)
	})
	if ledger.Count("202") == 0 {
		t.Fatalf("nothing was accepted: %s", ledger.Summary())
	}
	p.Start()
	must(t, "look up after SIGTERM", ledger.LookUp(p.Target(), ledger.Acked(), ""))

	loadWhile(ledger, p.Target(), 20, "twice-", 2, func() {
		<-time.After(300 * time.Millisecond)
		p.Signal(syscall.SIGTERM)
		p.Signal(syscall.SIGTERM)
		if err := p.Wait(); err != nil && exitCode(err) != 1 {
			t.Errorf("after two SIGTERM: %v", err)
		}
	})
	p.Start()
	must(t, "look up after two SIGTERM", ledger.LookUp(p.Target(), ledger.Acked(), ""))
	ledger.Repeat(p.Target())
	awaitDrained(t, p.Admin())
	commandAudit(t, p)
	stopGracefully(t, p)
	must(t, "compare the store with what was sent", ledger.Compare(appliancetest.EmbeddedRows(t, dir)))
	t.Log(ledger.Summary())
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// TestSecondStart: a second appliance on the same data is refused in words, and
// the first one does not notice.
func TestSecondStart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	p := appliancetest.StartProcess(t, dir)
	second := appliancetest.NewProcess(t, dir)
	second.Spawn()
	err := second.Wait()
	if exitCode(err) != 1 || !strings.Contains(second.Log(), "another") && !strings.Contains(second.Log(), "in use") {
		t.Fatalf("the second appliance: %v\n%s", err, second.Log())
	}
	if strings.Count(second.Log(), "\n") > 3 {
		t.Errorf("the refusal is no single line:\n%s", second.Log())
	}
	ledger := appliancetest.NewLedger()
	if a := ledger.Submit(p.Target(), appliancetest.Submission{Ref: "after", Body: "still here", Wait: 10}); a.Status != 201 {
		t.Fatalf("the first appliance after it: %+v", a)
	}
}
