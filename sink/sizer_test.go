package sink

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestProperty07_BatchSizeFollowsBacklogAndLatency: under a backlog the size
// settles at the limit if the store is quick, and else where an insert takes
// about the target time; without one it is back at the base; and whatever
// happens it stays between the floor and the limit.
func TestProperty07_BatchSizeFollowsBacklogAndLatency(t *testing.T) {
	const target = time.Second
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.IntRange(1, 2000).Draw(t, "base")
		limit := base * rapid.IntRange(1, 10).Draw(t, "growth")
		s := newSizer(base, limit, target)
		perRecord := time.Duration(rapid.IntRange(0, 20_000).Draw(t, "µs a record")) * time.Microsecond
		const backlog = 1_000_000
		for range 40 {
			n := s.next(backlog)
			if n < s.floor || n > limit {
				t.Fatalf("size %d, want %d to %d", n, s.floor, limit)
			}
			s.observe(n, backlog, time.Duration(n)*perRecord)
		}
		n := s.next(backlog)
		took := time.Duration(n) * perRecord
		if n < limit && took < target/2 || n > s.floor && took > target {
			t.Errorf("size settles at %d, which takes %v, of at most %d", n, took, limit)
		}
		for range 40 { // the store is quick again, and the backlog gone
			s.observe(1, 0, time.Millisecond)
		}
		if n := s.next(0); n != base {
			t.Errorf("size without a backlog = %d, want %d", n, base)
		}
	})
}

// TestRate: the rate is that of whole seconds, looks back ten of them, and
// survives a jump of the clock either way.
func TestRate(t *testing.T) {
	var m meter
	now := time.Unix(1_000_000, 0)
	for range 30 {
		m.add(now, 50)
		m.add(now.Add(time.Second/2), 50)
		now = now.Add(time.Second)
	}
	if s := m.stats(now); s.Rate != 100 || s.Stored != 3000 {
		t.Errorf("stats = %+v, want 100 a second of 3000", s)
	}
	if s := m.stats(now.Add(5 * time.Second)); s.Rate != 50 {
		t.Errorf("rate after 5 idle seconds = %v, want 50", s.Rate)
	}
	if s := m.stats(now.Add(-time.Hour)); s.Rate != 50 {
		t.Errorf("rate when the clock is set back = %v, want 50", s.Rate)
	}
	if s := m.stats(now.Add(time.Hour)); s.Rate != 0 {
		t.Errorf("rate after an idle hour = %v, want 0", s.Rate)
	}
	m.add(now.Add(time.Hour), 100)
	if s := m.stats(now.Add(time.Hour + time.Second)); s.Rate != 10 {
		t.Errorf("rate after one more = %v, want 10", s.Rate)
	}
}
