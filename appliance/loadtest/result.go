package loadtest

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what a load test found.
type Result struct {
	Mode        string            `json:"mode"` // "open loop" or "closed loop"
	TargetRate  float64           `json:"target_rate,omitempty"`
	Connections int               `json:"connections"`
	Seed        uint64            `json:"seed"`
	Seconds     float64           `json:"seconds"` // from the start to the last answer
	Sent        uint64            `json:"sent"`
	OK          uint64            `json:"ok"`    // answers 2xx
	Codes       map[int]uint64    `json:"codes"` // answers by status
	Errors      map[string]uint64 `json:"errors"`
	Unsent      uint64            `json:"unsent"` // due, and no connection was free before the end
	Reconnects  uint64            `json:"reconnects"`
	Throughput  float64           `json:"throughput"` // 2xx a second
	Latency     Summary           `json:"latency"`    // of 2xx, from the moment the message was due
	Service     Summary           `json:"service"`    // of 2xx, from the moment it was sent
}

// Summary describes a distribution of times, in milliseconds.
type Summary struct {
	Mean float64 `json:"mean_ms"`
	P50  float64 `json:"p50_ms"`
	P90  float64 `json:"p90_ms"`
	P99  float64 `json:"p99_ms"`
	P999 float64 `json:"p99_9_ms"`
	Max  float64 `json:"max_ms"`
}

// Progress is where a load test stands.
type Progress struct {
	Elapsed time.Duration
	Sent    uint64
	OK      uint64
	Failed  uint64  // other answers, and errors
	Behind  uint64  // due and not sent yet
	Rate    float64 // 2xx a second since the last progress
	Latency Summary // since the start
}

// String is the progress in one line.
func (p Progress) String() string {
	return fmt.Sprintf("%4.0fs  sent %d  ok %d  failed %d  behind %d  %.0f/s  p50 %.1f ms  p99 %.1f ms",
		p.Elapsed.Seconds(), p.Sent, p.OK, p.Failed, p.Behind, p.Rate, p.Latency.P50, p.Latency.P99)
}

func summarize(h *hdrhistogram.Histogram) Summary {
	if h.TotalCount() == 0 {
		return Summary{}
	}
	at := func(percentile float64) float64 { return float64(h.ValueAtPercentile(percentile)) / 1000 }
	return Summary{Mean: h.Mean() / 1000, P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(h.Max()) / 1000}
}

// snapshot adds the shards up.
func (r *run) snapshot() Result {
	result := Result{Codes: map[int]uint64{}, Errors: map[string]uint64{}}
	latency, service := newHistogram(), newHistogram()
	var last time.Time
	for _, s := range r.shards {
		s.mu.Lock()
		latency.Merge(s.latency)
		service.Merge(s.service)
		result.Sent += s.sent
		result.Reconnects += s.reconnects
		for code, n := range s.codes {
			if n > 0 {
				result.Codes[code] += n
			}
		}
		for kind, n := range s.errors {
			if n > 0 {
				result.Errors[kindNames[kind]] += n
			}
		}
		if s.last.After(last) {
			last = s.last
		}
		s.mu.Unlock()
	}
	for code, n := range result.Codes {
		if code/100 == 2 {
			result.OK += n
		}
	}
	if seconds := last.Sub(r.start).Seconds(); result.Sent > 0 && seconds > 0 {
		result.Seconds = seconds
		result.Throughput = float64(result.OK) / seconds
	}
	result.Latency, result.Service = summarize(latency), summarize(service)
	return result
}

func (r *run) result() Result {
	result := r.snapshot()
	result.Mode, result.TargetRate = "open loop", r.cfg.Rate
	if r.cfg.Rate == 0 {
		result.Mode = "closed loop"
	}
	result.Connections, result.Seed = r.cfg.Connections, r.cfg.Seed
	result.Unsent = r.behind(result, time.Now())
	return result
}

// behind is how many messages were due by then and not tried.
func (r *run) behind(result Result, then time.Time) uint64 {
	due, tried := r.scheduled(then), result.Sent+result.Errors[kindNames[kindConnect]]
	if due > tried {
		return due - tried
	}
	return 0
}

func (r *run) progress(now time.Time) Progress {
	result := r.snapshot()
	p := Progress{Elapsed: now.Sub(r.start), Sent: result.Sent, OK: result.OK, Latency: result.Latency, Behind: r.behind(result, now)}
	p.Failed = result.Sent - result.OK + result.Errors[kindNames[kindConnect]]
	return p
}

// WriteText writes the result as a table for people.
func (r Result) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	load := fmt.Sprintf("%s, %d connections", r.Mode, r.Connections)
	if r.TargetRate > 0 {
		load += fmt.Sprintf(", %.0f messages/s wanted", r.TargetRate)
	}
	fmt.Fprintf(t, "load\t%s, seed %d\n", load, r.Seed)
	fmt.Fprintf(t, "sent\t%d in %.1f s\n", r.Sent, r.Seconds)
	fmt.Fprintf(t, "throughput\t%.0f accepted/s\n", r.Throughput)
	for _, code := range slices.Sorted(maps.Keys(r.Codes)) {
		fmt.Fprintf(t, "status %d\t%d\n", code, r.Codes[code])
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Errors)) {
		fmt.Fprintf(t, "error %s\t%d\n", kind, r.Errors[kind])
	}
	if r.Unsent > 0 {
		fmt.Fprintf(t, "unsent\t%d were due and found no free connection: the wanted rate was not reached\n", r.Unsent)
	}
	if r.Reconnects > 0 {
		fmt.Fprintf(t, "reconnects\t%d\n", r.Reconnects)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	if _, err := fmt.Fprintln(w, strings.Repeat("-", 60)); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "ms, of 2xx\tmean\tp50\tp90\tp99\tp99.9\tmax\t")
	row := func(name string, s Summary) {
		fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", name, s.Mean, s.P50, s.P90, s.P99, s.P999, s.Max)
	}
	if r.TargetRate > 0 {
		row("latency from due", r.Latency)
	}
	row("service time from sent", r.Service)
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}
