package appliance_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"forebay/appliance/appliancetest"
	"forebay/appliance/loadtest"
	"forebay/sink/sinktest"
	"forebay/wal"
	"forebay/wal/message"
)

// The benchmarks of this file are whole scenarios with real processes, each
// beside its baseline in the same run; they report ratios. Run them with
// `make bench`, which passes -benchtime 1x. The table is printed at the end.

// table collects the lines that TestMain prints.
var table struct {
	mu    sync.Mutex
	lines []string
}

func report(what, figure, target string) {
	table.mu.Lock()
	defer table.mu.Unlock()
	table.lines = append(table.lines, what+"\t"+figure+"\t"+target)
}

func printTable() {
	if len(table.lines) == 0 {
		return
	}
	fmt.Println()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "measure\tfigure\ttarget")
	for _, l := range table.lines {
		fmt.Fprintln(w, l)
	}
	w.Flush()
}

// nowhere is a database that is not there: the appliance accepts and keeps.
const nowhere = "FOREBAY_DATABASE_URL=postgres://127.0.0.1:1/none"

func load(b *testing.B, c loadtest.Config) loadtest.Result {
	b.Helper()
	r, err := mixedLoad(c)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

// mixedLoad sends messages of the size and the priorities that all are measured with.
func mixedLoad(c loadtest.Config) (loadtest.Result, error) {
	c.Sizes = []loadtest.Share[int]{{Value: 512, Weight: 1}}
	c.Priorities = []loadtest.Share[message.Priority]{{Value: message.Critical, Weight: 1}, {Value: message.High, Weight: 2}, {Value: message.Normal, Weight: 5}, {Value: message.Low, Weight: 2}}
	return loadtest.Run(context.Background(), c)
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

const rounds = 3 // of the appliance and its baseline in turn; the median counts

// BenchmarkAccept measures durable acceptance against a handler that decodes the
// same JSON, issues an id and stores nothing.
func BenchmarkAccept(b *testing.B) {
	for _, conns := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("connections=%d", conns), func(b *testing.B) {
			var ours, bare, p99, memory []float64
			var refused uint64
			for range rounds {
				base, pid := startBaseline(b, "bare", "")
				r := load(b, loadtest.Config{URL: base, Keys: []string{"none"}, Connections: conns, Duration: 8 * time.Second})
				bare = append(bare, r.Throughput)
				m := appliancetest.MemoryOf(b, pid)

				p := appliancetest.StartProcess(b, filepath.Join(b.TempDir(), "data"), nowhere)
				r = load(b, loadtest.Config{URL: p.URL, Keys: []string{p.Key}, Connections: conns, Duration: 8 * time.Second})
				ours = append(ours, r.Throughput)
				p99 = append(p99, r.Latency.P99)
				memory = append(memory, float64(p.Memory().Peak)/float64(m.Peak))
				refused += r.Sent - r.OK
				p.Kill()
			}
			name := fmt.Sprintf("accept, %d connections", conns)
			report(name+": throughput ÷ bare handler", fmt.Sprintf("%.2f (%.0f/s ÷ %.0f/s)", median(ours)/median(bare), median(ours), median(bare)), "≥ 0.85")
			report(name+": not 202", fmt.Sprint(refused), "0")
			report(name+": p99", fmt.Sprintf("%.0f ms", median(p99)), "< 500 ms")
			report(name+": peak memory ÷ bare handler", fmt.Sprintf("%.2f", median(memory)), "≤ 1.4")
			b.ReportMetric(median(ours)/median(bare), "ratio")
		})
	}
}

// BenchmarkInsertPerRequest measures against a handler that does one INSERT for
// each request, through a pool.
func BenchmarkInsertPerRequest(b *testing.B) {
	pg := sinktest.StartPostgres(b, sinktest.WithFsync())
	var ours, theirs []float64
	for range rounds {
		base, _ := startBaseline(b, "insert", pg.URL())
		r := load(b, loadtest.Config{URL: base, Keys: []string{"none"}, Connections: 1000, Duration: 8 * time.Second})
		theirs = append(theirs, r.Throughput)
		p := appliancetest.StartProcess(b, filepath.Join(b.TempDir(), "data"), nowhere)
		r = load(b, loadtest.Config{URL: p.URL, Keys: []string{p.Key}, Connections: 1000, Duration: 8 * time.Second})
		ours = append(ours, r.Throughput)
		p.Kill()
	}
	report("accept, 1000 connections: throughput ÷ one INSERT a request", fmt.Sprintf("%.1f (%.0f/s ÷ %.0f/s)", median(ours)/median(theirs), median(ours), median(theirs)), "≥ 5")
	b.ReportMetric(median(ours)/median(theirs), "ratio")
}

