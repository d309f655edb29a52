package account

import (
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
)

// Kind numbers a command. Kinds are written to the replicated log; never
// renumber them. 1 to 31 are this package's.
type Kind uint8

// The kinds.
const (
	KindSetPlans      Kind = 1
	KindCreateAccount Kind = 2
	KindUpdateAccount Kind = 3
	KindDeleteAccount Kind = 4
	KindCreateKey     Kind = 5
	KindRevokeKey     Kind = 6

	KindRotateWebhookSecret Kind = 7
	KindKeepEndpoint        Kind = 8
	KindForgetEndpoint      Kind = 9
)

// Kinds lists every kind.
var Kinds = []Kind{KindSetPlans, KindCreateAccount, KindUpdateAccount, KindDeleteAccount, KindCreateKey, KindRevokeKey,
	KindRotateWebhookSecret, KindKeepEndpoint, KindForgetEndpoint}

var kindNames = [...]string{KindSetPlans: "set_plans", KindCreateAccount: "create_account",
	KindUpdateAccount: "update_account", KindDeleteAccount: "delete_account",
	KindCreateKey: "create_key", KindRevokeKey: "revoke_key",
	KindRotateWebhookSecret: "rotate_webhook_secret", KindKeepEndpoint: "keep_endpoint", KindForgetEndpoint: "forget_endpoint"}

// String returns the kind's name in logs and metrics.
func (k Kind) String() string {
	if k >= KindSetPlans && k <= KindForgetEndpoint {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Command is one change that is asked for. Its fields are written to the
// replicated log: a new one must be optional, and its absence must mean what
// happened before there was one.
type Command interface {
	Kind() Kind
	// Validate checks the command by itself; see the package comment.
	Validate() *Error
	apply(*State) Result
}

// SetPlans makes Plans the plans there are. A plan that is not among them stays
// while an account is on it, and goes with the next SetPlans after that.
type SetPlans struct {
	Plans []Plan `json:"plans"`
}

// CreateAccount makes an account.
type CreateAccount struct {
	ID          string    `json:"id"`
	Tier        string    `json:"tier"`
	Name        string    `json:"name,omitzero"`
	CallbackURL string    `json:"callback_url,omitzero"`
	At          time.Time `json:"at"` // the proposer's clock, whole milliseconds, UTC
}

// UpdateAccount changes an account: all of what is not nil, or nothing.
type UpdateAccount struct {
	ID          string  `json:"id"`
	Tier        *string `json:"tier,omitzero"`
	Name        *string `json:"name,omitzero"`
	CallbackURL *string `json:"callback_url,omitzero"`
	Suspended   *bool   `json:"suspended,omitzero"`
}

// DeleteAccount deletes an account and all of its keys.
type DeleteAccount struct {
	ID string `json:"id"`
}

// CreateKey gives an account a key.
type CreateKey struct {
	ID      string    `json:"id"`
	Account string    `json:"account"`
	Hash    Hash      `json:"hash"`
	Label   string    `json:"label,omitzero"`
	Test    bool      `json:"test,omitzero"`
	At      time.Time `json:"at"`
}

// RevokeKey takes a key out of force. One that is revoked already stays as it is.
type RevokeKey struct {
	ID      string    `json:"id"`
	Account string    `json:"account,omitzero"` // empty: whoever's it is
	At      time.Time `json:"at"`
}

// Kind implements Command.
func (SetPlans) Kind() Kind { return KindSetPlans }

// Kind implements Command.
func (CreateAccount) Kind() Kind { return KindCreateAccount }

// Kind implements Command.
func (UpdateAccount) Kind() Kind { return KindUpdateAccount }

// Kind implements Command.
func (DeleteAccount) Kind() Kind { return KindDeleteAccount }

// Kind implements Command.
func (CreateKey) Kind() Kind { return KindCreateKey }

// Kind implements Command.
func (RevokeKey) Kind() Kind { return KindRevokeKey }

// Validate wants each plan in its normal form, and each name once.
func (c SetPlans) Validate() *Error {
	var f fields
	seen := make(map[string]bool, len(c.Plans))
	for _, p := range c.Plans {
		f.plan(p)
		if seen[p.Name] {
			f.add("plans/"+p.Name, "is there twice")
		}
		seen[p.Name] = true
	}
	return f.err("the list of plans")
}

// Validate implements Command.
func (c CreateAccount) Validate() *Error {
	var f fields
	f.id("id", c.ID)
	f.id("tier", c.Tier)
	f.text("name", c.Name, MaxName)
	f.callback("callback_url", c.CallbackURL)
	return f.err("the account")
}

// Validate implements Command.
func (c UpdateAccount) Validate() *Error {
	var f fields
	if c.Tier != nil {
		f.id("tier", *c.Tier)
	}
	if c.Name != nil {
		f.text("name", *c.Name, MaxName)
	}
	if c.CallbackURL != nil {
		f.callback("callback_url", *c.CallbackURL)
	}
	return f.err("the change")
}

// Validate implements Command.
func (c DeleteAccount) Validate() *Error { return nil }

// Validate implements Command.
func (c CreateKey) Validate() *Error {
	var f fields
	if !validKeyID(c.ID) {
		f.add("id", "is not the id of a key")
	}
	f.text("label", c.Label, MaxLabel)
	return f.err("the key")
}

// Validate implements Command.
func (c RevokeKey) Validate() *Error { return nil }

// Encode returns the body of cmd as it stands in the replicated log.
func Encode(cmd Command) ([]byte, error) { return json.Marshal(cmd) }

// Decode reads what Encode wrote. A kind or a field that this program does not
// know is an error: a newer one wrote it, and to go on without it would make
// this node's state another than the group's.
func Decode(kind Kind, body []byte) (Command, error) {
	switch kind {
	case KindSetPlans:
		return decode[SetPlans](body)
	case KindCreateAccount:
		return decode[CreateAccount](body)
	case KindUpdateAccount:
		return decode[UpdateAccount](body)
	case KindDeleteAccount:
		return decode[DeleteAccount](body)
	case KindCreateKey:
		return decode[CreateKey](body)
	case KindRevokeKey:
		return decode[RevokeKey](body)
	case KindRotateWebhookSecret:
		return decode[RotateWebhookSecret](body)
	case KindKeepEndpoint:
		return decode[KeepEndpoint](body)
	case KindForgetEndpoint:
		return decode[ForgetEndpoint](body)
	}
	return nil, fmt.Errorf("unknown command kind %d", uint8(kind))
}

func decode[C Command](body []byte) (Command, error) {
	var c C
	if err := json.Unmarshal(body, &c, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("decode %s: %w", c.Kind(), err)
	}
	return c, nil
}
