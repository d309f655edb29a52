package loadtest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// readBuffer bounds a line of an answer's head. The whole of a typical answer
// fits into it.
const readBuffer = 1024

var errMalformed = errors.New("malformed answer")

// answer is what is kept of an HTTP response.
type answer struct {
	code  int
	id    [36]byte // of the accepted message, zero if there is none
	close bool     // the connection ends here
}

// readAnswer reads one response and leaves r behind it (RFC 9112 §6). The id is
// looked for in the first bytes of the body only if wanted.
func readAnswer(r *bufio.Reader, wantID bool) (answer, error) {
	for {
		a, length, err := readHead(r)
		if err != nil {
			return a, err
		}
		if a.code < 200 {
			continue // 100 Continue, 103 Early Hints
		}
		switch {
		case a.code == 204 || a.code == 304:
		case length == chunked:
			err = a.readChunks(r, wantID)
		case length == untilClose:
			a.close = true
			_, err = io.Copy(io.Discard, r)
		default:
			err = a.readBody(r, length, wantID)
		}
		return a, err
	}
}

const (
	chunked    = -1
	untilClose = -2
)

func readHead(r *bufio.Reader) (a answer, length int, err error) {
	line, err := readLine(r)
	if err != nil {
		return a, 0, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) || line[8] != ' ' {
		return a, 0, errMalformed
	}
	a.close = line[7] == '0'
	if a.code, err = strconv.Atoi(string(line[9:12])); err != nil || a.code < 100 {
		return a, 0, errMalformed
	}
	length = untilClose
	for {
		if line, err = readLine(r); err != nil {
			return a, 0, unexpected(err)
		}
		if len(line) == 0 {
			return a, length, nil
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return a, 0, errMalformed
		}
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")) && length != chunked:
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 {
				return a, 0, errMalformed
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			if !bytes.EqualFold(value, []byte("chunked")) {
				return a, 0, errMalformed
			}
			length = chunked
		case bytes.EqualFold(name, []byte("Connection")):
			a.close = a.close || bytes.EqualFold(value, []byte("close"))
		}
	}
}

// readLine returns a line without its end; it is good until the next read.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("%w: a line over %d bytes", errMalformed, readBuffer)
	}
	if err != nil {
		if len(line) > 0 {
			err = unexpected(err)
		}
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readBody reads n bytes of body.
func (a *answer) readBody(r *bufio.Reader, n int, wantID bool) error {
	if wantID && n > 0 && a.id == ([36]byte{}) {
		head, err := r.Peek(min(n, readBuffer))
		if err != nil {
			return unexpected(err)
		}
		a.findID(head)
	}
	_, err := r.Discard(n)
	return unexpected(err)
}

func (a *answer) readChunks(r *bufio.Reader, wantID bool) error {
	for {
		line, err := readLine(r)
		if err != nil {
			return unexpected(err)
		}
		digits, _, _ := bytes.Cut(line, []byte(";"))
		n, err := strconv.ParseUint(string(bytes.TrimSpace(digits)), 16, 31)
		if err != nil {
			return errMalformed
		}
		if n == 0 {
			break
		}
		if err := a.readBody(r, int(n), wantID); err != nil {
			return err
		}
		if line, err := readLine(r); err != nil || len(line) != 0 {
			return errMalformed
		}
	}
	for { // trailers, and the empty line after them
		line, err := readLine(r)
		if err != nil || len(line) == 0 {
			return unexpected(err)
		}
	}
}

// findID takes the value of the first "id" out of a JSON object.
func (a *answer) findID(body []byte) {
	at := bytes.Index(body, []byte(`"id":`))
	if at < 0 {
		return
	}
	rest := bytes.TrimLeft(body[at+5:], " ")
	if len(rest) > 37 && rest[0] == '"' && rest[37] == '"' {
		copy(a.id[:], rest[1:37])
	}
}
