package httpapi

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/wal/message"
)

// TestBatchWholeLinesAreMessages: a stream that breaks off behind a whole line
// spoils that line not, though net/http takes its client for gone.
func TestBatchWholeLinesAreMessages(t *testing.T) {
	for name, breakOff := range map[string]func(net.Conn){
		"the client stops sending": func(c net.Conn) { _ = c.(*net.TCPConn).CloseWrite() },
		"the framing breaks": func(c net.Conn) {
			_, _ = io.WriteString(c, "zz\r\n")
			_ = c.(*net.TCPConn).CloseWrite()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			requests := make(chan context.Context, 1)
			w.wrap = func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					requests <- r.Context()
					h.ServeHTTP(rw, r)
				})
			}
			// The line goes into the log when net/http has noticed.
			w.log.before = func([]*message.Message) { <-(<-requests).Done() }
			conn, r := openBatch(t, w.serve(t))
			_ = sendChunk(conn, hello+"\n"+hello[:5])
			breakOff(conn)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			lines := batchLines(t, resp.Body)
			if len(lines) != 2 || lines[0].Status != "accepted" || lines[1].Error == nil || lines[1].Error.Code != string(CodeMalformed) {
				t.Errorf("got %+v", lines)
			}
			if n := len(w.log.all()); n != 1 {
				t.Errorf("%d messages in the log, want 1", n)
			}
		})
	}
}

// TestBatchLineLimit: a line may be as long as a message, whatever ends it, and not
// longer, wherever it stands.
func TestBatchLineLimit(t *testing.T) {
	const limit = 8 << 10
	line := func(n int) string {
		const head, tail = `{"channel":"store","body":"`, `"}`
		return head + strings.Repeat("x", n-len(head)-len(tail)) + tail
	}
	addr := newWorld(t, func(c *Config) { c.MaxBodyBytes = limit }).serve(t)
	for name, test := range map[string]struct{ body, want string }{
		"LF":              {line(limit) + "\n" + line(limit+1) + "\n" + hello, "accepted too_large accepted"},
		"CRLF":            {line(limit) + "\r\n" + line(limit+1) + "\r\n" + hello + "\r\n", "accepted too_large accepted"},
		"not ended":       {hello + "\n" + line(limit), "accepted accepted"},
		"not ended, over": {hello + "\n" + line(limit+1), "accepted too_large"},
		"far over":        {line(20*limit) + "\n" + hello + "\n" + line(20*limit), "too_large accepted too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, chunked := range []bool{false, true} {
				var body io.Reader = strings.NewReader(test.body)
				if chunked {
					body = bufio.NewReader(body) // of a length that the client does not know
				}
				var got []string
				for _, l := range batchLines(t, batchRequest(t, addr, body).Body) {
					if l.Error != nil {
						l.Status = l.Error.Code
					}
					got = append(got, l.Status)
				}
				if want := strings.Fields(test.want); !slices.Equal(got, want) {
					t.Errorf("chunked %v: got %v, want %v", chunked, got, want)
				}
			}
		})
	}
}

// TestBatchRefusedAtOnce: who has opened a stream and sends nothing yet hears at once
// that it is not let in.
func TestBatchRefusedAtOnce(t *testing.T) {
	addr := newWorld(t, func(c *Config) { c.Limiter, c.ReadTimeout = &places{limit: 0}, 30*time.Second }).serve(t)
	conn, r := openBatch(t, addr)
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("got %s", resp.Status)
	}
}
