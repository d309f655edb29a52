package account

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// A snapshot is a sequence of JSON values: a head, then as many plans, accounts
// and keys as it says, each ascending by name or id. The same state always
// gives the same bytes.
//
// Version 2 brought webhook secrets and endpoints, which follow the keys; a
// snapshot of version 1 is read as one that has none.
const snapshotVersion = 2

type head struct {
	Section  string `json:"section"` // "accounts"
	Version  int    `json:"version"`
	Plans    int    `json:"plans"`
	Accounts int    `json:"accounts"`
	Keys     int    `json:"keys"`

	Secrets   int `json:"secrets,omitzero"`
	Endpoints int `json:"endpoints,omitzero"`
}

const section = "accounts"

// Snapshot is the state at one moment. It shares nothing that the state will
// change, so it can be written while commands go on.
type Snapshot struct {
	plans    map[string]Plan
	accounts map[string]Account
	keys     map[string]Key

	secrets   map[string]WebhookSecret
	endpoints map[string]Endpoint
}

// Snapshot takes one.
func (s *State) Snapshot() Snapshot {
	return Snapshot{plans: maps.Clone(s.plans), accounts: maps.Clone(s.accounts), keys: maps.Clone(s.keys),
		secrets: maps.Clone(s.secrets), endpoints: maps.Clone(s.endpoints)}
}

// Encode writes the snapshot to enc.
func (s Snapshot) Encode(enc *jsontext.Encoder) error {
	h := head{Section: section, Version: snapshotVersion, Plans: len(s.plans), Accounts: len(s.accounts), Keys: len(s.keys),
		Secrets: len(s.secrets), Endpoints: len(s.endpoints)}
	if err := json.MarshalEncode(enc, h); err != nil {
		return fmt.Errorf("encode head of accounts: %w", err)
	}
	if err := encodeSorted(enc, s.plans); err != nil {
		return err
	}
	if err := encodeSorted(enc, s.accounts); err != nil {
		return err
	}
	if err := encodeSorted(enc, s.keys); err != nil {
		return err
	}
	if err := encodeSorted(enc, s.secrets); err != nil {
		return err
	}
	return encodeSorted(enc, s.endpoints)
}

func encodeSorted[V any](enc *jsontext.Encoder, m map[string]V) error {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if err := json.MarshalEncode(enc, m[name]); err != nil {
			return fmt.Errorf("encode %s: %w", name, err)
		}
	}
	return nil
}

// DecodeState reads what Snapshot.Encode wrote. A version or field that this
// program does not know is an error: a newer one wrote it.
func DecodeState(dec *jsontext.Decoder) (*State, error) {
	var h head
	if err := decodeNext(dec, &h); err != nil {
		return nil, fmt.Errorf("decode head of accounts: %w", err)
	}
	if h.Section != section || h.Version < 1 || h.Version > snapshotVersion {
		return nil, fmt.Errorf("section %q version %d, this program knows %q version %d", h.Section, h.Version, section, snapshotVersion)
	}
	s := NewState()
	err := decodeSorted(dec, h.Plans, s.plans, func(p Plan) string { return p.Name })
	if err == nil {
		err = decodeSorted(dec, h.Accounts, s.accounts, func(a Account) string { return a.ID })
	}
	if err == nil {
		err = decodeSorted(dec, h.Keys, s.keys, func(k Key) string { return k.ID })
	}
	if err == nil {
		err = decodeSorted(dec, h.Secrets, s.secrets, func(w WebhookSecret) string { return w.Account })
	}
	if err == nil {
		err = decodeSorted(dec, h.Endpoints, s.endpoints, func(e Endpoint) string { return e.key() })
	}
	if err != nil {
		return nil, err
	}
	return s, s.derive()
}

// derive fills what follows from the maps, and checks what binds them.
func (s *State) derive() error {
	for id, a := range s.accounts {
		if _, ok := s.plans[a.Tier]; !ok {
			return fmt.Errorf("account %s is on tier %s, which is not there", id, a.Tier)
		}
		s.on[a.Tier]++
	}
	for id, k := range s.keys {
		if _, ok := s.accounts[k.Account]; !ok {
			return fmt.Errorf("key %s belongs to account %s, which is not there", id, k.Account)
		}
		s.held[k.Account] = append(s.held[k.Account], id)
	}
	for account := range s.secrets {
		if _, ok := s.accounts[account]; !ok {
			return fmt.Errorf("a webhook secret belongs to account %s, which is not there", account)
		}
	}
	for id, e := range s.endpoints {
		if _, ok := s.accounts[e.Account]; !ok {
			return fmt.Errorf("endpoint %s belongs to account %s, which is not there", id, e.Account)
		}
	}
	return nil
}

var errDisorder = errors.New("not in ascending order")

func decodeSorted[V any](dec *jsontext.Decoder, n int, into map[string]V, name func(V) string) error {
	last := ""
	for range n {
		var v V
		if err := decodeNext(dec, &v); err != nil {
			return fmt.Errorf("decode what follows %q: %w", last, err)
		}
		if name(v) <= last {
			return fmt.Errorf("decode %q after %q: %w", name(v), last, errDisorder)
		}
		last = name(v)
		into[last] = v
	}
	return nil
}

func decodeNext(dec *jsontext.Decoder, v any) error {
	return json.UnmarshalDecode(dec, v, json.RejectUnknownMembers(true))
}
