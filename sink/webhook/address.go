package webhook

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// maxURL bounds an address, in bytes.
const maxURL = 2048

// parseAddress checks the shape of an address that messages may be posted to;
// where it leads is decided when it is dialled. problem says in a client's words
// what is wrong; empty: nothing.
func parseAddress(text string, allowHTTP bool) (u *url.URL, problem string) {
	if len(text) > maxURL {
		return nil, "The address is longer than 2048 bytes."
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "":
		return nil, "The address is not a URL with a host."
	case u.Scheme != "https" && (u.Scheme != "http" || !allowHTTP):
		return nil, "The address must be an https URL."
	case u.User != nil:
		return nil, "The address must not hold a user name or password."
	case strings.ContainsAny(u.Host, " \t\r\n\\"), canonicalHost(u.Hostname()) == "":
		return nil, "The address is not a URL with a host."
	case u.Port() != "" && canonicalPort(u.Port()) == "":
		return nil, "The address has no port that there is."
	}
	u.Fragment, u.RawFragment = "", ""
	return u, ""
}

// hostOf is what an address's breaker and its caps are named after: host and port in
// the one way of writing them, so that nobody has one host under many names. u is of
// parseAddress.
func hostOf(u *url.URL) string {
	port := canonicalPort(u.Port())
	if port == "" {
		port = "443"
		if u.Scheme == "http" {
			port = "80"
		}
	}
	return net.JoinHostPort(canonicalHost(u.Hostname()), port)
}

// canonicalHost is an IP address as it is dialled, or a name in ASCII and lower case,
// without the dot of the root; empty: it is none.
func canonicalHost(host string) string {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().WithZone("").String()
	}
	if isASCII(host) { // and whatever a resolver may know, with a _ in it, too
		return strings.TrimSuffix(strings.ToLower(host), ".")
	}
	name, err := idna.Lookup.ToASCII(host)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(strings.ToLower(name), ".")
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

// canonicalPort is a port without leading zeros; empty: there is none of that number.
func canonicalPort(port string) string {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}