// BenchmarkToRow measures from the client to the row: client, appliance and
// database share the machine. The clock stops when the last row is there.
func BenchmarkToRow(b *testing.B) {
	pg := sinktest.StartPostgres(b, sinktest.WithFsync())
	p := appliancetest.StartProcess(b, filepath.Join(b.TempDir(), "data"), "FOREBAY_DATABASE_URL="+pg.URL())
	load(b, loadtest.Config{URL: p.URL, Keys: []string{p.Key}, Connections: 256, Duration: 2 * time.Second})
	awaitStored(b, p)
	before := stored(b, p)
	start := time.Now()
	r := load(b, loadtest.Config{URL: p.URL, Keys: []string{p.Key}, Connections: 256, Duration: 20 * time.Second})
	sent := time.Since(start)
	awaitStored(b, p)
	took := time.Since(start)
	rows := stored(b, p) - before
	report("client to row in PostgreSQL", fmt.Sprintf("%.0f rows/s (%d in %.1f s; the last of them %.1f s after the client)", float64(rows)/took.Seconds(), rows, took.Seconds(), (took-sent).Seconds()), "≥ 25,000/s")
	if rows != r.OK {
		b.Fatalf("%d acknowledged, %d rows", r.OK, rows)
	}
	b.ReportMetric(float64(rows)/took.Seconds(), "rows/s")
}

func awaitStored(b *testing.B, p *appliancetest.Process) {
	b.Helper()
	c := p.Admin()
	defer c.Close()
	appliancetest.Eventually(b, 10*time.Minute, "the log is empty", func() bool {
		<-time.After(100 * time.Millisecond) // asking costs the appliance something
		s, err := c.Status(context.Background())
		if err != nil {
			return false
		}
		var n uint64
		for _, lane := range s.Log.Backlog {
			n += lane
		}
		return n == 0
	})
}

func stored(b *testing.B, p *appliancetest.Process) uint64 {
	b.Helper()
	c := p.Admin()
	defer c.Close()
	a, err := c.Audit(context.Background(), time.Time{})
	if err != nil || a.Missing != 0 {
		b.Fatalf("audit: %+v %v", a, err)
	}
	return a.Stored
}

