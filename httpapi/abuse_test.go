package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"forebay/wal/message"
)

// talk sends raw bytes and returns every answer until the server closes or is
// silent. The connection stays open for sending: the server must close it.
func talk(t *testing.T, addr string, parts ...string) (answers []*http.Response, bodies []string, closed bool) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, p := range parts {
		if _, err := io.WriteString(conn, p); err != nil {
			break // the server may have closed already
		}
	}
	r := bufio.NewReader(conn)
	_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	for {
		if _, err := r.Peek(1); err != nil {
			return answers, bodies, err == io.EOF
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("answer: %v", err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("body of the answer: %v", err)
		}
		answers, bodies = append(answers, resp), append(bodies, string(body))
	}
}

func post(body string, headers ...string) string {
	return "POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + goodKey + "\r\nContent-Type: application/json\r\n" +
		strings.Join(append(headers, fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body))), "") + body
}

const closing = "Connection: close\r\n"

func TestAbuse(t *testing.T) {
	smuggled := post(`{"channel":"store","body":"smuggled"}`, closing)
	chunkedHello := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(hello), hello)
	head := "POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + goodKey + "\r\nContent-Type: application/json\r\n"
	tests := []struct {
		name   string
		send   []string
		status []int
	}{
		{"both lengths", []string{head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + chunkedHello + smuggled}, []int{400}},
		{"both lengths, split", []string{head + "Content-Length: 5\r\nTransfer-Enc", "oding: chu", "nked\r\n\r\n" + chunkedHello + smuggled}, []int{400}},
		{"both lengths behind a good request", []string{post(hello) + head + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + chunkedHello + smuggled}, []int{202, 400}},
		{"two lengths", []string{head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + hello + smuggled}, []int{400}},
		{"encoding in 1.0", []string{strings.Replace(head, "1.1", "1.0", 1) + "Transfer-Encoding: chunked\r\n\r\n" + chunkedHello}, []int{400}},
		{"unknown encoding", []string{head + "Transfer-Encoding: gzip\r\n\r\n" + hello}, []int{400}},
		{"bare LF", []string{strings.ReplaceAll(post(hello), "\r\n", "\n")}, []int{400}},
		{"folded header", []string{"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n"}, []int{400}},
		{"space before the colon", []string{head + "Content-Length : 5\r\n\r\n" + hello + smuggled}, []int{400}},
		{"header bomb", []string{"GET /healthz HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 40) + "\r\n"}, []int{431}},
		{"long line", []string{"GET /" + strings.Repeat("y", 40<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n"}, []int{431}},
		{"garbage", []string{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"}, []int{400}},
		{"garbage word", []string{"SSH-2.0-OpenSSH_9.2\r\n\r\n"}, []int{400}},
		{"no host", []string{"GET /healthz HTTP/1.1\r\n\r\n"}, []int{400}},
		{"two hosts", []string{"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"}, []int{400}},
		{"NUL in a header", []string{"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\x00\r\n\r\n"}, []int{400}},
		{"NUL in the path", []string{"GET /v1/messages/%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer " + goodKey + "\r\n\r\n"}, []int{404}},
		{"raw NUL in the path", []string{"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n"}, []int{400}},
		{"dots in the path", []string{"GET /v1/../healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"}, []int{404}},
		{"absolute form", []string{"GET http://evil.example/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"}, []int{200}},
		{"asterisk", []string{"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"}, []int{204}},
		{"connect", []string{"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"}, []int{404}},
		{"trace", []string{"TRACE /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"}, []int{405}},
		{"HTTP/1.0", []string{"GET /healthz HTTP/1.0\r\n\r\n"}, []int{200}},
		{"HTTP/0.9", []string{"GET /healthz\r\n\r\n"}, []int{400}},
		{"HTTP/2 by guess", []string{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}, []int{405}},
		{"HTTP/3", []string{"GET / HTTP/3.0\r\nHost: x\r\n\r\n"}, []int{400}},
		{"pipelined", []string{post(hello) + post(hello) + post(hello, closing)}, []int{202, 202, 202}},
		{"chunked, then another", []string{head + "Transfer-Encoding: chunked\r\n\r\n" + chunkedHello + post(hello, closing)}, []int{202, 202}},
		{"chunks broken", []string{head + "Transfer-Encoding: chunked\r\n\r\nfff\n" + smuggled}, []int{400}},
		{"announced and too large", []string{head + "Content-Length: 99999999\r\n\r\n"}, []int{413}},
		{"chunked and too large", []string{head + "Transfer-Encoding: chunked\r\n\r\n4000\r\n" + strings.Repeat("x", 0x4000)}, []int{413}},
		{"expects to continue", []string{post("", "Expect: 100-continue\r\n", "X: y\r\n", closing)}, []int{400}},
		{"expects something else", []string{post(hello, "Expect: beer\r\n")}, []int{400}},
		{"slow head", []string{"GET /healthz HTTP/1.1\r\nHo"}, []int{408}},
		{"slow body", []string{strings.TrimSuffix(post(hello), "}")}, []int{408}},
		{"slow chunks", []string{head + "Transfer-Encoding: chunked\r\n\r\n5\r\nab"}, []int{408}},
		{"silence", nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(c *Config) {
				c.ReadTimeout = 300 * time.Millisecond
				c.IdleTimeout = 300 * time.Millisecond
			})
			answers, bodies, closed := talk(t, w.serve(t), tt.send...)
			var got []int
			for i, a := range answers {
				got = append(got, a.StatusCode)
				if a.StatusCode >= 400 && a.StatusCode != 417 {
					var p struct{ Code string }
					if err := json.Unmarshal([]byte(bodies[i]), &p); err != nil || a.Header.Get("Content-Type") != typeProblem || p.Code == "" {
						t.Errorf("%d is no problem: %v %s", a.StatusCode, a.Header, bodies[i])
					}
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(tt.status) {
				t.Errorf("got %v, want %v; bodies %q", got, tt.status, bodies)
			}
			if !closed {
				t.Error("the server left the connection open")
			}
			for _, r := range w.log.all() {
				if r.Body == "smuggled" {
					t.Error("the smuggled message was accepted")
				}
			}
		})
	}
}

// The client of a request that is being answered is there, whatever it sends
// behind it.
func TestBadRequestBehindOneInFlight(t *testing.T) {
	w := newWorld(t)
	entered, release := make(chan struct{}), make(chan struct{})
	w.messages.wait = nil
	w.log.before = nil
	addr := w.serve(t)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w.messages.wait = waitFor(entered, release)
	fmt.Fprint(conn, post(hello, "Prefer: wait=20\r\n")+"GET / HTTP/1.1\nbad\n\n")
	<-entered
	close(release)
	r := bufio.NewReader(conn)
	for _, want := range []int{201, 400} {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != want {
			t.Errorf("got %d, want %d", resp.StatusCode, want)
		}
	}
}

// watched reports whether a goroutine waits for what a connection does while its
// request is answered.
func watched() bool {
	stacks := make([]byte, 1<<20)
	for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		head, _, _ := strings.Cut(stack, "\n")
		if strings.Contains(head, "[IO wait") && strings.Contains(stack, ".RawRead(") && strings.Contains(stack, "(*guard).read(") {
			return true
		}
	}
	return false
}

// TestAClientThatGoesIsNoticed: nobody waits on behalf of a client that has gone,
// and what it sent behind its request is not lost if it stays.
func TestAClientThatGoesIsNoticed(t *testing.T) {
	for _, stays := range []bool{false, true} {
		t.Run(fmt.Sprint("stays=", stays), func(t *testing.T) {
			w := newWorld(t)
			entered, gone := make(chan struct{}), make(chan error, 2)
			w.messages.wait = func(ctx context.Context, _ message.ID) (message.State, error) {
				if _, timed := ctx.Deadline(); !timed {
					t.Error("waits without end")
				}
				entered <- struct{}{}
				<-ctx.Done()
				gone <- context.Cause(ctx)
				return message.State{}, ctx.Err()
			}
			conn, err := net.Dial("tcp", w.serve(t))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			wait := "Prefer: wait=20\r\n"
			if stays {
				wait = "Prefer: wait=1\r\n"
			}
			fmt.Fprint(conn, post(hello, wait))
			<-entered
			if !stays {
				// Who goes before the watch begins is noticed with the answer only.
				eventually(t, "the connection is watched", watched)
				start := time.Now()
				conn.Close()
				if err := <-gone; time.Since(start) > 15*time.Second {
					t.Errorf("noticed only by %v", err)
				}
				return
			}
			fmt.Fprint(conn, "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n") // while the first is answered
			r := bufio.NewReader(conn)
			for _, want := range []int{202, 404} {
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				if resp.StatusCode != want {
					t.Errorf("got %d, want %d", resp.StatusCode, want)
				}
			}
		})
	}
}

// TestWireProblemsAreWhole: what is refused before any route has all that another
// refusal has, also a name by which it can be asked about.
func TestWireProblemsAreWhole(t *testing.T) {
	addr := newWorld(t).serve(t)
	for name, test := range map[string]struct {
		request string
		code    Code
	}{
		"framing":        {post(hello, "Transfer-Encoding: chunked\r\n"), CodeMalformed},
		"no HTTP":        {"hello\r\n\r\n", CodeMalformed},
		"expectation":    {post(hello, "Expect: 200-ok\r\n"), CodeMalformed},
		"too many heads": {"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", CodeHeadersTooLarge},
	} {
		answers, bodies, closed := talk(t, addr, test.request)
		if len(answers) != 1 || !closed {
			t.Errorf("%s: got %d answers, closed %v", name, len(answers), closed)
			continue
		}
		var p struct{ Type, Title, Detail, Instance, Code string }
		if err := json.Unmarshal([]byte(bodies[0]), &p); err != nil {
			t.Errorf("%s: %v in %s", name, err, bodies[0])
		}
		h := answers[0].Header
		if p.Code != string(test.code) || p.Type != "/problems/"+p.Code || p.Title == "" || p.Detail == "" || p.Instance == "" || h.Get("X-Request-Id") != p.Instance {
			t.Errorf("%s: got %s with %v", name, bodies[0], h)
		}
		if _, err := http.ParseTime(h.Get("Date")); err != nil {
			t.Errorf("%s: got Date %q: %v", name, h.Get("Date"), err)
		}
	}
}
