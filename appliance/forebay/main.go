// Command forebay is the appliance and everything an operator does with it:
// `forebay serve` runs it, the other commands talk to a running one, check its
// files, or send messages.
//
// Every command exits with 0 when it did what was asked, 1 when it could not,
// and 2 when the command line makes no sense. Errors are one line on standard
// error and say what to do.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// version is set by the linker; see the Makefile.
var version = "dev"

func main() {
	ctx, stop := withSignals(context.Background())
	a := &app{version: version, environ: os.Environ(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, build: buildAppliance}
	code := a.execute(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// signaled is the cause of a context that a signal ended.
type signaled struct{ os.Signal }

func (s signaled) Error() string { return "stopped by " + s.String() }

// sameSignal is how soon after the first a second signal is taken for its echo:
// make, timeout and the like pass on what the terminal or the process group has
// sent already.
const sameSignal = time.Second

// withSignals returns a context that the first SIGINT or SIGTERM cancels. A
// second one ends the process at once: the log does not need the graceful stop.
func withSignals(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var first time.Time
		for s := range signals {
			switch {
			case first.IsZero():
				first = time.Now()
				cancel(signaled{s})
			case time.Since(first) > sameSignal:
				fmt.Fprintf(os.Stderr, "forebay: second signal (%s), exiting at once\n", s)
				os.Exit(exitFailure)
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		<-done
		cancel(nil)
	}
}
