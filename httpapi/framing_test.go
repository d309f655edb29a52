package httpapi

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestFraming(t *testing.T) {
	const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	tests := []struct {
		name string
		in   string
		good bool
	}{
		{"get", get, true},
		{"two", get + get, true},
		{"empty line before", "\r\n" + get, true},
		{"length", "POST / HTTP/1.1\r\ncontent-LENGTH: 3\r\n\r\nabc" + get, true},
		{"zero length", "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n" + get, true},
		{"body may hold anything", "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\na\n b" + get, true},
		{"chunked", "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;a=b\r\na\nb\r\n0\r\nX: y\r\n\r\n" + get, true},
		{"other headers", "POST / HTTP/1.1\r\nContent-Type: a\r\nTE: trailers\r\nTransfer-Encodings: x\r\n\r\n", true},

		{"both", "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", false},
		{"both, the other way", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", false},
		{"two lengths", "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", false},
		{"list of lengths", "POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n", false},
		{"two encodings", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", false},
		{"other encoding", "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", false},
		{"encoding in 1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", false},
		{"signed length", "POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n", false},
		{"no length", "POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", false},
		{"huge length", "POST / HTTP/1.1\r\nContent-Length: 9999999999999999999\r\n\r\n", false},
		{"bare LF in the request line", "GET / HTTP/1.1\nHost: x\r\n\r\n", false},
		{"bare LF in a header", "GET / HTTP/1.1\r\nHost: x\n\r\n", false},
		{"bare LF at the end", "GET / HTTP/1.1\r\nHost: x\r\n\n", false},
		{"folded", "GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n", false},
		{"CR in the request line", "\r\r\r\nPOST / HTTP/1.0\r\n", false},
		{"chunk size", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n", false},
		{"chunk size with a space", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n", false},
		{"chunk end", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n", false},
		{"bare LF behind a chunk size", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n", false},
	}
	for _, tt := range tests {
		for _, step := range []int{1, 2, 7, len(tt.in)} {
			var f framing
			good := true
			for in := []byte(tt.in); len(in) > 0 && good; {
				n := min(step, len(in))
				good = f.scan(in[:n]) == n
				in = in[n:]
			}
			if good != tt.good {
				t.Errorf("%s, %d bytes at a time: in order %v, want %v", tt.name, step, good, tt.good)
			}
		}
	}
}

// What framing accepts, net/http reads as the same requests: the two end every
// request at the same byte.
func FuzzFraming(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 3\r\n\r\nabcGET / HTTP/1.0\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		checkAgreement(t, in)
	})
}

type fataler interface {
	Fatalf(format string, args ...any)
}

func checkAgreement(t fataler, in []byte) {
	r := bufio.NewReader(bytes.NewReader(in))
	var f framing
	for at := 0; ; {
		req, err := http.ReadRequest(r)
		if err != nil || req.ProtoMajor != 1 {
			return // net/http closes the connection here
		}
		_, err = io.Copy(io.Discard, req.Body)
		if err != nil {
			return
		}
		end := len(in) - r.Buffered() - remaining(in, r)
		if n := f.scan(in[at:end]); n < end-at {
			return // refused: net/http sees no more either
		}
		if f.state != inRequestLine || f.partial != nil {
			t.Fatalf("net/http ends a request at byte %d of %q, framing is in state %d", end, in, f.state)
		}
		at = end
	}
}

// remaining is what the bytes.Reader below r still holds: bufio reads 4 KiB
// ahead, and the inputs here are shorter.
func remaining(in []byte, r *bufio.Reader) int {
	if len(in) <= r.Size() {
		return 0
	}
	peeked, _ := r.Peek(r.Buffered())
	return len(in) - (bytes.LastIndex(in, peeked) + len(peeked))
}

func TestFramingAgreesWithNetHTTP(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in strings.Builder
		for range rapid.IntRange(1, 4).Draw(t, "requests") {
			body := rapid.StringMatching(`[ -~\r\n]{0,20}`).Draw(t, "body")
			version := rapid.SampledFrom([]string{"1.1", "1.1", "1.1", "1.0"}).Draw(t, "version")
			fmt.Fprintf(&in, "%sPOST / HTTP/%s\r\nHost: x\r\n", rapid.SampledFrom([]string{"", "", "\r\n", "\r\r\n"}).Draw(t, "before"), version)
			for range rapid.IntRange(0, 2).Draw(t, "headers") {
				in.WriteString(rapid.SampledFrom([]string{"A: b\r\n", "Content-Length: %[1]d\r\n", "Transfer-Encoding: chunked\r\n",
					"content-length:%[1]d\r\n", " folded\r\n", "Content-Length: %[1]d\n", "Content-Length\t: %[1]d\r\n", "Transfer-Encoding: chunked\t\r\n"}).Draw(t, "header"))
			}
			head := in.String()
			in.Reset()
			in.WriteString(strings.ReplaceAll(head, "%[1]d", fmt.Sprint(len(body))))
			in.WriteString("\r\n")
			if strings.Contains(strings.ToLower(head[strings.LastIndex(head, "POST"):]), "chunked") {
				fmt.Fprintf(&in, "%x\r\n%s\r\n0\r\n\r\n", len(body), body)
			} else {
				in.WriteString(body)
			}
		}
		checkAgreement(t, []byte(in.String()))
	})
}

func BenchmarkFraming(b *testing.B) {
	body := `{"channel":"store","body":"` + strings.Repeat("x", 400) + `"}`
	in := fmt.Appendf(nil, "POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: %d\r\n"+
		"Authorization: Bearer fb_0123456789abcdef0123456789abcdef\r\nContent-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n%s", len(body), body)
	var f framing
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if f.scan(in) != len(in) {
			b.Fatal("refused")
		}
	}
}
