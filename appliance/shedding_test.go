package appliance_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/wal/message"
)

// memoryWatch follows a process's own memory.
type memoryWatch struct {
	once sync.Once
	stop chan struct{}
	done sync.WaitGroup
	peak atomic.Int64 // bytes
}

func watchMemory(tb testing.TB, p *appliancetest.Process) *memoryWatch {
	w := &memoryWatch{stop: make(chan struct{})}
	tb.Cleanup(func() { w.end() }) // before the process goes
	w.done.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			w.peak.Store(max(w.peak.Load(), p.Memory().Anonymous))
			select {
			case <-w.stop:
				return
			case <-tick.C:
			}
		}
	})
	return w
}

// end returns the peak.
func (w *memoryWatch) end() int64 {
	w.once.Do(func() { close(w.stop) })
	w.done.Wait()
	return w.peak.Load()
}

// criticals sends short critical messages, one after the other, until stop is
// closed; what came of each is in the ledger.
func criticals(ledger *appliancetest.Ledger, target appliancetest.Target, prefix string, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		ledger.Submit(target, appliancetest.Submission{Ref: fmt.Sprint(prefix, i), Priority: message.Critical, Body: "the house is on fire"})
	}
}

// TestProperty04_MemoryLimit: a process with a small memory limit gets more large
// bodies at once, of random sizes and priorities, than it may hold. It refuses
// some of them and stays inside its limit; not one short critical message is
// refused; and what it accepted is there after it is killed.
func TestProperty04_MemoryLimit(t *testing.T) {
	for name, tc := range map[string]struct {
		limit, body config.Size
		settings    []string
		found       string // status of what was accepted
	}{
		"smallest limit, store away": {128 * config.MiB, 256 * config.KiB, []string{nowhere}, "accepted"},
		"largest bodies, store away": {400 * config.MiB, 960 * config.KiB, []string{nowhere}, "accepted"},
		"embedded store":             {192 * config.MiB, 256 * config.KiB, nil, "stored"},
	} {
		t.Run(name, func(t *testing.T) { testMemoryLimit(t, tc.limit, tc.body, tc.settings, tc.found) })
	}
}

func testMemoryLimit(t *testing.T, limit, largest config.Size, settings []string, found string) {
	seed := seedOf(t)
	p := appliancetest.StartProcess(t, t.TempDir(), append(settings, "FOREBAY_MEMORY_LIMIT="+limit.String(),
		"FOREBAY_HTTP_MAX_BODY_BYTES="+largest.String(), "FOREBAY_BUFFER_MAX_DISK_BYTES=8GiB")...)
	memory := watchMemory(t, p)
	bulk, urgent := appliancetest.NewLedger(), appliancetest.NewLedger()
	stop := make(chan struct{})
	var load sync.WaitGroup
	var sent atomic.Int64 // bytes
	for c := range 64 {
		load.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(c)))
			text := letters(r, int(largest)-1000)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				body := text[:len(text)/8+r.IntN(len(text)*7/8)]
				bulk.Submit(p.Target(), appliancetest.Submission{Ref: fmt.Sprintf("bulk-%d-%d", c, i),
					Priority: message.Priority(1 + r.IntN(message.Lanes-1)), Body: body})
				sent.Add(int64(len(body)))
			}
		})
	}
	load.Go(func() { criticals(urgent, p.Target(), "urgent-", stop) })
	enough := func() bool {
		return sent.Load() > int64(limit) && bulk.Count("202") >= 50 && bulk.Count("503 overloaded") >= 20 && urgent.Count("202") >= 50
	}
	for began := time.Now(); !enough() && time.Since(began) < 15*time.Second; {
		<-time.After(20 * time.Millisecond) // a machine that is busy gets no further, and proves no less
	}
	close(stop)
	load.Wait()
	peak := memory.end()
	t.Logf("seed %d: %d MiB sent, peak %d MiB of %d; bulk: %s; critical: %s", seed, sent.Load()>>20, peak>>20, limit>>20, bulk.Summary(), urgent.Summary())
	if peak >= int64(limit) {
		t.Errorf("the process used %d bytes of its own, its limit is %d", peak, limit)
	}
	if bulk.Count("202") == 0 || bulk.Count("503 overloaded") == 0 || urgent.Count("202") == 0 {
		t.Error("the load was none: nothing was accepted, or nothing refused")
	}
	must(t, "the answers to critical messages", checkOutcomes(urgent, "202"))
	must(t, "the answers to the others", checkOutcomes(bulk, "202", "503 overloaded", "no answer")) // cut off while it sends
	p.Kill()
	p.Start()
	for name, ledger := range map[string]*appliancetest.Ledger{"critical messages": urgent, "other messages": bulk} {
		appliancetest.Eventually(t, time.Minute, name+" are "+found, func() bool {
			return ledger.LookUp(p.Target(), ledger.Acked(), found) == nil
		})
	}
}

