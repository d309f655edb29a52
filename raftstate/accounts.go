package raftstate

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"forebay/raftstate/account"
)

// AccountView is an account as lists show it.
type AccountView struct {
	account.Account
	Keys int // in force
}

// wallClock is the time of creation that people see. It is the proposer's, and
// nothing is decided by it.
func wallClock() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// Authenticate returns whose key text is: ErrUnknownKey, also for a revoked one
// and for text that is no key; ErrNotReady. A suspended account is no error.
// It takes no lock and allocates nothing.
func (g *Group) Authenticate(text string) (Principal, error) {
	if !g.isReady.Load() {
		return Principal{}, ErrNotReady
	}
	return g.machine.accounts.directory.Load().authenticate(text)
}

// SetPlans makes plans the group's plans; it proposes nothing if they are.
// Plans that are left out stay while accounts are on them: their names are
// returned.
func (g *Group) SetPlans(ctx context.Context, plans []account.Plan) (retained []string, err error) {
	if err := g.WaitLeader(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	return g.setPlans(ctx, plans)
}

func (g *Group) setPlans(ctx context.Context, plans []account.Plan) ([]string, error) {
	cmd := account.SetPlans{Plans: normal(plans)}
	if err := cmd.Validate(); err != nil {
		return nil, err
	}
	g.machine.mu.RLock()
	same := g.machine.accounts.HasPlans(cmd.Plans)
	g.machine.mu.RUnlock()
	if same {
		return nil, nil
	}
	result, err := g.proposeAccountNow(ctx, cmd)
	if len(result.Retained) > 0 {
		g.log.Warn("plans left out of the configuration stay: accounts are on them", "plans", result.Retained)
	}
	return result.Retained, err
}

// CreateAccount makes an account; At is set here.
func (g *Group) CreateAccount(ctx context.Context, cmd account.CreateAccount) (AccountView, error) {
	cmd.At = wallClock()
	result, err := g.proposeAccount(ctx, cmd)
	return AccountView{Account: result.Account}, err
}

// UpdateAccount changes all of what is not nil in cmd, or nothing.
func (g *Group) UpdateAccount(ctx context.Context, cmd account.UpdateAccount) (AccountView, error) {
	result, err := g.proposeAccount(ctx, cmd)
	if err != nil {
		return AccountView{}, err
	}
	g.machine.mu.RLock()
	defer g.machine.mu.RUnlock()
	return AccountView{Account: result.Account, Keys: g.machine.accounts.KeysInForce(cmd.ID)}, nil
}

// DeleteAccount deletes an account and all of its keys.
func (g *Group) DeleteAccount(ctx context.Context, id string) error {
	_, err := g.proposeAccount(ctx, account.DeleteAccount{ID: id})
	return err
}

// CreateKey gives an account a key. The text that it returns is all there ever
// is of the key's secret: it is not kept.
func (g *Group) CreateKey(ctx context.Context, owner, label string, test bool) (key account.Key, text string, err error) {
	var random [account.RandomBytes]byte
	rand.Read(random[:])
	id, hash, text := account.MintKey(random, test)
	result, err := g.proposeAccount(ctx, account.CreateKey{ID: id, Account: owner, Hash: hash, Label: label, Test: test, At: wallClock()})
	if err != nil {
		return account.Key{}, "", err
	}
	return result.Key, text, nil
}

// RevokeKey takes a key out of force, for good. owner empty: whoever's it is.
func (g *Group) RevokeKey(ctx context.Context, owner, id string) (account.Key, error) {
	result, err := g.proposeAccount(ctx, account.RevokeKey{ID: id, Account: owner, At: wallClock()})
	return result.Key, err
}

// Accounts lists every account, ascending by id.
func (g *Group) Accounts() []AccountView {
	g.machine.mu.RLock()
	defer g.machine.mu.RUnlock()
	list := g.machine.accounts.Accounts()
	views := make([]AccountView, len(list))
	for i, a := range list {
		views[i] = AccountView{Account: a, Keys: g.machine.accounts.KeysInForce(a.ID)}
	}
	return views
}

// Account returns one account; an *account.Error with CodeNotFound if there is
// none of that id.
func (g *Group) Account(id string) (AccountView, error) {
	g.machine.mu.RLock()
	defer g.machine.mu.RUnlock()
	a, ok := g.machine.accounts.Account(id)
	if !ok {
		return AccountView{}, notFound(id)
	}
	return AccountView{Account: a, Keys: g.machine.accounts.KeysInForce(id)}, nil
}

// Keys lists an account's keys, revoked ones too, ascending by id; errors as
// Account.
func (g *Group) Keys(owner string) ([]account.Key, error) {
	g.machine.mu.RLock()
	defer g.machine.mu.RUnlock()
	if _, ok := g.machine.accounts.Account(owner); !ok {
		return nil, notFound(owner)
	}
	return g.machine.accounts.Keys(owner), nil
}

// Plans lists the plans, ascending by name.
func (g *Group) Plans() []account.Plan {
	g.machine.mu.RLock()
	defer g.machine.mu.RUnlock()
	return g.machine.accounts.Plans()
}

// proposeAccount has the group carry out cmd, once this node is ready. The error
// is an *account.Error if the command or the state refuses it.
func (g *Group) proposeAccount(ctx context.Context, cmd account.Command) (account.Result, error) {
	if err := cmd.Validate(); err != nil {
		return account.Result{}, err
	}
	if err := g.WaitLeader(ctx); err != nil {
		return account.Result{}, fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	return g.proposeAccountNow(ctx, cmd)
}

func (g *Group) proposeAccountNow(ctx context.Context, cmd account.Command) (account.Result, error) {
	body, err := account.Encode(cmd)
	if err != nil {
		return account.Result{}, fmt.Errorf("encode %s: %w", cmd.Kind(), err)
	}
	result, err := propose[account.Result](ctx, g, uint8(cmd.Kind()), body)
	if err == nil && result.Err != nil {
		return result, result.Err
	}
	if err == nil {
		g.spread(ctx)
	}
	return result, err
}

func notFound(id string) error {
	return &account.Error{Code: account.CodeNotFound, Detail: "there is no account " + id}
}
