package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/wal/message"

	"github.com/getkin/kin-openapi/openapi3"
)

type batchLine struct {
	Index    int64
	ID       string
	Status   string
	Replayed bool
	Error    *struct {
		Code   string
		Status int
	}
}

// batchRequest sends a body as a batch over a connection of its own.
func batchRequest(t testing.TB, addr string, body io.Reader, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequest("POST", "http://"+addr+"/v1/messages/batch", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+goodKey)
	req.Header.Set("Content-Type", typeNDJSON)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func batchLines(t testing.TB, r io.Reader) (lines []batchLine) {
	t.Helper()
	d := json.NewDecoder(r)
	for {
		var l batchLine
		if err := d.Decode(&l); errors.Is(err, io.EOF) {
			return lines
		} else if err != nil {
			t.Fatalf("after %d lines: %v", len(lines), err)
		}
		lines = append(lines, l)
	}
}

func TestBatch(t *testing.T) {
	w := newWorld(t)
	w.log.fail = func(m *message.Message) error {
		if m.Body == "full" {
			return ErrStorageFull
		}
		return nil
	}
	addr := w.serve(t)
	body := hello + "\n\n" + `{"channel":"store"}` + "\r\n" + "  \t\n" + hello + "\r\n" + "{" + "\n" +
		`{"channel":"store","body":"` + strings.Repeat("x", 100<<10) + `"}` + "\n" + `{"channel":"store","body":"full"}` + "\n" + hello
	resp := batchRequest(t, addr, strings.NewReader(body), "Idempotency-Key", "b")
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != typeNDJSON {
		t.Fatalf("got %d %v", resp.StatusCode, resp.Header)
	}
	var got strings.Builder
	for _, l := range batchLines(t, resp.Body) {
		fmt.Fprintf(&got, "%d:%s", l.Index, l.Status)
		if l.Error != nil {
			fmt.Fprintf(&got, "%s,%d", l.Error.Code, l.Error.Status)
		}
		got.WriteByte(' ')
	}
	want := "0:accepted 2:invalid,422 4:accepted 5:malformed,400 6:too_large,413 7:storage_full,503 8:accepted "
	if got.String() != want {
		t.Errorf("got  %s\nwant %s", got.String(), want)
	}
	if n := len(w.log.all()); n != 3 {
		t.Errorf("%d messages in the log, want 3", n)
	}
	// The same batch again: every line has its first answer.
	for _, l := range batchLines(t, batchRequest(t, addr, strings.NewReader(body), "Idempotency-Key", `"b"`).Body) {
		if (l.Error == nil) != l.Replayed {
			t.Errorf("repeated: got %+v", l)
		}
	}
	if n := len(w.log.all()); n != 3 {
		t.Errorf("%d messages in the log after the repetition, want 3", n)
	}
	if lines := batchLines(t, batchRequest(t, addr, strings.NewReader("\n")).Body); len(lines) != 0 {
		t.Errorf("an empty batch: got %v", lines)
	}
	eventually(t, "no bytes are counted as held", func() bool { return w.bodies.inUse.Load() == 0 })
}

func TestBatchLinesAreAsDocumented(t *testing.T) {
	schema := openapi3.NewSchemaRef("", document(t).Components.Schemas["BatchLine"].Value)
	w := newWorld(t)
	addr := w.serve(t)
	r := bufio.NewScanner(batchRequest(t, addr, strings.NewReader(hello+"\n{\n"+hello+"x"), "Idempotency-Key", "k").Body)
	n := 0
	for ; r.Scan(); n++ {
		var v any
		if err := json.Unmarshal(r.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		if err := schema.Value.VisitJSON(v); err != nil {
			t.Errorf("line %s: %v", r.Text(), err)
		}
	}
	if n != 3 {
		t.Errorf("got %d lines", n)
	}
}

func TestBatchRefusedAsAWhole(t *testing.T) {
	w := newWorld(t)
	for name, header := range map[string][]string{
		"unauthenticated":        {"Authorization", "Bearer x"},
		"unsupported_media_type": {"Content-Type", typeJSON},
		"not_acceptable":         {"Content-Type", typeNDJSON, "Accept", "application/json"},
		"malformed":              {"Content-Type", typeNDJSON, "Idempotency-Key", `"`},
	} {
		rec := w.do("POST", "/v1/messages/batch", hello, header...)
		checkProblem(t, rec, name)
	}
}

// A client that sends a line only after it has the answer to the one before is
// answered at once, and the connection can be used again.
func TestBatchInLockstep(t *testing.T) {
	w := newWorld(t)
	addr := w.serve(t)
	out, in := io.Pipe()
	answers := make(chan *http.Response, 1)
	go func() { answers <- batchRequest(t, addr, out) }()
	fmt.Fprintln(in, hello)
	resp := <-answers
	r := bufio.NewScanner(resp.Body)
	for i := range 20 {
		if !r.Scan() || !strings.HasPrefix(r.Text(), fmt.Sprintf(`{"index":%d,"id":"`, i)) {
			t.Fatalf("line %d: got %q, %v", i, r.Text(), r.Err())
		}
		fmt.Fprintln(in, hello)
	}
	in.Close()
	for r.Scan() {
	}
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

func TestBatchKeepsTheConnection(t *testing.T) {
	w := newWorld(t)
	conn, err := net.Dial("tcp", w.serve(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	for range 3 {
		fmt.Fprintf(conn, "POST /v1/messages/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
			goodKey, typeNDJSON, len(hello), hello)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if lines := batchLines(t, resp.Body); len(lines) != 1 {
			t.Errorf("got %v", lines)
		}
	}
}

// What curl does with a large upload: it waits for the server's word before it
// sends the body.
func TestBatchExpectContinue(t *testing.T) {
	w := newWorld(t)
	conn, err := net.Dial("tcp", w.serve(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/messages/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
		goodKey, typeNDJSON, len(hello))
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	_, _ = r.ReadString('\n')
	_, _ = io.WriteString(conn, hello)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if lines := batchLines(t, resp.Body); len(lines) != 1 || lines[0].Status != "accepted" {
		t.Errorf("got %+v", lines)
	}
}

// openBatch starts a batch over a raw connection and returns it with the reader
// of the answer.
func openBatch(t *testing.T, addr string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, "POST /v1/messages/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n", goodKey, typeNDJSON)
	return conn, bufio.NewReader(conn)
}

func sendChunk(w io.Writer, s string) error {
	_, err := fmt.Fprintf(w, "%x\r\n%s\r\n", len(s), s)
	return err
}

func TestBatchDrains(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.DrainGrace = 300 * time.Millisecond })
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.log.before = func([]*message.Message) { once.Do(func() { close(entered); <-release }) }
	conn, r := openBatch(t, w.serve(t))
	_ = sendChunk(conn, hello+"\n")
	<-entered
	w.Drain()
	_ = sendChunk(conn, hello+"\n")
	close(release)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	lines := batchLines(t, resp.Body) // ends though the stream does not
	if len(lines) != 3 || lines[0].Status != "accepted" || lines[1].Error.Code != "draining" || lines[2].Error.Code != "draining" {
		t.Errorf("got %+v", lines)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("the connection is not closed: %v", err)
	}
}

func TestBatchTimesOut(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.StreamTimeout = 200 * time.Millisecond })
	conn, r := openBatch(t, w.serve(t))
	_ = sendChunk(conn, hello+"\n"+hello)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	lines := batchLines(t, resp.Body)
	if len(lines) != 2 || lines[0].Status != "accepted" || lines[1].Error.Code != "request_timeout" {
		t.Errorf("got %+v", lines)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("the connection is not closed: %v", err)
	}
	if n := len(w.log.all()); n != 1 {
		t.Errorf("%d messages in the log: the line that was cut off was taken", n)
	}
}

func TestBatchClientDies(t *testing.T) {
	w := newWorld(t)
	conn, _ := openBatch(t, w.serve(t))
	_ = sendChunk(conn, hello+"\n"+hello)
	eventually(t, "the first line is in the log", func() bool { return len(w.log.all()) == 1 })
	conn.Close()
	eventually(t, "the request has ended", func() bool {
		return w.bodies.inUse.Load() == 0 && strings.Contains(w.logged.String(), `"msg":"request"`)
	})
	if n := len(w.log.all()); n != 1 {
		t.Errorf("%d messages in the log: the line that was cut off was taken", n)
	}
	if strings.Contains(w.logged.String(), "ERROR") {
		t.Errorf("a client that leaves is no error of ours:\n%s", w.logged.String())
	}
}

// A client that never reads is not read from any further, and is cut off.
func TestBatchClientNeverReads(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.StreamTimeout = 300 * time.Millisecond })
	conn, _ := openBatch(t, w.serve(t))
	_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	lines := strings.Repeat("{\n", 1000) // short questions, long answers
	var sent int
	for sendChunk(conn, lines) == nil {
		sent += 1000
	}
	if n := w.Intake().RefusedByCode["malformed"]; n > uint64(sent)+1000 || n == 0 {
		t.Errorf("sent %d lines, %d were looked at", sent, n)
	}
	eventually(t, "the request has ended", func() bool {
		return w.bodies.inUse.Load() == 0 && strings.Contains(w.logged.String(), `"msg":"request"`)
	})
}

