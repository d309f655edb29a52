package watch

import (
	"encoding/json"
	"math"
	"sync"
	"time"

	"forebay/httpapi/admin"
)

const (
	// step is the time of one point.
	step = 5 * time.Second
	// points are an hour.
	points = int(time.Hour / step)
)

// columns are the figures of a point after its time, in order. A rate is the
// mean of its step, everything else the worst of it: a spike must not vanish
// between two points.
var columns = []string{"accepted_rate", "refused_rate", "p50", "p99", "backlog_critical", "backlog_high", "backlog_normal", "backlog_low",
	"parked", "stored_rate", "store_p99", "append_p99", "pressure", "memory", "oldest_age", "delivered_rate"}

// point is one row: Unix time in seconds, then the columns.
type point []float64

// MarshalJSON leaves out digits that nobody can see.
func (p point) MarshalJSON() ([]byte, error) {
	rounded := make([]float64, len(p))
	for i, v := range p {
		switch {
		case math.IsNaN(v) || math.IsInf(v, 0):
			rounded[i] = 0
		case math.Abs(v) >= 100 || i == 0:
			rounded[i] = math.Round(v)
		default:
			rounded[i] = math.Round(v*1e5) / 1e5
		}
	}
	return json.Marshal(rounded)
}

// History is the answer to GET /history.json: the points since some time, the
// oldest first. Where the appliance was not running, points are missing.
type History struct {
	Node        uint16    `json:"node"`
	StartedAt   time.Time `json:"started_at"`
	StepSeconds int       `json:"step_seconds"`
	Columns     []string  `json:"columns"` // of a point, after its Unix time in seconds
	Points      []point   `json:"points"`
}

// history is the ring of points, and the one that is being filled.
type history struct {
	mu     sync.Mutex // guards what follows
	ring   []point    // at most points, the oldest at next once it is full
	next   int
	filled point // sums of the rates, maxima of the rest
	begun  int64 // Unix time of filled divided by step
	n      int   // samples in filled
}

// add takes in one sample and returns the point that it completed, if any.
func (h *history) add(now time.Time, s *admin.Status, refusedRate float64) (done point) {
	row := rowOf(s, refusedRate)
	slot := now.Unix() / int64(step/time.Second)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n > 0 && slot != h.begun {
		done = h.closeLocked()
	}
	if h.n == 0 {
		h.begun, h.filled = slot, make(point, len(columns)+1)
		h.filled[0] = float64(slot * int64(step/time.Second))
	}
	h.n++
	for i, v := range row {
		if isRate(i) {
			h.filled[i+1] += v
		} else {
			h.filled[i+1] = max(h.filled[i+1], v)
		}
	}
	return done
}

func (h *history) closeLocked() point {
	p := h.filled
	for i := range columns {
		if isRate(i) {
			p[i+1] /= float64(h.n)
		}
	}
	h.n = 0
	if len(h.ring) < points {
		h.ring = append(h.ring, p)
	} else {
		h.ring[h.next] = p
		h.next = (h.next + 1) % points
	}
	return p
}

// since returns the points after that time. Points are never written again, so
// they are shared.
func (h *history) since(t time.Time) []point {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]point, 0, len(h.ring))
	for i := range h.ring {
		if p := h.ring[(h.next+i)%len(h.ring)]; p[0] > float64(t.Unix()) {
			out = append(out, p)
		}
	}
	return out
}

func isRate(column int) bool {
	switch columns[column] {
	case "accepted_rate", "refused_rate", "stored_rate", "delivered_rate":
		return true
	}
	return false
}

// rowOf is the sample in the order of columns.
func rowOf(s *admin.Status, refusedRate float64) []float64 {
	var pressure, memory, delivered float64
	if s.Pressure != nil {
		for _, signal := range s.Pressure.Signals {
			pressure = max(pressure, signal.Value)
		}
	}
	if s.Memory != nil && s.Memory.LimitBytes > 0 {
		memory = float64(s.Memory.UsedBytes) / float64(s.Memory.LimitBytes)
	}
	for _, c := range s.Channels {
		delivered += c.Rate
	}
	lane := func(name string) float64 { return float64(s.Log.Backlog[name]) }
	return []float64{s.Intake.Rate, refusedRate, s.Intake.Latency.P50, s.Intake.Latency.P99, lane("critical"), lane("high"), lane("normal"), lane("low"),
		float64(s.Log.Parked), s.Store.Rate, s.Store.Latency.P99, s.Log.AppendLatency.P99, pressure, memory, s.Log.OldestAgeSeconds, delivered}
}
