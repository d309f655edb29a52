package raftstate

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"forebay/raftstate/account"
)

// WebhookSecrets returns the secrets with which an account's webhooks are signed
// now, the newest first; none if there is no such account. An account's first
// secret is made when it is asked for.
func (g *Group) WebhookSecrets(ctx context.Context, id string) ([]string, error) {
	secret, err := g.WebhookSecret(ctx, id)
	if refused, ok := errors.AsType[*account.Error](err); ok && refused.Code == account.CodeNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return secret.InForce(time.Now()), nil
}

// WebhookSecret returns an account's secret; errors as Account. The first one is
// made when it is asked for.
func (g *Group) WebhookSecret(ctx context.Context, id string) (account.WebhookSecret, error) {
	secret, ok := g.webhookSecret(id)
	if ok {
		return secret, nil
	}
	return g.rotate(ctx, id, true)
}

// RotateWebhookSecret gives an account another secret. The one before signs on
// for account.RotationGrace.
func (g *Group) RotateWebhookSecret(ctx context.Context, id string) (account.WebhookSecret, error) {
	return g.rotate(ctx, id, false)
}

func (g *Group) rotate(ctx context.Context, id string, first bool) (account.WebhookSecret, error) {
	var random [account.WebhookSecretBytes]byte
	rand.Read(random[:])
	cmd := account.RotateWebhookSecret{Account: id, Secret: account.MintWebhookSecret(random), First: first, At: wallClock()}
	if _, err := g.proposeAccount(ctx, cmd); err != nil {
		return account.WebhookSecret{}, err
	}
	secret, ok := g.webhookSecret(id)
	if !ok {
		return secret, notFound(id) // deleted meanwhile
	}
	return secret, nil
}

func (g *Group) webhookSecret(id string) (account.WebhookSecret, bool) {
	g.machine.mu.RLock()
	defer g.machine.mu.RUnlock()
	return g.machine.accounts.WebhookSecret(id)
}

// Endpoint returns what is remembered of one webhook address, and whether it is.
func (g *Group) Endpoint(owner, id string) (account.Endpoint, bool) {
	g.machine.mu.RLock()
	defer g.machine.mu.RUnlock()
	return g.machine.accounts.Endpoint(owner, id)
}

// Endpoints lists the webhook addresses that fail or are switched off, of one
// account or (empty) of all.
func (g *Group) Endpoints(id string) []account.Endpoint {
	g.machine.mu.RLock()
	defer g.machine.mu.RUnlock()
	return g.machine.accounts.Endpoints(id)
}

// KeepEndpoint remembers how a webhook address stands.
func (g *Group) KeepEndpoint(ctx context.Context, e account.Endpoint) error {
	_, err := g.proposeAccount(ctx, account.KeepEndpoint{Endpoint: e})
	return err
}

// ForgetEndpoint forgets that a webhook address failed: it is tried again.
func (g *Group) ForgetEndpoint(ctx context.Context, owner, id string) error {
	_, err := g.proposeAccount(ctx, account.ForgetEndpoint{Account: owner, ID: id})
	return err
}
