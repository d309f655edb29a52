package loadtest

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

const testID = "019ab3c4-5d6e-7f80-8001-2a3b4c5d6e7f"

func TestReadAnswer(t *testing.T) {
	body := `{"id":"` + testID + `","status":"accepted"}`
	for name, tc := range map[string]struct {
		text  string
		code  int
		id    bool
		close bool
	}{
		"length":         {"HTTP/1.1 202 Accepted\r\nContent-Length: 70\r\n\r\n" + body + strings.Repeat(" ", 70-len(body)), 202, true, false},
		"no reason":      {"HTTP/1.1 204 \r\n\r\n", 204, false, false},
		"case and space": {"HTTP/1.1 200 OK\r\ncontent-length:  2 \r\nCONNECTION: Close\r\n\r\nok", 200, false, true},
		"chunks":         {"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\n12345\r\n" + "46\r\n" + body + strings.Repeat(" ", 70-len(body)) + "\r\n0\r\nTrailer: x\r\n\r\n", 202, true, false},
		"continue":       {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n", 503, false, false},
		"until close":    {"HTTP/1.0 200 OK\r\n\r\nanything", 200, false, true},
		"large":          {"HTTP/1.1 400 x\r\nContent-Length: 5000\r\n\r\n" + strings.Repeat("x", 5000), 400, false, false},
		"no id":          {"HTTP/1.1 200 x\r\nContent-Length: 10\r\n\r\n" + `{"id":"x"}`, 200, false, false},
	} {
		for _, src := range []io.Reader{strings.NewReader(tc.text), iotest.OneByteReader(strings.NewReader(tc.text))} {
			r := bufio.NewReaderSize(src, readBuffer)
			a, err := readAnswer(r, true)
			if err != nil || a.code != tc.code || a.close != tc.close || (string(a.id[:]) == testID) != tc.id {
				t.Errorf("%s: got %d, id %q, close %v, %v", name, a.code, a.id, a.close, err)
			}
			if rest, _ := io.ReadAll(r); len(rest) != 0 {
				t.Errorf("%s: %q was left", name, rest)
			}
		}
	}
	for text, want := range map[string]error{
		"":                                   io.EOF,
		"HTTP/1.1 202":                       io.ErrUnexpectedEOF,
		"HTTP/1.1 202 x\r\n":                 io.ErrUnexpectedEOF,
		"SSH-2.0-OpenSSH_9.2\r\n":            errMalformed,
		"HTTP/1.1 20x x\r\n\r\n":             errMalformed,
		"HTTP/1.1 200 x\r\nno colon\r\n\r\n": errMalformed,
		"HTTP/1.1 200 x\r\nContent-Length: -2\r\n\r\n":                  errMalformed,
		"HTTP/1.1 200 x\r\nTransfer-Encoding: gzip\r\n\r\n":             errMalformed,
		"HTTP/1.1 200 x\r\nContent-Length: 5\r\n\r\nabc":                io.ErrUnexpectedEOF,
		"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n":    errMalformed,
		"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd": errMalformed,
		"HTTP/1.1 200 x\r\nX: " + strings.Repeat("x", 2000) + "\r\n":    errMalformed,
	} {
		if _, err := readAnswer(bufio.NewReaderSize(strings.NewReader(text), readBuffer), true); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", text, err, want)
		}
	}
}

// Whatever comes, the reader ends; and where net/http also reads an answer, the
// status is the same.
func FuzzReadAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nx"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := readAnswer(bufio.NewReaderSize(strings.NewReader(string(data)), readBuffer), true)
		if err != nil {
			return
		}
		resp, refErr := http.ReadResponse(bufio.NewReader(strings.NewReader(string(data))), nil)
		if refErr != nil {
			return
		}
		resp.Body.Close()
		if resp.StatusCode >= 200 && resp.StatusCode != a.code {
			t.Errorf("got %d, net/http says %d", a.code, resp.StatusCode)
		}
	})
}