// panickingBody fails in the goroutine that reads a batch, where net/http would
// not catch it.
type panickingBody struct{ io.ReadCloser }

func (b panickingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if strings.Contains(string(p[:n]), "now") {
		panic("boom")
	}
	return n, err
}

func TestBatchReaderPanics(t *testing.T) {
	w := newWorld(t)
	w.wrap = func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			r.Body = panickingBody{r.Body}
			h.ServeHTTP(rw, r)
		})
	}
	conn, r := openBatch(t, w.serve(t))
	_ = sendChunk(conn, hello+"\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = sendChunk(conn, "now")
	lines := batchLines(t, resp.Body)
	if len(lines) != 2 || lines[0].Status != "accepted" || lines[1].Error.Code != "unavailable" {
		t.Errorf("got %+v", lines)
	}
	if !strings.Contains(w.logged.String(), "boom") {
		t.Error("the panic is not in the log")
	}
}

func TestBatchLogPanics(t *testing.T) {
	w := newWorld(t)
	w.log.before = func([]*message.Message) { panic("boom") }
	conn, r := openBatch(t, w.serve(t))
	_ = sendChunk(conn, hello+"\n"+hello) // and goes on sending
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 503 || !resp.Close {
		t.Errorf("got %d, close %v", resp.StatusCode, resp.Close)
	}
}