// letters are n random ones: cheap to make, to encode and to check.
func letters(r *rand.Rand, n int) string {
	text := make([]byte, n)
	for i := range text {
		text[i] = byte('a' + r.IntN(26))
	}
	return string(text)
}

// TestSlowAndMany: hundreds of clients hold connections with half a body, send
// slow batches, or are just there, under a small memory limit. The process stays
// inside it and critical messages are answered.
func TestSlowAndMany(t *testing.T) {
	t.Parallel()
	const limit = 192 << 20
	p := appliancetest.StartProcess(t, t.TempDir(), "FOREBAY_MEMORY_LIMIT=192MiB", "FOREBAY_HTTP_READ_TIMEOUT=60s", nowhere)
	memory := watchMemory(t, p)
	address := strings.TrimPrefix(p.URL, "http://")
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	open := func(head string, body string) {
		c, err := net.Dial("tcp", address)
		must(t, "connect", err)
		held = append(held, c)
		_, err = io.WriteString(c, head+body)
		must(t, "send half a request", err)
	}
	half := strings.Repeat("x", 120_000)
	for i := range 1500 {
		switch {
		case i%7 == 0: // half of a large body: 215 of them, over the budget together
			c, err := net.Dial("tcp", address)
			must(t, "connect", err)
			held = append(held, c)
			fmt.Fprintf(c, "POST /v1/messages HTTP/1.1\r\nHost: f\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 250000\r\n\r\n", p.Key)
			_ = c.SetWriteDeadline(time.Now().Add(5 * time.Second))
			_, _ = io.WriteString(c, `{"channel":"store","body":"`+half) // may be refused while it comes
		case i%10 == 1: // a batch with one line and the beginning of another
			lines := `{"channel":"store","body":"a line of a batch"}` + "\n" + `{"channel":"store",`
			open("POST /v1/messages/batch HTTP/1.1\r\nHost: f\r\nAuthorization: Bearer "+p.Key+"\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n",
				fmt.Sprintf("%x\r\n%s\r\n", len(lines), lines))
		default: // a head that does not end
			open("POST /v1/messages HTTP/1.1\r\nHost: f\r\n", "")
		}
	}
	urgent := appliancetest.NewLedger()
	for i := range 300 {
		urgent.Submit(p.Target(), appliancetest.Submission{Ref: fmt.Sprint("urgent-", i), Priority: message.Critical, Body: "the house is on fire"})
	}
	peak := memory.end()
	t.Logf("peak %d MiB of %d with %d connections; critical: %s", peak>>20, limit>>20, len(held), urgent.Summary())
	if peak >= limit {
		t.Errorf("the process used %d bytes of its own, its limit is %d", peak, limit)
	}
	must(t, "the answers to critical messages", checkOutcomes(urgent, "202"))
	var ready any
	status, err := p.Target().Get("/readyz", &ready)
	if err != nil || status != http.StatusOK {
		t.Errorf("/readyz: %d %v", status, err)
	}
	must(t, "look up critical messages", urgent.LookUp(p.Target(), urgent.Acked(), "accepted"))
}
