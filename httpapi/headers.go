package httpapi

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	typeJSON    = "application/json"
	typeNDJSON  = "application/x-ndjson"
	typeProblem = "application/problem+json"

	unauthenticatedDetail = "Send a valid API key as Authorization: Bearer KEY."

	maxRequestIDLength      = 128
	maxIdempotencyKeyLength = 255
)

// The keys of the headers read on every request, in canonical form: indexing
// the map spares the canonicalization of Header.Get.
const (
	headerAuthorization  = "Authorization"
	headerContentType    = "Content-Type"
	headerAccept         = "Accept"
	headerPrefer         = "Prefer"
	headerTraceParent    = "Traceparent"
	headerRequestID      = "X-Request-Id"
	headerIdempotencyKey = "Idempotency-Key"
)

func first(h http.Header, key string) string {
	if v := h[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// bearer returns the key of the Authorization header, empty if there is none.
func bearer(h http.Header) string {
	v := first(h, headerAuthorization)
	const scheme = "Bearer "
	if len(v) <= len(scheme) || !strings.EqualFold(v[:len(scheme)], scheme) {
		return ""
	}
	return strings.TrimLeft(v[len(scheme):], " ")
}

// requestID takes the client's X-Request-Id if it is 1 to 128 visible ASCII
// characters, and makes one otherwise.
func requestID(h http.Header) string {
	if id := first(h, headerRequestID); id != "" && len(id) <= maxRequestIDLength && visibleASCII(id) {
		return id
	}
	return newRequestID()
}

func newRequestID() string {
	var raw [8]byte
	var text [16]byte
	binary.BigEndian.PutUint64(raw[:], rand.Uint64())
	hex.Encode(text[:], raw[:])
	return string(text[:])
}

func visibleASCII(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// idempotencyKey reads the Idempotency-Key header: 1 to 255 printable ASCII
// characters, bare or as the quoted string of RFC 8941 §3.3.3, which name the
// same key. An empty key without a problem: the header is missing.
func idempotencyKey(h http.Header) (string, *Problem) {
	values := h[headerIdempotencyKey]
	if len(values) == 0 {
		return "", nil
	}
	if len(values) > 1 {
		return "", malformed("Send one Idempotency-Key.")
	}
	key, ok := values[0], true
	if strings.HasPrefix(key, `"`) {
		key, ok = unquoteSF(key)
	}
	if !ok || key == "" || len(key) > maxIdempotencyKeyLength {
		return "", malformed("An Idempotency-Key is 1 to 255 printable ASCII characters, bare or quoted.")
	}
	for i := range len(key) {
		if key[i] < ' ' || key[i] >= 0x7f {
			return "", malformed("An Idempotency-Key is 1 to 255 printable ASCII characters, bare or quoted.")
		}
	}
	return key, nil
}

// unquoteSF reads a string of structured fields, RFC 8941 §4.2.5.
func unquoteSF(s string) (string, bool) {
	if len(s) < 2 || s[len(s)-1] != '"' {
		return "", false
	}
	inner := s[1 : len(s)-1]
	if !strings.ContainsAny(inner, `"\`) {
		return inner, true
	}
	var b strings.Builder
	for i := 0; i < len(inner); i++ {
		c := inner[i]
		if c == '"' {
			return "", false
		}
		if c == '\\' {
			if i++; i == len(inner) || inner[i] != '"' && inner[i] != '\\' {
				return "", false
			}
			c = inner[i]
		}
		b.WriteByte(c)
	}
	return b.String(), true
}

// traceParent returns a W3C traceparent if it is valid, else nothing: a broken
// one is ignored (Trace Context §3.2.2.2). Of versions above 00 only the part
// that 00 defines is kept.
func traceParent(h http.Header) string {
	v := first(h, headerTraceParent)
	const length = 55 // 2-32-16-2
	if len(v) < length || v[2] != '-' || v[35] != '-' || v[52] != '-' || v[:2] == "ff" {
		return ""
	}
	if len(v) > length && (v[:2] == "00" || v[length] != '-') {
		return ""
	}
	v = v[:length]
	if !lowerHex(v[:2]) || !lowerHex(v[3:35]) || !lowerHex(v[36:52]) || !lowerHex(v[53:]) ||
		strings.Trim(v[3:35], "0") == "" || strings.Trim(v[36:52], "0") == "" {
		return ""
	}
	return v
}

func lowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// preferredWait reads Prefer: wait=N (RFC 7240 §4.3), bounded by maxWait.
// Preferences that are unknown or broken are ignored, as that RFC asks.
func preferredWait(h http.Header) time.Duration {
	values := h[headerPrefer]
	if len(values) == 0 {
		return 0
	}
	for _, value := range values {
		for value != "" {
			var pref string
			pref, value = cutUnquoted(value, ',')
			pref, _ = cutUnquoted(pref, ';')
			name, arg, _ := strings.Cut(pref, "=")
			if !strings.EqualFold(strings.TrimSpace(name), "wait") {
				continue
			}
			n, err := strconv.ParseUint(strings.Trim(strings.TrimSpace(arg), `"`), 10, 64)
			if err != nil && !errors.Is(err, strconv.ErrRange) {
				return 0
			}
			return time.Duration(min(n, uint64(maxWait/time.Second))) * time.Second // the first one counts
		}
	}
	return 0
}

// cutUnquoted cuts s at the first separator that is in no quoted string (RFC 9110
// §5.6.4).
func cutUnquoted(s string, separator byte) (before, after string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == separator && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// checkContentType refuses a body that is not of the wanted type, in UTF-8 and
// unencoded.
func checkContentType(h http.Header, want string) *Problem {
	v := first(h, headerContentType)
	if v != want {
		mediaType, params, _ := strings.Cut(v, ";")
		if !strings.EqualFold(strings.TrimSpace(mediaType), want) || !utf8Charset(params) {
			return &Problem{Code: CodeUnsupportedMediaType, Detail: "Send Content-Type: " + want + "."}
		}
	}
	if enc := first(h, "Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return &Problem{Code: CodeUnsupportedMediaType, Detail: "Send the body without Content-Encoding."}
	}
	return nil
}

func utf8Charset(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(p, "=")
		if strings.EqualFold(strings.TrimSpace(name), "charset") &&
			!strings.EqualFold(strings.Trim(strings.TrimSpace(value), `"`), "utf-8") {
			return false
		}
	}
	return true
}

// checkAccept refuses a client that excludes the type of the answer.
func checkAccept(h http.Header, offer string) *Problem {
	values := h[headerAccept]
	if len(values) == 0 || len(values) == 1 && (values[0] == "*/*" || values[0] == offer || values[0] == "") {
		return nil
	}
	if _, ok := accepts(values, offer); !ok {
		return &Problem{Code: CodeNotAcceptable, Detail: "The answer is " + offer + "."}
	}
	return nil
}

// The ranges of types that a client may name, from the least specific.
const (
	rangeAll = iota + 1
	rangeFamily
	rangeType
)

// accepts applies RFC 9110 §12.5.1: the most specific range decides. It is returned;
// 0: there is none.
func accepts(values []string, offer string) (best int, allowed bool) {
	family, _, _ := strings.Cut(offer, "/")
	for _, value := range values {
		for r := range strings.SplitSeq(value, ",") {
			mediaType, params, _ := strings.Cut(r, ";")
			mediaType = strings.ToLower(strings.TrimSpace(mediaType))
			rank := 0
			switch mediaType {
			case offer:
				rank = rangeType
			case family + "/*":
				rank = rangeFamily
			case "*/*":
				rank = rangeAll
			}
			if rank > best {
				best, allowed = rank, !zeroQuality(params)
			}
		}
	}
	return best, allowed
}

func zeroQuality(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(p, "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return err == nil && q == 0
		}
	}
	return false
}
