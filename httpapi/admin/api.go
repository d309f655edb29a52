package admin

import (
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Account is one user of the appliance as an operator sees it.
type Account struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Tier        string    `json:"tier"` // the name of its plan
	CallbackURL string    `json:"callback_url,omitzero"`
	Suspended   bool      `json:"suspended"`
	CreatedAt   time.Time `json:"created_at"`
	Keys        int       `json:"keys"` // how many of its keys are not revoked
}

// AccountList is the answer to GET /accounts, ascending by ID.
type AccountList struct {
	Data []Account `json:"data"`
}

// CreateAccount is the body of POST /accounts.
type CreateAccount struct {
	ID          string `json:"id"`
	Tier        string `json:"tier"`
	Name        string `json:"name,omitzero"`
	CallbackURL string `json:"callback_url,omitzero"`
}

// PatchAccount is the body of PATCH /accounts/ID: what is nil stays as it is.
// An empty CallbackURL takes the address away.
type PatchAccount struct {
	Tier        *string `json:"tier,omitzero"`
	Name        *string `json:"name,omitzero"`
	CallbackURL *string `json:"callback_url,omitzero"`
	Suspended   *bool   `json:"suspended,omitzero"`
}

// Key is an API key without its secret, which is never kept.
type Key struct {
	ID        string    `json:"id"`
	Account   string    `json:"account"`
	Label     string    `json:"label,omitzero"`
	Test      bool      `json:"test"`
	CreatedAt time.Time `json:"created_at"`
	RevokedAt time.Time `json:"revoked_at,omitzero"` // zero: in force
}

// KeyList is the answer to GET /accounts/ID/keys, ascending by ID.
type KeyList struct {
	Data []Key `json:"data"`
}

// CreateKey is the body of POST /accounts/ID/keys.
type CreateKey struct {
	Label string `json:"label,omitzero"`
	Test  bool   `json:"test,omitzero"`
}

// CreatedKey is the answer to CreateKey: the only time that Secret is shown.
type CreatedKey struct {
	Key
	Secret string `json:"key"`
}

// MessageQuery selects messages for Client.Messages; zero fields do not restrict.
type MessageQuery struct {
	Account, Status, Channel, To, ClientRef string
	AcceptedAfter                           time.Time // inclusive
	AcceptedBefore                          time.Time // exclusive
	Limit                                   int       // 1–100; 0: 20
	Cursor                                  string    // NextCursor of the page before
}

// MessagePage is the answer to GET /messages, newest first. The messages look
// as they do to the client that sent them (GET /v1/messages/{id}), with
// account, node and sequence number added.
type MessagePage struct {
	Data       []jsontext.Value `json:"data"`
	HasMore    bool             `json:"has_more"`
	NextCursor string           `json:"next_cursor,omitzero"`
}

// Audit is the receipt of one node: each number that it gave to an accepted
// message, from From to To, held against the log and the store. Missing must
// be 0.
type Audit struct {
	Node           uint16   `json:"node"`
	From           uint64   `json:"from"`
	To             uint64   `json:"to"`
	Accepted       uint64   `json:"accepted"`
	Stored         uint64   `json:"stored"`
	Final          uint64   `json:"final"`
	Waiting        uint64   `json:"waiting"` // in the log, not yet in the store
	Missing        uint64   `json:"missing"` // in neither
	MissingNumbers []uint64 `json:"missing_numbers,omitzero"`
	// Abandoned were accepted after the backup that this appliance was restored
	// from, by an appliance that then was lost, before they were in the store.
	Abandoned uint64 `json:"abandoned,omitzero"`
}

// Readiness is the answer to GET /readyz. Status is ready, degraded or unready;
// only unready is a 503.
type Readiness struct {
	Status string           `json:"status"`
	Checks map[string]Check `json:"checks"`
}

// Check is one part's say in Readiness. Detail is for operators; it is left
// out where the caller is not known to be one.
type Check struct {
	Status string `json:"status,omitzero"` // ok, degraded, failed
	Detail string `json:"detail,omitzero"`
	// Breakers is the check "breakers", which has no status of its own: each
	// breaker by its name; that of webhook is the worst of all hosts.
	Breakers map[string]BreakerCheck `json:",embed"`
}

// BreakerCheck is one breaker in Readiness.
type BreakerCheck struct {
	State string `json:"state"` // closed, half-open, open
}

// BreakerList is the answer to GET /breakers, ascending by name.
type BreakerList struct {
	Data []BreakerStatus `json:"data"`
}

// The words of Readiness.Status.
const (
	Ready    = "ready"
	Degraded = "degraded"
	Unready  = "unready"
)

// Problem is a refusal (RFC 9457), in the shape of the public API. The Client
// returns it as its error: compare Code, never Detail.
type Problem struct {
	Type     string         `json:"type"`
	Title    string         `json:"title"`
	Status   int            `json:"status"`
	Detail   string         `json:"detail,omitzero"`
	Instance string         `json:"instance,omitzero"` // the request's id
	Code     string         `json:"code"`
	Errors   []FieldProblem `json:"errors,omitzero"`
}

// FieldProblem names one part of a request that breaks its rule.
type FieldProblem struct {
	Pointer   string `json:"pointer,omitzero"`   // of the body (RFC 6901), as "#/tier"
	Parameter string `json:"parameter,omitzero"` // of the query
	Detail    string `json:"detail"`
}

// Error says in one line what was refused and why.
func (p *Problem) Error() string {
	var b strings.Builder
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	if len(p.Errors) > 0 {
		text = strings.TrimSuffix(text, ".")
	}
	b.WriteString(text)
	for i, f := range p.Errors {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&b, "%s%s%s %s", sep, strings.TrimPrefix(f.Pointer, "#/"), f.Parameter, f.Detail)
	}
	fmt.Fprintf(&b, " (%s)", p.Code)
	return b.String()
}
