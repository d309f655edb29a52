package webhook

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"code.dny.dev/ssrf"
)

// errForbidden: the address is one that the appliance does not connect to.
var errForbidden = errors.New("address is not public")

// guard decides what may be dialled. Its Control runs after name resolution,
// just before each connect, with the very address of that connect: what a name
// resolves to at another moment does not matter.
type guard struct {
	public *ssrf.Guardian
	allow  []netip.Prefix
	ports  map[uint16]bool // below 1024; others are open
}

// newGuard allows public addresses, and those in allow on any port. Of the
// privileged ports only those of HTTP are open: nothing else there expects a
// POST, and some (mail, DNS) would take one for their own.
func newGuard(allow []netip.Prefix, allowHTTP bool) *guard {
	g := &guard{public: ssrf.New(ssrf.WithAnyPort()), ports: map[uint16]bool{443: true, 80: allowHTTP}}
	for _, p := range allow {
		g.allow = append(g.allow, p.Masked())
	}
	return g
}

// Control implements the hook of net.Dialer.
func (g *guard) Control(network, address string, _ syscall.RawConn) error {
	if network != "tcp4" && network != "tcp6" {
		return fmt.Errorf("%w: network %s", errForbidden, network)
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %w", errForbidden, err)
	}
	return g.check(to)
}

func (g *guard) check(to netip.AddrPort) error {
	// An IPv4 address in IPv6 clothes is the IPv4 address, and a zone only
	// names a link: neither makes another destination of it.
	addr := to.Addr().Unmap().WithZone("")
	for _, p := range g.allow {
		if p.Contains(addr) {
			return nil
		}
	}
	if err := g.public.SafeAddr(addr); err != nil {
		return fmt.Errorf("%w: %w", errForbidden, err)
	}
	if to.Port() < 1024 && !g.ports[to.Port()] {
		return fmt.Errorf("%w: port %d", errForbidden, to.Port())
	}
	return nil
}
