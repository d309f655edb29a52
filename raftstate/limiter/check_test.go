package limiter

import (
	"fmt"
	"slices"
	"time"
)

// check is the exact checker: it slides a window over every start point, replays
// the bucket, and counts what is in flight at every moment, all in true time. It
// returns what is wrong first.
func (w *world) check() error {
	for account, times := range w.accepted {
		l := w.grown[account]
		slices.Sort(times)
		from := 0
		for i, t := range times {
			for times[from] <= t-simWindow {
				from++
			}
			if n := int64(i - from + 1); n > l.Rate {
				return fmt.Errorf("%s: %d accepted in the %s that end at %s, limit %d", account, n, simWindow, t, l.Rate)
			}
		}
		if err := checkBucket(account, times, l); err != nil {
			return err
		}
	}
	for account, flights := range w.allFlights() {
		if err := checkFlights(account, flights, w.grown[account].Concurrent); err != nil {
			return err
		}
	}
	return nil
}

// allFlights are those that have ended, and those that are under way, up to now.
func (w *world) allFlights() map[string][]flight {
	all := map[string][]flight{}
	for account, flights := range w.flights {
		all[account] = slices.Clone(flights)
	}
	for _, n := range w.nodes {
		for _, r := range n.flying {
			if r.in {
				all[r.account] = append(all[r.account], flight{r.entered, w.now})
			}
		}
	}
	return all
}

// checkBucket allows for clocks that are 0.2 % apart.
func checkBucket(account string, times []time.Duration, l Limits) error {
	level, last := float64(l.Burst), time.Duration(0)
	perSecond := float64(l.Rate) / simWindow.Seconds() * 1.002
	for _, t := range times {
		level = min(float64(l.Burst), level+(t-last).Seconds()*perSecond)
		last = t
		if level--; level < -1e-3 {
			return fmt.Errorf("%s: the bucket of %d is overdrawn by %.3f at %s", account, l.Burst, -level, t)
		}
	}
	return nil
}

func checkFlights(account string, flights []flight, limit int64) error {
	type edge struct {
		at time.Duration
		by int64
	}
	var edges []edge
	for _, f := range flights {
		edges = append(edges, edge{f.from, 1}, edge{f.to, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if a.at != b.at {
			return int(a.at - b.at)
		}
		return int(a.by - b.by) // who leaves at a moment makes room at it
	})
	n := int64(0)
	for _, e := range edges {
		if n += e.by; n > limit {
			return fmt.Errorf("%s: %d in flight at %s, limit %d", account, n, e.at, limit)
		}
	}
	return nil
}
