// Package admin is the operator's side of the appliance: the JSON types of
// /admin/v1, a client for commands, and the handler behind the admin socket and
// the ops listener.
//
// # Who may call
//
// Over the admin socket the caller is who the kernel says (SO_PEERCRED); the
// file's mode 0660 decides who may connect at all. Over TCP a caller shows the
// admin token; where none is configured, /admin/v1 answers 403 there. If the
// ops listener is not on loopback, everything on it but /healthz and /readyz
// asks for the token; on loopback it does so of who calls it by a name that may be
// another site's (see host.go). Each change is logged with who made it.
package admin
