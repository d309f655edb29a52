package email

import (
	"net/mail"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// The limits of RFC 5321 §4.5.3.1, in octets.
const (
	maxLocal  = 64
	maxDomain = 255
	maxPath   = 254 // a path is 256 with its angle brackets
	maxLabel  = 63
)

// parseAddress returns an address as it goes over the wire, its domain in ASCII
// (RFC 5890), and whether the part before the @ is not: then the relay must know
// SMTPUTF8 (RFC 6531).
func parseAddress(text string) (address string, utf8Local, ok bool) {
	at := strings.LastIndexByte(text, '@')
	if at < 1 || !utf8.ValidString(text) {
		return "", false, false
	}
	local, domain := text[:at], text[at+1:]
	if len(local) > maxLocal || !isDotAtom(local) {
		return "", false, false
	}
	domain, err := idna.Lookup.ToASCII(domain)
	if err != nil || !isDomain(domain) || len(local)+1+len(domain) > maxPath {
		return "", false, false
	}
	return local + "@" + domain, !isASCII(local), true
}

// isDotAtom is dot-atom-text of RFC 5322 §3.2.3 with the UTF-8 of RFC 6532.
// Quoted local parts are left out: hardly anyone has one, and many forgeries do.
func isDotAtom(s string) bool {
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" {
			return false
		}
		for _, r := range atom {
			switch {
			case r >= 0x80 && r != utf8.RuneError && r >= 0xa0: // not the C1 controls
			case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			case strings.ContainsRune("!#$%&'*+-/=?^_`{|}~", r):
			default:
				return false
			}
		}
	}
	return true
}

// isDomain is a host name of two labels or more (RFC 5321 §2.3.5), no literal.
func isDomain(s string) bool {
	labels := strings.Split(s, ".")
	if len(s) > maxDomain || len(labels) < 2 {
		return false
	}
	for _, label := range labels {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != "" // no top-level domain is a number: not an IPv4 address
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// parseFrom reads a sender as it stands in the configuration: an address, with or
// without a name.
func parseFrom(text string) (*mail.Address, bool) {
	from, err := mail.ParseAddress(text)
	if err != nil {
		return nil, false
	}
	if from.Address, _, _ = parseAddress(from.Address); from.Address == "" {
		return nil, false
	}
	return from, true
}
