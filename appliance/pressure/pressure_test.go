package pressure

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var usual = Settings{Window: 0.8, Memory: Rungs{0.70, 0.85, 0.95}}

// TestEachSignalClimbsToItsTop and no higher, and comes down again, each rung
// only when it is clearly left.
func TestEachSignalClimbsToItsTop(t *testing.T) {
	for signal := range signals {
		var s Standing
		set := func(v float64) Level {
			var r Readings
			r[signal].Value = v
			s = usual.next(s, &r)
			return s.Level
		}
		top := tops[signal]
		for _, c := range []struct {
			value float64
			want  Level
		}{
			{0.1, Normal}, {0.69, Normal}, {0.8, Elevated}, {0.86, min(High, top)}, {0.96, min(Critical, top)}, {0.92, min(Critical, top)},
			{0.86, min(High, top)}, {0.82, min(High, top)}, {0.76, Elevated}, {0.71, Elevated}, {0.5, Normal},
		} {
			if got := set(c.value); got != c.want {
				t.Errorf("%v at %v: got %v, want %v", signal, c.value, got, c.want)
			}
		}
	}
}

// TestProperty05_WindowBackpressure: whatever the fill does, backpressure is on
// from the threshold on, and off below it by more than the relief; in between it
// stays as it was.
func TestProperty05_WindowBackpressure(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		settings := usual
		settings.Window = rapid.Float64Range(0.05, 1).Draw(t, "threshold")
		var s Standing
		for _, fill := range rapid.SliceOfN(rapid.Float64Range(0, 1.5), 1, 50).Draw(t, "fills") {
			before := s.Level
			var r Readings
			r[Window].Value = fill
			s = settings.next(s, &r)
			want := before
			switch {
			case fill >= settings.Window:
				want = Elevated
			case fill <= settings.Window*(1-windowRelief):
				want = Normal
			}
			if s.Level != want {
				t.Fatalf("fill %v, threshold %v, before %v: got %v, want %v", fill, settings.Window, before, s.Level, want)
			}
		}
	})
}

// TestProperty04_MemoryShedsFirst: whatever the load asks for, if each priority
// that is admitted takes at most a share of the memory between two measurements,
// all but critical has been refused before the limit, and nothing is accepted
// at it. Control: without the ladder the same load passes the limit.
func TestProperty04_MemoryShedsFirst(t *testing.T) {
	exceeded := 0
	rapid.Check(t, func(t *rapid.T) {
		var s Standing
		used, wild := 0.0, 0.0
		for _, tenths := range rapid.SliceOfN(rapid.IntRange(0, 10), 20, 400).Draw(t, "load") {
			ask := float64(tenths) / 10
			var r Readings
			r[Memory].Value, r[Memory].Full = used, used >= 1
			s = usual.next(s, &r)
			// Critical messages are few: they take a fiftieth of what all take.
			take, drained := 0.04*ask, 0.001
			switch {
			case s.Full:
				take = 0
			case s.Level == Critical:
				take /= 50
			}
			used = max(used+take-drained, 0)
			wild = max(wild+0.04*ask-drained, 0)
			if used > 1 {
				t.Fatalf("the limit is passed at level %v", s.Level)
			}
			if used >= 0.96 && s.Level < Elevated {
				t.Fatalf("at %v of memory the level is %v", used, s.Level)
			}
		}
		if wild > 1 {
			exceeded++
		}
	})
	if exceeded == 0 {
		t.Error("control: no load would have passed the limit without the ladder")
	}
}

func TestGauge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var memory float64
		var changes []Level
		reg := prometheus.NewPedanticRegistry()
		g, err := New(Config{Settings: usual, Registerer: reg,
			Measure: func() (r Readings) {
				mu.Lock()
				defer mu.Unlock()
				r[Memory] = Reading{memory, memory >= 1, "some of it"}
				r[Connections] = Reading{Value: 0.99}
				return r
			},
			OnChange: func(_, to Level) { changes = append(changes, to) }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { _ = g.Run(ctx) })
		set := func(v float64) (Level, bool) {
			mu.Lock()
			memory = v
			mu.Unlock()
			time.Sleep(2 * Every)
			synctest.Wait()
			return g.Level()
		}
		if level, _ := set(0); level != High {
			t.Errorf("got %v, want high: of connections", level)
		}
		if level, full := set(0.96); level != Critical || full {
			t.Errorf("got %v, %v, want critical and not full", level, full)
		}
		if s := g.Status(); s.Signals[0].Name != "memory" || s.Level != Critical {
			t.Errorf("got %+v, want memory first", s)
		}
		if level, full := set(1.01); level != Critical || !full {
			t.Errorf("got %v, %v, want critical and full", level, full)
		}
		if got := testutil.ToFloat64(g.level); got != 3 {
			t.Errorf("metric: got %v, want 3", got)
		}
		if level, _ := set(0.1); level != High {
			t.Errorf("got %v, want high: of connections", level)
		}
		cancel()
		running.Wait()
		if diff := cmp.Diff([]Level{High, Critical, High}, changes); diff != "" {
			t.Errorf("changes (-want +got):\n%s", diff)
		}
		if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
			t.Errorf("metrics: %v %v", problems, err)
		}
	})
}

func TestSettings(t *testing.T) {
	for _, s := range []Settings{{}, {Window: 1.1, Memory: usual.Memory}, {Window: 0.5, Memory: Rungs{0.9, 0.8, 0.95}}, {Window: 0.5, Memory: Rungs{0.7, 0.8, 1.1}}} {
		if s.Validate() == nil {
			t.Errorf("%+v: no error", s)
		}
	}
}

func TestMemoryMeter(t *testing.T) {
	m := NewMemoryMeter()
	defer m.Close()
	before := m.Read().Resident
	ballast := make([]byte, 64<<20)
	for i := 0; i < len(ballast); i += 4096 {
		ballast[i] = 1
	}
	if after := m.Read().Resident; after < before+48<<20 || before == 0 {
		t.Errorf("64 MiB more: %d bytes before, %d after", before, after)
	}
	if ballast[4096] != 1 {
		t.Error("unreachable: keeps the memory in use")
	}
	for text, want := range map[string]uint64{"100 50 20 1 0 30 0": 30, "": 0, "1 2": 0, "1 2 3": 0, "a b c": 0} {
		if got := anonymous(text); got != want {
			t.Errorf("statm %q: got %d pages, want %d", text, got, want)
		}
	}
}
