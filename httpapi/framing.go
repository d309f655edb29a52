package httpapi

import "bytes"

// framing follows the bytes of an HTTP/1 connection closely enough to know where
// each request's head is, and refuses heads on whose end two readers could
// disagree (RFC 9112 §6, §11.2): with both Content-Length and Transfer-Encoding,
// with several of either, with lines that end in a bare LF or are folded.
//
// net/http accepts some of these and keeps the connection. What is accepted here
// is a strict subset of what net/http accepts, with the same meaning, so that
// the two cannot lose step with each other. A body with a length costs nothing;
// a head costs a search for each line's end.
type framing struct {
	state   framingState
	remain  int64  // of the body or the chunk
	partial []byte // a line whose end has not come; net/http's own limits bound it
	length  int64  // of Content-Length in this head; -1: none
	chunked bool   // by Transfer-Encoding in this head
	old     bool   // the version is not 1.1: net/http then ignores Transfer-Encoding
}

type framingState uint8

const (
	inRequestLine framingState = iota // between requests, too
	inHeader
	inBody
	inChunkSize
	inChunk
	inChunkEnd
	inTrailer
)

// midHead reports whether a head has begun and not ended.
func (f *framing) midHead() bool {
	return f.state == inHeader || f.state == inRequestLine && len(f.partial) > 0
}

// inHead reports whether the next byte belongs to a head.
func (f *framing) inHead() bool { return f.state <= inHeader }

// scan follows b and returns how much of it is in order: all of it, or what
// stands before a line that is refused (of which an earlier part may have been
// in order and gone by). It must not be called again after a refusal.
func (f *framing) scan(b []byte) int {
	for i := 0; i < len(b); {
		if f.state == inBody || f.state == inChunk {
			n := min(f.remain, int64(len(b)-i))
			i += int(n)
			if f.remain -= n; f.remain > 0 {
				continue
			}
			if f.state == inBody {
				f.state = inRequestLine
			} else {
				f.state = inChunkEnd
			}
			continue
		}
		end := bytes.IndexByte(b[i:], '\n')
		if end < 0 {
			f.partial = append(f.partial, b[i:]...)
			break
		}
		line := b[i : i+end]
		if f.partial != nil {
			line = append(f.partial, line...)
			f.partial = nil
		}
		if len(line) == 0 || line[len(line)-1] != '\r' || !f.line(line[:len(line)-1]) {
			return i
		}
		i += end + 1
	}
	return len(b)
}

// line takes one line without its CRLF. It reports false to refuse it.
func (f *framing) line(l []byte) bool {
	switch f.state {
	case inRequestLine:
		if bytes.IndexByte(l, '\r') >= 0 {
			return false // net/http skips some of these, and then sees another request line
		}
		if len(l) > 0 { // net/http skips empty lines here, or refuses them itself
			f.state, f.length, f.chunked = inHeader, -1, false
			f.old = !bytes.HasSuffix(l, []byte("HTTP/1.1"))
		}
	case inHeader:
		return f.header(l)
	case inChunkSize:
		return f.chunkSize(l)
	case inChunkEnd:
		f.state = inChunkSize
		return len(l) == 0
	case inTrailer:
		if len(l) == 0 {
			f.state = inRequestLine
		}
	}
	return true
}

const (
	contentLength    = "content-length"
	transferEncoding = "transfer-encoding"
)

func (f *framing) header(l []byte) bool {
	if len(l) == 0 {
		switch {
		case f.chunked:
			f.state = inChunkSize
		case f.length > 0:
			f.state, f.remain = inBody, f.length
		default:
			f.state = inRequestLine
		}
		return true
	}
	switch l[0] {
	case ' ', '\t': // folded
		return false
	case 'c', 'C':
		if hasName(l, contentLength) {
			return f.contentLength(bytes.Trim(l[len(contentLength)+1:], " \t"))
		}
	case 't', 'T':
		if hasName(l, transferEncoding) {
			value := bytes.Trim(l[len(transferEncoding)+1:], " \t")
			if f.chunked || f.length >= 0 || f.old || !bytes.EqualFold(value, []byte("chunked")) {
				return false
			}
			f.chunked = true
		}
	}
	return true
}

func hasName(l []byte, name string) bool {
	return len(l) > len(name) && l[len(name)] == ':' && bytes.EqualFold(l[:len(name)], []byte(name))
}

func (f *framing) contentLength(value []byte) bool {
	const maxDigits = 18 // fits into int64
	if f.length >= 0 || f.chunked || len(value) == 0 || len(value) > maxDigits {
		return false
	}
	f.length = 0
	for _, c := range value {
		if c < '0' || c > '9' {
			return false
		}
		f.length = f.length*10 + int64(c-'0')
	}
	return true
}

// chunkSize takes the line before a chunk, RFC 9112 §7.1.
func (f *framing) chunkSize(l []byte) bool {
	const maxDigits = 15 // fits into int64
	if i := bytes.IndexByte(l, ';'); i >= 0 {
		if bytes.IndexByte(l[i:], '\r') >= 0 {
			return false
		}
		l = l[:i]
	}
	if len(l) == 0 || len(l) > maxDigits {
		return false
	}
	f.remain = 0
	for _, c := range l {
		digit := int64(-1)
		switch {
		case c >= '0' && c <= '9':
			digit = int64(c - '0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			digit = int64(c|0x20-'a') + 10
		}
		if digit < 0 {
			return false
		}
		f.remain = f.remain<<4 | digit
	}
	if f.state = inChunk; f.remain == 0 {
		f.state = inTrailer
	}
	return true
}
