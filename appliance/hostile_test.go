package appliance_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/wal/message"
)

// slowloris opens so many connections that send a byte now and then and never
// finish a request. stop ends them.
func slowloris(t *testing.T, address string, count int) (stop func()) {
	t.Helper()
	conns := make([]net.Conn, 0, count)
	for range count {
		c, err := net.Dial("tcp", address)
		must(t, "connect", err)
		conns = append(conns, c)
		fmt.Fprint(c, "POST /v1/messages HTTP/1.1\r\nHost: x\r\nX-Slow: ")
	}
	quit := make(chan struct{})
	var drip sync.WaitGroup
	drip.Go(func() {
		for {
			select {
			case <-quit:
				return
			case <-time.After(100 * time.Millisecond):
			}
			for _, c := range conns {
				c.Write([]byte("a")) // an error means that it was cut off, as it should be
			}
		}
	})
	return func() {
		close(quit)
		drip.Wait()
		for _, c := range conns {
			c.Close()
		}
	}
}

// once is a target whose client makes a connection for each request.
func once(t appliancetest.Target) appliancetest.Target {
	t.Client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return t
}

func address(url string) string { return strings.TrimPrefix(url, "http://") }

// TestSlowClients: two thousand connections that never finish a request cost a
// good client nothing, and are cut off.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t, func(c *config.Config) { c.HTTP.ReadTimeout = 2 * time.Second })
	const slow = 2000
	stop := slowloris(t, address(n.URL), slow)
	defer stop()
	ledger := appliancetest.NewLedger()
	loadWhile(ledger, n.Target(), 4, "good-", 1, func() {
		appliancetest.Eventually(t, time.Minute, "the good client is served", func() bool { return ledger.Count("202") > 500 })
		appliancetest.Eventually(t, time.Minute, "the slow ones are cut off", func() bool {
			return metric(t, n, `forebay_http_requests_total{code="408"`) >= slow
		})
	})
	must(t, "the answers", checkOutcomes(ledger, "202"))
	t.Log(ledger.Summary())
}

// TestConnectionCap: one connection too many is answered 503, and those that are
// there go on.
func TestConnectionCap(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t, func(c *config.Config) { c.HTTP.MaxConnections = 20 })
	n.Client.CloseIdleConnections()
	stop := slowloris(t, address(n.URL), 20)
	appliancetest.Eventually(t, 30*time.Second, "one more is answered 503 overloaded", func() bool {
		c, err := net.Dial("tcp", address(n.URL))
		must(t, "connect", err)
		defer c.Close()
		must(t, "set a deadline", c.SetDeadline(time.Now().Add(10*time.Second)))
		fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != ""
	})
	stop()
	ledger := appliancetest.NewLedger()
	appliancetest.Eventually(t, 30*time.Second, "there is room again", func() bool {
		return ledger.Submit(n.Target(), appliancetest.Submission{Ref: fmt.Sprint(len(ledger.Acked())), Body: "b"}).Status == http.StatusAccepted
	})
}

// TestFileLimit: a process that may open few files either says so and ends, or
// takes fewer clients; Badger never meets the limit.
func TestFileLimit(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	few := appliancetest.NewProcess(t, dir)
	few.LimitFiles(256)
	few.Spawn()
	if err := few.Wait(); exitCode(err) != 1 || !strings.Contains(few.Log(), "256 files") || !strings.Contains(few.Log(), "LimitNOFILE") {
		t.Fatalf("with 256 files: %v\n%s", err, few.Log())
	}

	const spare = 60 // clients that the limit leaves room for, about
	p := appliancetest.NewProcess(t, dir, "FOREBAY_BUFFER_MAX_DISK_BYTES=512MiB", "FOREBAY_DATABASE_MAX_POOL_SIZE=10", "FOREBAY_MEMORY_LIMIT=1GiB")
	p.LimitFiles(1024 + 10 + 512/2 + spare) // a file of the log has 2 MiB
	p.Begin()
	ledger := appliancetest.NewLedger()
	for crowd := range 3 {
		stop := slowloris(t, address(p.URL), 400)
		sendAll(ledger, once(p.Target()), makeSubmissions(fmt.Sprintf("crowd%d-", crowd), 1, slices.Repeat([]int{500}, 200), message.Lanes), 4)
		stop()
	}
	appliancetest.Eventually(t, time.Minute, "messages are taken when the crowd has gone", func() bool {
		sendAll(ledger, once(p.Target()), makeSubmissions(fmt.Sprintf("after%d-", len(ledger.Acked())), 1, []int{500}, message.Lanes), 1)
		return ledger.Count("202") > 20
	})
	if strings.Contains(p.Log(), "too many open files") {
		t.Errorf("the file limit was met:\n%s", p.Log())
	}
	awaitDrained(t, p.Admin())
	commandAudit(t, p)
	must(t, "look up all", ledger.LookUp(p.Target(), ledger.Acked(), "stored"))
	t.Log(ledger.Summary())
}
