package account

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// State holds every account, plan and key. It is not safe for concurrent use.
type State struct {
	plans    map[string]Plan
	accounts map[string]Account
	keys     map[string]Key

	secrets   map[string]WebhookSecret // by account
	endpoints map[string]Endpoint      // by account and id

	// held maps each account to the ids of its keys. It follows from keys.
	held map[string][]string
	// on counts the accounts of each tier. It follows from accounts.
	on map[string]int
}

// Result is what a command came to: an error that changed nothing, or the
// account, key or plans as they now are.
type Result struct {
	Err      *Error   `json:"err,omitzero"`
	Account  Account  `json:"account,omitzero"`
	Key      Key      `json:"key,omitzero"`
	Retained []string `json:"retained,omitzero"` // plans that SetPlans left because accounts are on them
}

// NewState returns the state before the first command.
func NewState() *State {
	return &State{plans: map[string]Plan{}, accounts: map[string]Account{}, keys: map[string]Key{},
		secrets: map[string]WebhookSecret{}, endpoints: map[string]Endpoint{}, held: map[string][]string{}, on: map[string]int{}}
}

// Apply carries out a command that its proposer has validated.
func (s *State) Apply(cmd Command) Result { return cmd.apply(s) }

func refuse(code Code, format string, args ...any) Result {
	return Result{Err: &Error{Code: code, Detail: fmt.Sprintf(format, args...)}}
}

func (c SetPlans) apply(s *State) Result {
	next := make(map[string]Plan, len(c.Plans))
	for _, p := range c.Plans {
		next[p.Name] = p
	}
	var result Result
	for name, p := range s.plans {
		if _, ok := next[name]; !ok && s.on[name] > 0 {
			next[name] = p
			result.Retained = append(result.Retained, name)
		}
	}
	slices.Sort(result.Retained)
	s.plans = next
	return result
}

func (c CreateAccount) apply(s *State) Result {
	if _, ok := s.accounts[c.ID]; ok {
		return refuse(CodeExists, "account %s exists", c.ID)
	}
	if _, ok := s.plans[c.Tier]; !ok {
		return refuse(CodeUnknownTier, "there is no tier %s", c.Tier)
	}
	a := Account{ID: c.ID, Name: c.Name, Tier: c.Tier, CallbackURL: c.CallbackURL, CreatedAt: c.At}
	s.accounts[a.ID] = a
	s.on[a.Tier]++
	return Result{Account: a}
}

func (c UpdateAccount) apply(s *State) Result {
	a, ok := s.accounts[c.ID]
	if !ok {
		return refuse(CodeNotFound, "there is no account %s", c.ID)
	}
	if c.Tier != nil {
		if _, ok := s.plans[*c.Tier]; !ok {
			return refuse(CodeUnknownTier, "there is no tier %s", *c.Tier)
		}
		s.leave(a.Tier)
		a.Tier = *c.Tier
		s.on[a.Tier]++
	}
	if c.Name != nil {
		a.Name = *c.Name
	}
	if c.CallbackURL != nil {
		a.CallbackURL = *c.CallbackURL
	}
	if c.Suspended != nil {
		a.Suspended = *c.Suspended
	}
	s.accounts[a.ID] = a
	return Result{Account: a}
}

func (s *State) leave(tier string) {
	if s.on[tier]--; s.on[tier] == 0 {
		delete(s.on, tier)
	}
}

func (c DeleteAccount) apply(s *State) Result {
	a, ok := s.accounts[c.ID]
	if !ok {
		return refuse(CodeNotFound, "there is no account %s", c.ID)
	}
	for _, id := range s.held[a.ID] {
		delete(s.keys, id)
	}
	delete(s.held, a.ID)
	s.forgetWebhooks(a.ID)
	delete(s.accounts, a.ID)
	s.leave(a.Tier)
	return Result{Account: a}
}

