package webhook

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"forebay/sink/sinktest"
)

// keeper is a Keeper in memory that counts writes and can refuse them.
type keeper struct {
	mu     sync.Mutex
	have   map[Endpoint]Standing
	writes int
	err    error
}

func (k *keeper) Standings() []Standing {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Values(k.have))
}

func (k *keeper) Standing(e Endpoint) (Standing, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, ok := k.have[e]
	return s, ok
}

func (k *keeper) Keep(_ context.Context, s Standing) error { return k.change(s.Endpoint, &s) }

func (k *keeper) Forget(_ context.Context, e Endpoint) error { return k.change(e, nil) }

func (k *keeper) change(e Endpoint, s *Standing) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.writes++
	if k.err != nil {
		return k.err
	}
	if s == nil {
		delete(k.have, e)
	} else {
		k.have[e] = *s
	}
	return nil
}

type patienceWorld struct {
	*Patience
	keeper *keeper
	told   []Standing
}

func newPatienceWorld(t *testing.T, k *keeper) *patienceWorld {
	t.Helper()
	w := &patienceWorld{keeper: k}
	p, err := NewPatience(PatienceConfig{Keeper: k, Limit: 100 * time.Hour, Warn: func(_ context.Context, s Standing) { w.told = append(w.told, s) }})
	if err != nil {
		t.Fatal(err)
	}
	w.Patience = p
	return w
}

var (
	endpoint = Endpoint{Account: "acme", ID: "1", Host: "example.org:443"}
	start    = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
)

func hours(n int) time.Time { return start.Add(time.Duration(n) * time.Hour) }

// TestPatienceWarnsAndThenSwitchesOff: at 50, 70 and 90 percent and at the end,
// each once, over restarts too.
func TestPatienceWarnsAndThenSwitchesOff(t *testing.T) {
	k := &keeper{have: map[Endpoint]Standing{}}
	var got []Standing
	for hour := range 110 {
		w := newPatienceWorld(t, k) // a restart before every attempt
		if w.Disabled(endpoint) != (hour > 100) {
			t.Fatalf("after %d hours: disabled %v", hour, w.Disabled(endpoint))
		}
		if hour > 0 { // the first failure is forgotten by the restart: too young to be kept
			w.Failed(endpoint, hours(hour-1).Add(-15*time.Minute))
		}
		w.Failed(endpoint, hours(hour))
		w.look(t.Context())
		w.look(t.Context())
		got = append(got, w.told...)
	}
	var stages []int
	for _, s := range got {
		stages = append(stages, s.Warned)
	}
	if diff := cmp.Diff([]int{50, 70, 90, 90}, stages); diff != "" {
		t.Fatalf("told (-want +got):\n%s", diff)
	}
	if last := got[3]; last.Reason != ReasonFailed || last.Disabled.IsZero() {
		t.Errorf("in the end: got %+v", last)
	}
	if k.writes > 6 {
		t.Errorf("%d writes for one endpoint", k.writes)
	}
}

func TestGoneIsAtOnce(t *testing.T) {
	k := &keeper{have: map[Endpoint]Standing{}, err: errors.New("no leader")}
	w := newPatienceWorld(t, k)
	w.Gone(endpoint, start)
	w.look(t.Context())
	if !w.Disabled(endpoint) || len(w.told) > 0 {
		t.Fatalf("disabled %v, told %d before it was kept", w.Disabled(endpoint), len(w.told))
	}
	k.err = nil
	w.look(t.Context())
	w.look(t.Context())
	if len(w.told) != 1 || w.told[0].Reason != ReasonGone {
		t.Errorf("told %+v", w.told)
	}
	if again := newPatienceWorld(t, k); !again.Disabled(endpoint) {
		t.Error("forgotten over a restart")
	}
	if other := (Endpoint{Account: "other", ID: "1", Host: endpoint.Host}); w.Disabled(other) {
		t.Error("another account's is disabled, too")
	}
}

func TestSuccessForgetsTheFailure(t *testing.T) {
	k := &keeper{have: map[Endpoint]Standing{}}
	w := newPatienceWorld(t, k)
	w.Failed(endpoint, hours(0))
	w.Failed(endpoint, hours(40))
	w.look(t.Context())
	if len(k.have) != 1 {
		t.Fatalf("kept %v", k.have)
	}
	w.Succeeded(endpoint)
	w.look(t.Context())
	w.Failed(endpoint, hours(60))
	w.look(t.Context())
	if len(k.have) != 0 || len(w.told) != 0 {
		t.Errorf("after a success: kept %v, told %v", k.have, w.told)
	}
}

// TestSwitchedOnAgain: by an operator, or because another node got through.
func TestSwitchedOnAgain(t *testing.T) {
	k := &keeper{have: map[Endpoint]Standing{}}
	w := newPatienceWorld(t, k)
	w.Gone(endpoint, hours(0))
	w.look(t.Context())
	if err := k.Forget(t.Context(), endpoint); err != nil {
		t.Fatal(err)
	}
	w.look(t.Context())
	if w.Disabled(endpoint) {
		t.Fatal("still off after it was switched on")
	}
	w.Failed(endpoint, hours(90))
	w.look(t.Context())
	if w.Disabled(endpoint) || len(k.have) > 0 {
		t.Errorf("the old failure counts: kept %v", k.have)
	}
}

// TestARareEndpointIsWarnedFirst: two failures a week apart are no week of failure.
func TestARareEndpointIsWarnedFirst(t *testing.T) {
	w := newPatienceWorld(t, &keeper{have: map[Endpoint]Standing{}})
	for _, hour := range []int{0, 170, 171, 172} {
		w.Failed(endpoint, hours(hour))
		w.look(t.Context())
		w.look(t.Context())
		if w.Disabled(endpoint) {
			t.Fatalf("switched off at hour %d after %d warnings", hour, len(w.told))
		}
	}
	if len(w.told) != 3 {
		t.Errorf("told %+v", w.told)
	}
}

func TestSendHonoursAndFeedsPatience(t *testing.T) {
	k := &keeper{have: map[Endpoint]Standing{}}
	w := newPatienceWorld(t, k)
	rules := sinktest.NewRules(t, 1).First(1, "410")
	r := sinktest.NewWebhookReceiver(t, false, rules, oldSecret)
	c := newChannel(t, Settings{Allow: loopback, AllowHTTP: true}, w.Patience, oldSecret)
	for i, want := range []string{"recipient_refused", "endpoint_disabled"} {
		_, err := c.Send(t.Context(), delivery(r.URL()+"/a", "{}"))
		if kind(err) != "permanent" || faultOf(t, err).Failure.Code != want {
			t.Errorf("attempt %d: got %v, want %s", i, err, want)
		}
	}
	if len(r.Calls()) != 1 {
		t.Errorf("%d calls reached an address that is gone", len(r.Calls()))
	}
	// Another path of the same host goes on.
	if _, err := c.Send(t.Context(), delivery(r.URL()+"/b", "{}")); err != nil {
		t.Error(err)
	}
}

func TestRunLooksUntilItEnds(t *testing.T) {
	k := &keeper{have: map[Endpoint]Standing{}}
	p, err := NewPatience(PatienceConfig{Keeper: k})
	if err != nil {
		t.Fatal(err)
	}
	p.Gone(endpoint, start)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for len(k.Standings()) == 0 {
		<-look.C
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
