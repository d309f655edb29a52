package admin

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// On loopback the ops listener tells everybody on this machine how the appliance
// does, and a browser on this machine runs pages of everybody. One of another site
// cannot read our answers, unless its site's name is made to stand for 127.0.0.1
// while the page is open (DNS rebinding): then, to the browser, we are that site.
// What gives such a request away is its Host, which is the site's name. So who
// calls the listener by a name that may be anybody's has to show the token, as
// from elsewhere.

// byOwnName serves local to requests that call the listener by an address or a
// name that no other site can have, and foreign to all others.
func (h *Handler) byOwnName(local, foreign http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.ownName(r.Host) {
			local.ServeHTTP(w, r)
			return
		}
		foreign.ServeHTTP(w, r)
	})
}

// ownName reports whether a Host is an address, which no name server hands out; a
// name that every browser takes for this machine (RFC 6761, section 6.3); or that
// of http.ops_listen. A request without one (HTTP/1.0) comes from no browser.
func (h *Handler) ownName(host string) bool {
	name := host
	if n, _, err := net.SplitHostPort(host); err == nil {
		name = n
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "" || name == "localhost" || strings.HasSuffix(name, ".localhost") || name == strings.ToLower(h.cfg.OpsName) {
		return true
	}
	_, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(name, "["), "]"))
	return err == nil
}

// foreignName wants the token of who calls by another name, and says why.
func (h *Handler) foreignName(r *http.Request) (string, error) {
	actor, err := h.tokenOnly(r)
	if p, ok := err.(*Problem); ok {
		return "", Refuse(p.Code, fmt.Sprintf("this listener is not called %q: call it by 127.0.0.1 or localhost, or show the admin token (http.admin_token_file)", r.Host))
	}
	return actor, err
}