// fill makes a log with n messages, as a long outage of the database leaves it.
func fill(b *testing.B, dir string, n int) {
	b.Helper()
	l, err := wal.Open(wal.Config{Dir: filepath.Join(dir, "wal"), Node: 1})
	if err != nil {
		b.Fatal(err)
	}
	const group = 2000
	ms, out := make([]*message.Message, group), make([]wal.Receipt, group)
	for i := range ms {
		ms[i] = &message.Message{Account: "acme", Channel: message.ChannelStore, Priority: message.Priority(i % message.Lanes), Body: strings.Repeat("a message of five hundred and twelve bytes, ", 12)[:512], ClientRef: "backlog"}
	}
	for done := 0; done < n; done += group {
		if err := l.AppendBatch(context.Background(), ms, out); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkBacklog measures whether acceptance and start suffer from what waits,
// and what a long drain needs.
func BenchmarkBacklog(b *testing.B) {
	var empty float64
	for _, backlog := range []int{0, 1_000_000, 5_000_000} {
		b.Run(fmt.Sprintf("messages=%d", backlog), func(b *testing.B) {
			dir := filepath.Join(b.TempDir(), "data")
			fill(b, dir, backlog)
			p := appliancetest.StartProcess(b, dir, nowhere)
			var p99 []float64
			for range 5 {
				r := load(b, loadtest.Config{URL: p.URL, Keys: []string{p.Key}, Connections: 256, Rate: 5000, Duration: 5 * time.Second})
				p99 = append(p99, r.Latency.P99)
			}
			if backlog == 0 {
				empty = median(p99)
			}
			report(fmt.Sprintf("p99 of acceptance with %d waiting ÷ with none", backlog), fmt.Sprintf("%.2f (%.2f ms)", median(p99)/empty, median(p99)), "≤ 1.2")
			p.Kill()
			start := time.Now()
			p.Spawn()
			p.AwaitReady(time.Minute)
			took := time.Since(start)
			target := ""
			if backlog == 1_000_000 {
				target = "≤ 2 s"
			}
			report(fmt.Sprintf("ready after kill -9 with %d waiting", backlog), fmt.Sprintf("%.2f s", took.Seconds()), target)
			p.Kill()
		})
	}
}

// BenchmarkDrain measures the drain alone against plain COPY of the same rows,
// and the memory of a long one.
func BenchmarkDrain(b *testing.B) {
	const rows = 500_000
	dir := filepath.Join(b.TempDir(), "data")
	fill(b, dir, rows)
	var drain, copied []float64
	for range rounds {
		pg := sinktest.StartPostgres(b, sinktest.WithFsync())
		fresh := filepath.Join(b.TempDir(), "data")
		if out, err := exec.Command("cp", "-r", "--sparse=always", dir, fresh).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		p := appliancetest.StartProcess(b, fresh, "FOREBAY_DATABASE_URL="+pg.URL())
		start := firstRow(b, pg)
		awaitStored(b, p)
		drain = append(drain, rows/time.Since(start).Seconds())
		p.Signal(syscall.SIGTERM)
		p.Wait()
		copied = append(copied, copyRows(b, pg))
	}
	report("the drain alone ÷ COPY of the same rows", fmt.Sprintf("%.2f (%.0f/s ÷ %.0f/s)", median(drain)/median(copied), median(drain), median(copied)), "≥ 0.6")
	b.ReportMetric(median(drain)/median(copied), "ratio")
}

// firstRow waits until rows arrive and says when that was.
func firstRow(b *testing.B, pg *sinktest.Postgres) time.Time {
	b.Helper()
	pool, err := pgxpool.New(context.Background(), pg.URL())
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	appliancetest.Eventually(b, time.Minute, "rows arrive", func() bool {
		var n int
		err := pool.QueryRow(context.Background(), "SELECT count(*) FROM (SELECT 1 FROM messages LIMIT 1) x").Scan(&n)
		return err == nil && n > 0
	})
	return time.Now()
}

// copyRows reads the rows that the drain wrote, empties the table, and measures
// COPY of them into it.
func copyRows(b *testing.B, pg *sinktest.Postgres) float64 {
	b.Helper()
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, pg.URL())
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	file := filepath.Join(b.TempDir(), "rows.bin")
	f, err := os.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Release()
	tag, err := conn.Conn().PgConn().CopyTo(ctx, f, "COPY (SELECT * FROM messages) TO STDOUT (FORMAT binary)")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := pool.Exec(ctx, "TRUNCATE messages"); err != nil {
		b.Fatal(err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	in, err := conn.Conn().PgConn().CopyFrom(ctx, f, "COPY messages FROM STDIN (FORMAT binary)")
	if err != nil || in.RowsAffected() != tag.RowsAffected() {
		b.Fatalf("COPY: %v rows, %v", in, err)
	}
	return float64(in.RowsAffected()) / time.Since(start).Seconds()
}

// BenchmarkDrainMemory measures the memory of draining five million messages.
func BenchmarkDrainMemory(b *testing.B) {
	const backlog = 5_000_000
	pg := sinktest.StartPostgres(b, sinktest.WithFsync())
	dir := filepath.Join(b.TempDir(), "data")
	fill(b, dir, backlog)
	p := appliancetest.StartProcess(b, dir, "FOREBAY_DATABASE_URL="+pg.URL())
	stop := make(chan struct{})
	var anonymous, resident int64
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
				m := p.Memory()
				anonymous, resident = max(anonymous, m.Anonymous), max(resident, m.Resident)
			}
		}
	})
	start := time.Now()
	awaitStored(b, p)
	took := time.Since(start)
	close(stop)
	watch.Wait()
	report(fmt.Sprintf("memory while %d drain", backlog), fmt.Sprintf("%d MiB of its own; %d MiB with cached pages of its files (%.0f rows/s)", anonymous>>20, resident>>20, backlog/took.Seconds()), "< 300 MiB")
}
