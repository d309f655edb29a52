package account

import (
	"cmp"
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"time"
)

// WebhookSecret is what an account's webhooks and callbacks are signed with
// (Standard Webhooks). It is not part of Account, which is shown, logged and
// answered with: whoever has it can forge what the account receives.
type WebhookSecret struct {
	Account   string    `json:"account"`
	Current   string    `json:"current"`           // whsec_…
	Previous  string    `json:"previous,omitzero"` // signs too, until PreviousUntil
	RotatedAt time.Time `json:"rotated_at"`        // when Current was made
	Until     time.Time `json:"until,omitzero"`    // of Previous
}

// RotationGrace is how long a secret that was replaced goes on signing beside
// the new one: time for the account to tell its receivers.
const RotationGrace = 24 * time.Hour

// WebhookSecretBytes is how many random bytes MintWebhookSecret needs; Standard
// Webhooks allows 24 to 64.
const WebhookSecretBytes = 32

const webhookSecretPrefix = "whsec_"

// MintWebhookSecret makes the text of a secret out of random bytes.
func MintWebhookSecret(random [WebhookSecretBytes]byte) string {
	return webhookSecretPrefix + base64.StdEncoding.EncodeToString(random[:])
}

// InForce returns the secrets that sign at a moment, the newest first.
func (s *WebhookSecret) InForce(now time.Time) []string {
	if s.Previous != "" && now.Before(s.Until) {
		return []string{s.Current, s.Previous}
	}
	return []string{s.Current}
}

// RotateWebhookSecret gives an account another secret; the one it had signs on
// for RotationGrace.
type RotateWebhookSecret struct {
	Account string    `json:"account"`
	Secret  string    `json:"secret"`
	First   bool      `json:"first,omitzero"` // only if the account has none yet
	At      time.Time `json:"at"`
}

// Endpoint is what is remembered of a webhook address of an account that fails
// or is switched off. The address itself is not kept: its path may be a secret.
type Endpoint struct {
	Account  string    `json:"account"`
	ID       string    `json:"id"`   // a digest of the address
	Host     string    `json:"host"` // and port
	Since    time.Time `json:"since"`
	Warned   int       `json:"warned,omitzero"`   // percent of the patience that somebody was told of
	Disabled time.Time `json:"disabled,omitzero"` // zero: it is not
	Reason   string    `json:"reason,omitzero"`
}

func (e *Endpoint) key() string { return e.Account + "/" + e.ID }

// MaxEndpoints bounds those that are remembered of one account.
const MaxEndpoints = 200

// KeepEndpoint remembers an endpoint as it is in the command. What other nodes
// found stays: a warning that was given and a switching off are not undone.
type KeepEndpoint struct {
	Endpoint Endpoint `json:"endpoint"`
}

// ForgetEndpoint forgets one: it works again, or shall be tried again.
type ForgetEndpoint struct {
	Account string `json:"account"`
	ID      string `json:"id"`
}

// Kind implements Command.
func (RotateWebhookSecret) Kind() Kind { return KindRotateWebhookSecret }

// Kind implements Command.
func (KeepEndpoint) Kind() Kind { return KindKeepEndpoint }

// Kind implements Command.
func (ForgetEndpoint) Kind() Kind { return KindForgetEndpoint }

// Validate implements Command.
func (c RotateWebhookSecret) Validate() *Error {
	var f fields
	text, ok := strings.CutPrefix(c.Secret, webhookSecretPrefix)
	if key, err := base64.StdEncoding.DecodeString(text); !ok || err != nil || len(key) < 24 || len(key) > 64 {
		f.add("secret", "must be whsec_ and 24 to 64 bytes in base64")
	}
	return f.err("the webhook secret")
}

// Validate implements Command.
func (c KeepEndpoint) Validate() *Error {
	var f fields
	e := c.Endpoint
	if e.ID == "" || len(e.ID) > MaxID {
		f.add("id", "must have 1 to %d characters", MaxID)
	}
	f.text("host", e.Host, 300)
	f.text("reason", e.Reason, MaxID)
	if e.Warned < 0 || e.Warned > 100 {
		f.add("warned", "must be 0 to 100")
	}
	return f.err("the endpoint")
}

// Validate implements Command.
func (c ForgetEndpoint) Validate() *Error { return nil }

func (c RotateWebhookSecret) apply(s *State) Result {
	a, ok := s.accounts[c.Account]
	if !ok {
		return refuse(CodeNotFound, "there is no account %s", c.Account)
	}
	have, known := s.secrets[c.Account]
	if known && (c.First || have.Current == c.Secret) {
		return Result{Account: a}
	}
	next := WebhookSecret{Account: c.Account, Current: c.Secret, RotatedAt: c.At}
	if known {
		next.Previous, next.Until = have.Current, c.At.Add(RotationGrace)
	}
	s.secrets[c.Account] = next
	return Result{Account: a}
}

func (c KeepEndpoint) apply(s *State) Result {
	e := c.Endpoint
	a, ok := s.accounts[e.Account]
	if !ok {
		return refuse(CodeNotFound, "there is no account %s", e.Account)
	}
	if have, known := s.endpoints[e.key()]; known {
		if have.Since.Before(e.Since) {
			e.Since = have.Since
		}
		e.Warned = max(e.Warned, have.Warned)
		if !have.Disabled.IsZero() {
			e.Disabled, e.Reason = have.Disabled, have.Reason
		}
	} else if len(s.Endpoints(e.Account)) >= MaxEndpoints {
		return refuse(CodeTooMany, "%d failing webhook addresses of account %s are remembered already", MaxEndpoints, e.Account)
	}
	s.endpoints[e.key()] = e
	return Result{Account: a}
}

func (c ForgetEndpoint) apply(s *State) Result {
	e := Endpoint{Account: c.Account, ID: c.ID}
	if _, ok := s.endpoints[e.key()]; !ok {
		return refuse(CodeNotFound, "account %s has no failing webhook address %s", c.Account, c.ID)
	}
	delete(s.endpoints, e.key())
	return Result{Account: s.accounts[c.Account]}
}

// forgetWebhooks forgets what belongs to an account that goes.
func (s *State) forgetWebhooks(account string) {
	delete(s.secrets, account)
	maps.DeleteFunc(s.endpoints, func(_ string, e Endpoint) bool { return e.Account == account })
}

// WebhookSecret returns an account's secret and whether it has one.
func (s *State) WebhookSecret(account string) (WebhookSecret, bool) {
	secret, ok := s.secrets[account]
	return secret, ok
}

// Endpoint returns what is remembered of one endpoint and whether it is.
func (s *State) Endpoint(account, id string) (Endpoint, bool) {
	e, ok := s.endpoints[account+"/"+id]
	return e, ok
}

// Endpoints lists the endpoints that are remembered, of one account or (empty)
// of all, ascending by account and id.
func (s *State) Endpoints(account string) []Endpoint {
	var list []Endpoint
	for _, e := range s.endpoints {
		if account == "" || e.Account == account {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b Endpoint) int { return cmp.Compare(a.key(), b.key()) })
	return list
}