func (c CreateKey) apply(s *State) Result {
	if _, ok := s.accounts[c.Account]; !ok {
		return refuse(CodeNotFound, "there is no account %s", c.Account)
	}
	if _, ok := s.keys[c.ID]; ok {
		return refuse(CodeExists, "key %s exists", c.ID)
	}
	if s.KeysInForce(c.Account) >= MaxKeys {
		return refuse(CodeTooMany, "account %s holds %d keys: revoke one first", c.Account, MaxKeys)
	}
	k := Key{ID: c.ID, Account: c.Account, Hash: c.Hash, Label: c.Label, Test: c.Test, CreatedAt: c.At}
	s.keys[k.ID] = k
	s.held[k.Account] = append(s.held[k.Account], k.ID)
	return Result{Key: k}
}

func (c RevokeKey) apply(s *State) Result {
	k, ok := s.keys[c.ID]
	if !ok || c.Account != "" && c.Account != k.Account {
		return refuse(CodeNotFound, "there is no key %s", c.ID)
	}
	if k.InForce() {
		k.RevokedAt = c.At
		s.keys[k.ID] = k
		s.forgetRevoked(k.Account)
	}
	return Result{Key: k}
}

// forgetRevoked keeps an account's memory of revoked keys bounded, however long
// it rotates them: the longest revoked goes first.
func (s *State) forgetRevoked(account string) {
	var revoked []Key
	for _, id := range s.held[account] {
		if k := s.keys[id]; !k.InForce() {
			revoked = append(revoked, k)
		}
	}
	if len(revoked) <= MaxKeys {
		return
	}
	oldest := slices.MinFunc(revoked, func(a, b Key) int {
		return cmp.Or(a.RevokedAt.Compare(b.RevokedAt), cmp.Compare(a.ID, b.ID))
	})
	delete(s.keys, oldest.ID)
	s.held[account] = slices.DeleteFunc(s.held[account], func(id string) bool { return id == oldest.ID })
}

// Account returns the account of that id and whether there is one.
func (s *State) Account(id string) (Account, bool) {
	a, ok := s.accounts[id]
	return a, ok
}

// Accounts lists the accounts, ascending by id.
func (s *State) Accounts() []Account {
	return slices.SortedFunc(maps.Values(s.accounts), func(a, b Account) int { return cmp.Compare(a.ID, b.ID) })
}

// Key returns the key of that id and whether there is one.
func (s *State) Key(id string) (Key, bool) {
	k, ok := s.keys[id]
	return k, ok
}

// Keys lists an account's keys, revoked ones too, ascending by id.
func (s *State) Keys(account string) []Key {
	ids := slices.Sorted(slices.Values(s.held[account]))
	keys := make([]Key, 0, len(ids))
	for _, id := range ids {
		keys = append(keys, s.keys[id])
	}
	return keys
}

// KeysInForce counts an account's keys that are not revoked.
func (s *State) KeysInForce(account string) int {
	n := 0
	for _, id := range s.held[account] {
		if k := s.keys[id]; k.InForce() {
			n++
		}
	}
	return n
}

// Plan returns the plan of that name and whether there is one.
func (s *State) Plan(name string) (Plan, bool) {
	p, ok := s.plans[name]
	return p, ok
}

// Plans lists the plans, ascending by name.
func (s *State) Plans() []Plan {
	return slices.SortedFunc(maps.Values(s.plans), func(a, b Plan) int { return cmp.Compare(a.Name, b.Name) })
}

// HasPlans reports whether SetPlans with these plans would change nothing.
func (s *State) HasPlans(plans []Plan) bool {
	named := make(map[string]bool, len(plans))
	for _, p := range plans {
		if have, ok := s.plans[p.Name]; !ok || !have.equal(p) {
			return false
		}
		named[p.Name] = true
	}
	for name := range s.plans {
		if !named[name] && s.on[name] == 0 {
			return false
		}
	}
	return true
}