// Memory for a batch does not grow with its length: the live heap while the last
// lines of a long batch are on their way is that of a short one.
func TestProperty19_BatchMemoryIsConstant(t *testing.T) {
	heapAt := func(lines, size int) uint64 {
		var seen, high atomic.Int64
		w := newWorld(t, func(c *Config) { c.Log = countingLog{&seen}; c.Logger = nil })
		addr := w.serve(t)
		line := `{"channel":"store","body":"` + strings.Repeat("x", size) + `"}` + "\n"
		out, in := io.Pipe()
		measured := make(chan struct{})
		go func() {
			defer close(measured)
			const atOnce = 100
			for i := atOnce; i <= lines; i += atOnce {
				if _, err := io.WriteString(in, strings.Repeat(line, atOnce)); err != nil {
					return
				}
				if i == lines/2 || i == lines { // in the middle, and at the end
					runtime.GC()
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					high.Store(max(high.Load(), int64(m.HeapAlloc)))
				}
			}
			in.Close()
		}()
		resp := batchRequest(t, addr, out)
		n := 0
		for r := bufio.NewScanner(resp.Body); r.Scan(); n++ {
		}
		<-measured
		if n != lines || seen.Load() != int64(lines) {
			t.Fatalf("%d lines: %d answers, %d messages", lines, n, seen.Load())
		}
		return uint64(high.Load())
	}
	heapAt(1000, 100)         // pools and buffers
	const allowance = 6 << 20 // two queues' worth, and what the rest of the process does
	for size, lines := range map[int]int{30: 200_000, 2000: 20_000} {
		short, long := heapAt(1000, size), heapAt(lines, size)
		t.Logf("bodies of %d bytes: %d KiB live in a batch of 1,000, %d KiB in a long one", size, short>>10, long>>10)
		if long > short+allowance {
			t.Errorf("bodies of %d bytes: %d bytes live in a long batch, %d in a short one", size, long, short)
		}
	}
}

// countingLog takes everything and keeps nothing.
type countingLog struct{ n *atomic.Int64 }

func (l countingLog) Append(context.Context, *message.Message) (Receipt, error) {
	n := l.n.Add(1)
	return Receipt{ID: message.NewID(uint64(time.Now().UnixMilli()), uint16(n), 7, message.Normal, uint64(n))}, nil
}

func (l countingLog) AppendBatch(ctx context.Context, ms []*message.Message, out []Receipt) error {
	for i, m := range ms {
		out[i], _ = l.Append(ctx, m)
	}
	return nil
}
