package webhook

import (
	"net/url"
	"strings"
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
	case strings.ContainsAny(u.Host, " \t\r\n\\"):
		return nil, "The address is not a URL with a host."
	}
	u.Fragment, u.RawFragment = "", ""
	return u, ""
}

// hostOf is what an address's breaker and its caps are named after: host and
// port, in lower case, the port always written.
func hostOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
		if u.Scheme == "http" {
			port = "80"
		}
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + port
}
