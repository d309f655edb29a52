package raftstate

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// slowLog takes its time for each write.
type slowLog struct {
	*raft.InmemStore
	takes time.Duration
}

func (l *slowLog) StoreLogs(logs []*raft.Log) error {
	time.Sleep(l.takes)
	return l.InmemStore.StoreLogs(logs)
}

// TestWatchdog: a write within the limit is nobody's business, one beyond it is
// fatal while it hangs, and not only when it is over.
func TestWatchdog(t *testing.T) {
	for name, test := range map[string]struct {
		takes time.Duration
		fatal bool
	}{
		"in time": {4900 * time.Millisecond, false},
		"hangs":   {time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &slowLog{raft.NewInmemStore(), test.takes}
				var fatal error
				var after time.Duration
				began := time.Now()
				w := newWatchdog(log, log, func() error { return nil }, 5*time.Second, func(err error) { fatal, after = err, time.Since(began) })
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() { w.run(ctx); close(ended) }()
				wrote := make(chan error, 1)
				go func() { wrote <- w.StoreLogs([]*raft.Log{{Index: 1, Term: 1}}) }()
				time.Sleep(time.Second)
				term := make(chan error, 1) // a newer term is written meanwhile, from elsewhere
				go func() { term <- w.SetUint64([]byte("CurrentTerm"), 7) }()
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if got := w.hanging(); got != 3*time.Second {
					t.Errorf("hangs for %v after 3 s", got)
				}
				if err := errors.Join(<-term, <-wrote); err != nil {
					t.Error(err)
				}
				if got := w.hanging(); got != 0 {
					t.Errorf("hangs for %v with nothing in flight", got)
				}
				cancel()
				<-ended
				if (fatal != nil) != test.fatal || test.fatal && (after > 7*time.Second || !strings.Contains(fatal.Error(), "disk hangs")) {
					t.Errorf("fatal: %v after %v", fatal, after)
				}
			})
		})
	}
}

// TestALeaderThatHangsFallsSilent: what it would send as a leader is not sent
// while a write hangs for too long, and is before and after.
func TestALeaderThatHangsFallsSilent(t *testing.T) {
	c := newCluster(t, 1).startAll(1)
	var hangs time.Duration
	real := c.nodes[1].transport.(*memberTransport)
	transport := &memberTransport{real.NetworkTransport, func() time.Duration { return hangs }, real.mute, real.beat, real.deliver}
	if real.mute != muteLeast {
		t.Errorf("silent after %v, want %v with a heartbeat of %v", real.mute, muteLeast, testHeartbeat)
	}
	send := func() error {
		var r raft.AppendEntriesResponse
		return transport.AppendEntries("2", "2", &raft.AppendEntriesRequest{}, &r)
	}
	for _, hangs = range []time.Duration{0, muteLeast, muteLeast + time.Millisecond, 0} {
		if err := send(); errors.Is(err, errMuted) != (hangs > muteLeast) || err == nil {
			t.Errorf("hanging for %v: got %v; nobody is there to answer", hangs, err)
		}
	}
}

// TestNoWriteIsBelievedThatIsNotConfirmed: what the store calls done counts only if
// the file system still lives.
func TestNoWriteIsBelievedThatIsNotConfirmed(t *testing.T) {
	var dead error
	log := raft.NewInmemStore()
	w := newWatchdog(log, log, func() error { return dead }, time.Minute, func(err error) { t.Error(err) })
	writes := map[string]func() error{
		"one entry": func() error { return w.StoreLog(&raft.Log{Index: 1, Term: 1}) },
		"entries":   func() error { return w.StoreLogs([]*raft.Log{{Index: 2, Term: 1}}) },
		"a vote":    func() error { return w.Set([]byte("LastVoteCand"), []byte("2")) },
		"a term":    func() error { return w.SetUint64([]byte("CurrentTerm"), 7) },
	}
	for _, dead = range []error{nil, errors.New("the file system has failed")} {
		for name, write := range writes {
			if err := write(); !errors.Is(err, dead) {
				t.Errorf("%s: got %v, want %v", name, err, dead)
			}
		}
	}
}
