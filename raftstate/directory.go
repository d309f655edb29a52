package raftstate

import (
	"crypto/subtle"
	"errors"
	"maps"
	"slices"
	"sync/atomic"

	"forebay/raftstate/account"
)

// Principal is who a request comes from.
type Principal struct {
	Account     string
	Key         string        // the id of the key it showed
	Plan        *account.Plan // must not be changed
	Test        bool          // it showed a test key
	Suspended   bool          // the account is; the key is genuine
	CallbackURL string        // the account's; empty: none
}

// The errors of Authenticate. Neither says anything of the key it was given.
var (
	// ErrUnknownKey: no key in force has that text.
	ErrUnknownKey = errors.New("unknown key")
	// ErrNotReady: the state has not been read from disk yet; try again soon.
	ErrNotReady = errors.New("accounts are not ready")
)

// directory is the view of the state that authenticates requests: keys in force
// by id. Readers take no lock. There is one writer, the machine.
//
// Maps are never changed once readers can see them: a change copies one of many
// small ones. What changes of an account without its keys changing is behind
// the holder that its credentials share.
type directory struct {
	shards  [shardCount]atomic.Pointer[map[string]*credential]
	holders map[string]*holder // by account; the writer's
	nobody  credential         // what an unknown id is compared with
}

const shardCount = 1024

type credential struct {
	hash   account.Hash
	id     string
	test   bool
	holder *holder
}

type holder struct {
	profile atomic.Pointer[profile]
	keys    []string // of credentials in force; the writer's
}

// profile is immutable.
type profile struct {
	account     string
	plan        *account.Plan
	suspended   bool
	callbackURL string
}

// newDirectory builds the view of a whole state.
func newDirectory(s *account.State) *directory {
	d := &directory{holders: map[string]*holder{}}
	var shards [shardCount]map[string]*credential
	for _, a := range s.Accounts() {
		d.refresh(s, a.ID)
		h := d.holders[a.ID]
		for _, k := range s.Keys(a.ID) {
			if !k.InForce() {
				continue
			}
			n := shardOf(k.ID)
			if shards[n] == nil {
				shards[n] = map[string]*credential{}
			}
			shards[n][k.ID] = &credential{hash: k.Hash, id: k.ID, test: k.Test, holder: h}
			h.keys = append(h.keys, k.ID)
		}
	}
	for n, m := range shards {
		d.shards[n].Store(&m)
	}
	return d
}

// shardOf spreads ids by FNV-1a; ids are random already, but not the ones that
// strangers send.
func shardOf(id string) uint32 {
	h := uint32(2166136261)
	for i := range len(id) {
		h = (h ^ uint32(id[i])) * 16777619
	}
	return h % shardCount
}

// authenticate returns whose key text is. An unknown id, a wrong secret and text
// that is no key at all take the same way: one look-up, one hash, one comparison
// in constant time.
func (d *directory) authenticate(text string) (Principal, error) {
	id, secret, test, ok := account.ParseKey(text)
	c := (*d.shards[shardOf(id)].Load())[id]
	if c == nil {
		c = &d.nobody
	}
	hash := account.HashSecret(secret)
	same := subtle.ConstantTimeCompare(hash[:], c.hash[:]) == 1
	if !same || !ok || c.test != test || c.holder == nil {
		return Principal{}, ErrUnknownKey
	}
	p := c.holder.profile.Load()
	return Principal{Account: p.account, Key: c.id, Plan: p.plan, Test: c.test,
		Suspended: p.suspended, CallbackURL: p.callbackURL}, nil
}

// follow brings the view up to a command that has just been applied to s and
// came to result.
func (d *directory) follow(s *account.State, cmd account.Command, result account.Result) {
	if result.Err != nil {
		return
	}
	switch cmd := cmd.(type) {
	case account.SetPlans:
		for id := range d.holders {
			d.refresh(s, id)
		}
	case account.CreateAccount:
		d.refresh(s, cmd.ID)
	case account.UpdateAccount:
		d.refresh(s, cmd.ID)
	case account.DeleteAccount:
		for _, id := range d.holders[cmd.ID].keys {
			d.remove(id)
		}
		delete(d.holders, cmd.ID)
	case account.CreateKey:
		d.add(result.Key)
	case account.RevokeKey:
		h := d.holders[result.Key.Account]
		h.keys = slices.DeleteFunc(h.keys, func(id string) bool { return id == cmd.ID })
		d.remove(cmd.ID)
	}
}

// refresh shows readers the account as it now is.
func (d *directory) refresh(s *account.State, id string) {
	a, _ := s.Account(id)
	plan, _ := s.Plan(a.Tier)
	h := d.holders[id]
	if h == nil {
		h = &holder{}
		d.holders[id] = h
	}
	h.profile.Store(&profile{account: a.ID, plan: &plan, suspended: a.Suspended, callbackURL: a.CallbackURL})
}

func (d *directory) add(k account.Key) {
	h := d.holders[k.Account]
	h.keys = append(h.keys, k.ID)
	d.change(k.ID, func(m map[string]*credential) {
		m[k.ID] = &credential{hash: k.Hash, id: k.ID, test: k.Test, holder: h}
	})
}

func (d *directory) remove(id string) {
	d.change(id, func(m map[string]*credential) { delete(m, id) })
}

func (d *directory) change(id string, edit func(map[string]*credential)) {
	shard := &d.shards[shardOf(id)]
	next := maps.Clone(*shard.Load())
	if next == nil {
		next = map[string]*credential{}
	}
	edit(next)
	shard.Store(&next)
}
