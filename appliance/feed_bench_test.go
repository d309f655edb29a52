package appliance_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/loadtest"
)

// BenchmarkFeed measures what twenty viewers of the live feed cost: the time of
// the processor that they take, against all that there is. Acceptance is bound by
// the processor, so that is what it loses; two throughputs, compared, would drown
// in their own noise.
func BenchmarkFeed(b *testing.B) {
	const viewers, span = 20, 15 * time.Second
	p := appliancetest.StartProcess(b, filepath.Join(b.TempDir(), "data"), nowhere)
	load(b, loadtest.Config{URL: p.URL, Keys: []string{p.Key}, Connections: 64, Rate: 500, Duration: 5 * time.Second}) // so that there is something to show
	measure := func() float64 {
		before := processorTime(b, p.PID())
		load(b, loadtest.Config{URL: p.URL, Keys: []string{p.Key}, Connections: 4, Rate: 50, Duration: span})
		return (processorTime(b, p.PID()) - before).Seconds() / span.Seconds() / float64(runtime.NumCPU())
	}
	alone := measure()
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	var events atomic.Int64
	for range viewers {
		watching.Go(func() {
			r, _ := http.NewRequestWithContext(ctx, http.MethodGet, p.OpsURL+"/events", nil)
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				b.Error(err)
				return
			}
			defer resp.Body.Close()
			for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
				if strings.HasPrefix(lines.Text(), "data:") {
					events.Add(1)
				}
			}
		})
	}
	watched := measure()
	cancel()
	watching.Wait()
	http.DefaultClient.CloseIdleConnections()
	if n := events.Load(); n < viewers*int64(span/time.Second)/2 {
		b.Errorf("%d viewers saw %d events in %v", viewers, n, span)
	}
	report(fmt.Sprintf("the live feed with %d viewers: of the processor", viewers), fmt.Sprintf("%.2f %% (%.2f %% ‒ %.2f %%, %d events)", 100*(watched-alone), 100*watched, 100*alone, events.Load()), "< 1 %")
	b.ReportMetric(100*(watched-alone), "%CPU")
}

// processorTime is what a process has used so far (proc(5), utime and stime, in
// hundredths of a second).
func processorTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
