package sink_test

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forebay/sink"
)

// TestProperty10_RetryDelaysGrowExponentiallyWithJitterAndCap: a delay lies
// between nothing and a ceiling that doubles from Base up to Max, and the
// random bits reach all of that range in order.
func TestProperty10_RetryDelaysGrowExponentiallyWithJitterAndCap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := sink.Backoff{Base: time.Duration(rapid.Int64Range(1, math.MaxInt64).Draw(t, "base"))}
		b.Max = time.Duration(rapid.Int64Range(int64(b.Base), math.MaxInt64).Draw(t, "max"))
		attempt := rapid.IntRange(1, math.MaxInt32).Draw(t, "attempt")
		if rapid.Bool().Draw(t, "early") {
			attempt = rapid.IntRange(1, 70).Draw(t, "attempt")
		}

		want := float64(b.Base) * math.Pow(2, float64(attempt-1))
		if want > float64(b.Max) {
			want = float64(b.Max)
		}
		ceiling := b.Ceiling(attempt)
		if got := float64(ceiling); math.Abs(got-want) > want*1e-9 {
			t.Fatalf("ceiling of retry %d of %+v = %v, want %v", attempt, b, ceiling, time.Duration(want))
		}
		if next := b.Ceiling(attempt + 1); next < ceiling || next > b.Max {
			t.Fatalf("ceiling falls from %v to %v, or passes %v", ceiling, next, b.Max)
		}
		r1, r2 := rapid.Uint64().Draw(t, "random"), rapid.Uint64().Draw(t, "random")
		d1, d2 := b.Delay(attempt, min(r1, r2)), b.Delay(attempt, max(r1, r2))
		if d1 < 0 || d1 > d2 || d2 > ceiling {
			t.Fatalf("delays %v and %v, want them in order and within [0, %v]", d1, d2, ceiling)
		}
		if lo, hi := b.Delay(attempt, 0), b.Delay(attempt, math.MaxUint64); lo != 0 || hi != ceiling {
			t.Fatalf("the least and the greatest delay are %v and %v, want 0 and %v", lo, hi, ceiling)
		}
	})
}

// TestProperty10_JitterIsUniform: over many draws each tenth of the range gets
// its tenth of the delays, so that those who failed together part.
func TestProperty10_JitterIsUniform(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := sink.Backoff{Base: time.Millisecond, Max: time.Minute}
		attempt := rapid.IntRange(1, 40).Draw(t, "attempt")
		var tenth [10]int
		const draws = 1000
		for i := range uint64(draws) { // evenly spaced random numbers
			d := b.Delay(attempt, i*(math.MaxUint64/draws))
			tenth[min(int(10*d/(b.Ceiling(attempt)+1)), 9)]++
		}
		for i, n := range tenth {
			if n < 99 || n > 101 {
				t.Fatalf("%d of %d delays in tenth %d, want 100", n, draws, i)
			}
		}
	})
}
