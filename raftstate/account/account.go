// Package account is the part of the replicated state that says who may use the
// appliance: accounts, the plans they are on, and their API keys.
//
// It is a pure state machine: the same commands in the same order make the same
// State, byte for byte in its snapshot, on every node. So it has no clock and no
// source of chance (times, ids and hashes come in the commands), does no I/O,
// and lets no map's order show.
//
// What a command asks is checked in two places. Validate looks at the command
// alone and runs on the node that proposes it; State.Apply decides only what
// depends on the state. The first may use rules that change from one release to
// the next (what is a URL, what is printable) without nodes of two releases
// coming to different states.
package account

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Plan is what an account may do. Accounts name theirs by tier.
type Plan struct {
	Name              string   `json:"name"`
	RequestsPerMinute int      `json:"requests_per_minute"` // messages in any minute, ≥ 1
	Burst             int      `json:"burst"`               // messages at once, ≥ 1
	Concurrent        int      `json:"concurrent"`          // requests in flight, ≥ 1
	Channels          []string `json:"channels,omitzero"`   // allowed, ascending; empty: all
	Mode              string   `json:"mode"`                // ModeEnforce or ModeShadow
	Weight            int      `json:"weight"`              // share of a busy channel, 1–1000
}

// The modes of a plan.
const (
	ModeEnforce = "enforce" // over the limit is refused
	ModeShadow  = "shadow"  // counted and reported, never refused
)

// Allows reports whether the plan includes the channel of that name.
func (p *Plan) Allows(channel string) bool {
	return len(p.Channels) == 0 || slices.Contains(p.Channels, channel)
}

// Normal returns the plan in the one form that equal plans have: defaults
// filled in, channels sorted, each once. It keeps no memory of p's.
func (p Plan) Normal() Plan {
	if p.Mode == "" {
		p.Mode = ModeEnforce
	}
	if p.Weight == 0 {
		p.Weight = 1
	}
	if len(p.Channels) == 0 {
		p.Channels = nil
		return p
	}
	p.Channels = slices.Clone(p.Channels)
	slices.Sort(p.Channels)
	p.Channels = slices.Compact(p.Channels)
	return p
}

func (p Plan) equal(q Plan) bool {
	return p.Name == q.Name && p.RequestsPerMinute == q.RequestsPerMinute && p.Burst == q.Burst &&
		p.Concurrent == q.Concurrent && slices.Equal(p.Channels, q.Channels) && p.Mode == q.Mode && p.Weight == q.Weight
}

// Account is one user of the appliance.
type Account struct {
	ID          string    `json:"id"`
	Name        string    `json:"name,omitzero"`
	Tier        string    `json:"tier"`
	CallbackURL string    `json:"callback_url,omitzero"`
	Suspended   bool      `json:"suspended,omitzero"`
	CreatedAt   time.Time `json:"created_at"` // UTC, whole milliseconds
}

// Key is an API key. The key's secret is not in it and cannot be had from it.
type Key struct {
	ID        string    `json:"id"`
	Account   string    `json:"account"`
	Hash      Hash      `json:"hash"`
	Label     string    `json:"label,omitzero"`
	Test      bool      `json:"test,omitzero"`
	CreatedAt time.Time `json:"created_at"`
	RevokedAt time.Time `json:"revoked_at,omitzero"` // zero: in force
}

// InForce reports whether the key has not been revoked.
func (k *Key) InForce() bool { return k.RevokedAt.IsZero() }

// Code says why a command changed nothing. Codes are stable: callers compare them.
type Code string

// The codes.
const (
	CodeInvalid     Code = "invalid"      // a field breaks its rule
	CodeExists      Code = "exists"       // that id is taken
	CodeNotFound    Code = "not_found"    // no such account or key
	CodeUnknownTier Code = "unknown_tier" // no such plan
	CodeTooMany     Code = "too_many"     // the account holds MaxKeys keys in force
)

// Error is a command's refusal. It is a value of the state machine: every node
// comes to the same one.
type Error struct {
	Code   Code         `json:"code"`
	Detail string       `json:"detail"`
	Fields []FieldError `json:"fields,omitzero"`
}

// FieldError names one field of a command that breaks its rule.
type FieldError struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

// Error returns the refusal in one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Detail)
	for _, f := range e.Fields {
		fmt.Fprintf(&b, "; %s %s", f.Field, f.Detail)
	}
	return b.String()
}

// Limits on lengths and numbers.
const (
	MaxID          = 64   // characters of an account's id or a tier's name
	MaxName        = 200  // characters of an account's name
	MaxLabel       = 100  // characters of a key's label
	MaxCallbackURL = 2048 // bytes
	MaxKeys        = 100  // keys in force of one account; as many revoked ones are remembered
	MaxWeight      = 1000 // of a plan
	maxRate        = 1e9  // of a plan's numbers: sums of them stay far from overflow
)

// fields gathers every broken field of a command.
type fields []FieldError

func (f *fields) add(field, format string, args ...any) {
	*f = append(*f, FieldError{Field: field, Detail: fmt.Sprintf(format, args...)})
}

func (f fields) err(what string) *Error {
	if len(f) == 0 {
		return nil
	}
	return &Error{Code: CodeInvalid, Detail: what + " is not valid", Fields: f}
}

// id checks the form that accounts' ids and tiers' names share: they appear in
// paths, logs and metrics, so they are kept to what needs no quoting anywhere.
func (f *fields) id(field, v string) {
	if !validID(v) {
		f.add(field, "must be 1 to %d of a-z, 0-9, '.', '_' and '-', starting with a letter or digit", MaxID)
	}
}

func validID(v string) bool {
	if v == "" || len(v) > MaxID {
		return false
	}
	for i := range len(v) {
		c := v[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return true
}

func (f *fields) text(field, v string, limit int) {
	switch {
	case !utf8.ValidString(v):
		f.add(field, "must be UTF-8")
	case utf8.RuneCountInString(v) > limit:
		f.add(field, "must be at most %d characters", limit)
	case strings.ContainsFunc(v, func(r rune) bool { return !unicode.IsPrint(r) }):
		f.add(field, "must be printable")
	}
}

// callback checks the shape of the address that status changes go to. Whether it
// may be http is for each node's configuration to say before it proposes this,
// and whether it may be reached is decided when a callback is sent: names resolve
// anew each time.
func (f *fields) callback(field, v string) {
	if v == "" {
		return
	}
	u, err := url.Parse(v)
	switch {
	case len(v) > MaxCallbackURL:
		f.add(field, "must be at most %d bytes", MaxCallbackURL)
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		f.add(field, "must be an https URL")
	case u.User != nil:
		f.add(field, "must not hold a user name or password")
	case u.Fragment != "":
		f.add(field, "must not have a fragment")
	}
}

func (f *fields) plan(p Plan) {
	at := func(name string) string { return "plans/" + p.Name + "/" + name }
	f.id("plans/"+p.Name, p.Name)
	for _, n := range []struct {
		field string
		value int
	}{{"requests_per_minute", p.RequestsPerMinute}, {"burst", p.Burst}, {"concurrent", p.Concurrent}} {
		if n.value < 1 || n.value > maxRate {
			f.add(at(n.field), "must be 1 to %d", int(maxRate))
		}
	}
	if p.Weight < 1 || p.Weight > MaxWeight {
		f.add(at("weight"), "must be 1 to %d", MaxWeight)
	}
	if p.Mode != ModeEnforce && p.Mode != ModeShadow {
		f.add(at("mode"), "must be %s or %s", ModeEnforce, ModeShadow)
	}
	for _, c := range p.Channels {
		f.id(at("channels"), c)
	}
}
