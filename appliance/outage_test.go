package appliance_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/loadtest"
	"forebay/httpapi/admin"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// outage is a way in which a database stops and comes back.
type outage struct {
	name        string
	stop, start func(*sinktest.Postgres)
}

var outages = []outage{
	{"hangs", func(pg *sinktest.Postgres) { pg.Pause() }, (*sinktest.Postgres).Resume},
	{"is shut down", func(pg *sinktest.Postgres) { pg.Stop(sinktest.Fast) }, (*sinktest.Postgres).Start},
}

// shedding is what came of a load during an outage.
type shedding struct {
	bulk, urgent loadtest.Result
	peak         int64 // of the process's own memory, bytes
	backlog      uint64
}

// during stops the database, sends the bulk of a load, of all priorities but
// critical, beside critical messages at a steady pace on connections of their
// own, starts the database again, and wants everything that was accepted to
// arrive there.
func (o outage) during(tb testing.TB, p *appliancetest.Process, pg *sinktest.Postgres, bulk loadtest.Config) (s shedding) {
	tb.Helper()
	c := p.Admin()
	defer c.Close()
	var before admin.Audit
	appliancetest.Eventually(tb, time.Minute, "the store answers", func() (up bool) {
		var err error
		before, err = c.Audit(context.Background(), time.Time{})
		return err == nil
	})
	o.stop(pg)
	memory := watchMemory(tb, p)
	bulk.URL, bulk.Keys, bulk.Timeout = p.URL, []string{p.Key}, time.Minute
	bulk.Priorities = []loadtest.Share[message.Priority]{{Value: message.High, Weight: 2}, {Value: message.Normal, Weight: 5}, {Value: message.Low, Weight: 2}}
	urgent := loadtest.Config{URL: p.URL, Keys: bulk.Keys, Timeout: time.Minute, Connections: 32, Rate: 50, Duration: bulk.Duration,
		Priorities: []loadtest.Share[message.Priority]{{Value: message.Critical, Weight: 1}}}
	var running sync.WaitGroup
	send := func(c loadtest.Config, into *loadtest.Result) {
		running.Go(func() {
			var err error
			if *into, err = loadtest.Run(context.Background(), c); err != nil {
				tb.Errorf("load: %v", err)
			}
		})
	}
	send(bulk, &s.bulk)
	send(urgent, &s.urgent)
	running.Wait()
	s.peak = memory.end()
	status, err := c.Status(context.Background())
	if err != nil {
		tb.Fatalf("ask for the status: %v", err)
	}
	for _, n := range status.Log.Backlog {
		s.backlog += n
	}
	o.start(pg)
	want := before.Stored + before.Waiting + s.bulk.OK + s.urgent.OK
	appliancetest.Eventually(tb, 5*time.Minute, "everything that was accepted has arrived", func() bool {
		<-time.After(100 * time.Millisecond) // asking costs the appliance something
		a, err := c.Audit(context.Background(), time.Time{})
		return err == nil && a.Waiting == 0 && a.Stored >= want
	})
	if a, err := c.Audit(context.Background(), time.Time{}); err != nil || a.Missing != 0 || a.Stored != want {
		tb.Errorf("audit: %+v %v, want %d stored and none missing", a, err, want)
	}
	return s
}

// refusals of critical messages, and answers to them that never came.
func (s shedding) refusals() (n uint64) {
	for code, count := range s.urgent.Codes {
		if code != http.StatusAccepted {
			n += count
		}
	}
	for _, count := range s.urgent.Errors {
		n += count
	}
	return n + s.urgent.Unsent
}

// TestSheddingInAnOutage: a database that hangs, and one that is shut down, under
// more load than the appliance can take. No critical message is refused, the
// process stays inside its memory limit, and all that was accepted arrives.
func TestSheddingInAnOutage(t *testing.T) {
	for _, o := range outages {
		t.Run("database="+o.name, func(t *testing.T) {
			t.Parallel()
			const limit = 256 << 20
			pg := sinktest.StartPostgres(t)
			p := appliancetest.StartProcess(t, filepath.Join(t.TempDir(), "data"), "FOREBAY_DATABASE_URL="+pg.URL(), "FOREBAY_MEMORY_LIMIT=256MiB", "FOREBAY_BUFFER_CAPACITY=500")
			s := o.during(t, p, pg, loadtest.Config{Connections: 256, Duration: 3 * time.Second, Sizes: []loadtest.Share[int]{{Value: 4096, Weight: 1}}})
			t.Logf("bulk: %d accepted, %v %v; critical: %d accepted, p99 %.0f ms; backlog %d; peak %d MiB of %d",
				s.bulk.OK, s.bulk.Codes, s.bulk.Errors, s.urgent.OK, s.urgent.Latency.P99, s.backlog, s.peak>>20, limit>>20)
			if n := s.refusals(); n > 0 || s.urgent.OK == 0 {
				t.Errorf("%d critical messages were refused or not answered, %d accepted: %v %v", n, s.urgent.OK, s.urgent.Codes, s.urgent.Errors)
			}
			if s.peak >= limit {
				t.Errorf("the process used %d bytes of its own, its limit is %d", s.peak, limit)
			}
			if s.backlog < 500 {
				t.Errorf("%d messages waited at the end: the database was there", s.backlog)
			}
		})
	}
}

// BenchmarkShedding measures what critical messages see at twice the load that
// the appliance can take, while the database has stopped.
func BenchmarkShedding(b *testing.B) {
	for _, o := range outages {
		b.Run("database="+o.name, func(b *testing.B) {
			const limit = 512 << 20
			pg := sinktest.StartPostgres(b, sinktest.WithFsync())
			p := appliancetest.StartProcess(b, filepath.Join(b.TempDir(), "data"), "FOREBAY_DATABASE_URL="+pg.URL(), "FOREBAY_MEMORY_LIMIT=512MiB")
			most := load(b, loadtest.Config{URL: p.URL, Keys: []string{p.Key}, Connections: 256, Duration: 5 * time.Second}).Throughput
			awaitStored(b, p)
			s := o.during(b, p, pg, loadtest.Config{Connections: 1024, Rate: 2 * most, Duration: 15 * time.Second, Sizes: []loadtest.Share[int]{{Value: 512, Weight: 1}}})
			name := "the database " + o.name + ", twice the load: critical messages"
			report(name+": refused", fmt.Sprintf("%d of %d", s.refusals(), s.urgent.Sent), "0")
			report(name+": p99", fmt.Sprintf("%.0f ms (from due; %.0f/s offered, %.0f/s taken)", s.urgent.Latency.P99, 2*most, s.bulk.Throughput), "< 500 ms")
			report(name+": peak memory", fmt.Sprintf("%d MiB of %d", s.peak>>20, limit>>20), "under it")
			b.ReportMetric(s.urgent.Latency.P99, "ms-p99")
		})
	}
}
