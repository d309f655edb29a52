package appliance

import (
	"context"
	"errors"

	"forebay/httpapi/admin"
	"forebay/raftstate"
	"forebay/raftstate/account"
	"forebay/sink/webhook"
)

// This file wires what webhooks keep in the replicated state: their secrets, and
// the patience with addresses that fail. It is kept there and not in a store, for
// every node must hold back from an address that one of them was told is gone,
// and it changes so seldom that the group does not feel it.

// endpointKeeper is the replicated state as webhook.Patience sees it.
type endpointKeeper struct{ group *raftstate.Group }

var _ webhook.Keeper = endpointKeeper{}

// Standings implements webhook.Keeper.
func (k endpointKeeper) Standings() []webhook.Standing {
	endpoints := k.group.Endpoints("")
	standings := make([]webhook.Standing, len(endpoints))
	for i, e := range endpoints {
		standings[i] = standingOf(e)
	}
	return standings
}

// Standing implements webhook.Keeper.
func (k endpointKeeper) Standing(e webhook.Endpoint) (webhook.Standing, bool) {
	kept, ok := k.group.Endpoint(e.Account, e.ID)
	return standingOf(kept), ok
}

func standingOf(e account.Endpoint) webhook.Standing {
	return webhook.Standing{Endpoint: webhook.Endpoint{Account: e.Account, ID: e.ID, Host: e.Host},
		Since: e.Since, Warned: e.Warned, Disabled: e.Disabled, Reason: e.Reason}
}

// Keep implements webhook.Keeper.
func (k endpointKeeper) Keep(ctx context.Context, s webhook.Standing) error {
	return settledRefusal(k.group.KeepEndpoint(ctx, account.Endpoint{Account: s.Account, ID: s.ID, Host: s.Host,
		Since: s.Since, Warned: s.Warned, Disabled: s.Disabled, Reason: s.Reason}))
}

// Forget implements webhook.Keeper.
func (k endpointKeeper) Forget(ctx context.Context, e webhook.Endpoint) error {
	return settledRefusal(k.group.ForgetEndpoint(ctx, e.Account, e.ID))
}

// settledRefusal: an account or endpoint that is gone, or one endpoint too many,
// is no fault that another try would mend.
func settledRefusal(err error) error {
	if _, refused := errors.AsType[*account.Error](err); refused {
		return nil
	}
	return err
}

// operatorWebhooks is the replicated state as operators see it.
type operatorWebhooks struct{ group *raftstate.Group }

func secretView(s account.WebhookSecret) admin.WebhookSecret {
	return admin.WebhookSecret{Account: s.Account, Secret: s.Current, Previous: s.Previous, Until: s.Until, RotatedAt: s.RotatedAt}
}

func (o operatorWebhooks) WebhookSecret(ctx context.Context, id string) (admin.WebhookSecret, error) {
	s, err := o.group.WebhookSecret(ctx, id)
	return secretView(s), refuse(err)
}

func (o operatorWebhooks) RotateWebhookSecret(ctx context.Context, id string) (admin.WebhookSecret, error) {
	s, err := o.group.RotateWebhookSecret(ctx, id)
	return secretView(s), refuse(err)
}

func (o operatorWebhooks) Endpoints(_ context.Context, id string) ([]admin.Endpoint, error) {
	if _, err := o.group.Account(id); err != nil {
		return nil, refuse(err)
	}
	var list []admin.Endpoint
	for _, e := range o.group.Endpoints(id) {
		list = append(list, endpointView(e))
	}
	return list, nil
}

func (o operatorWebhooks) EnableEndpoint(ctx context.Context, id, endpoint string) error {
	return refuse(o.group.ForgetEndpoint(ctx, id, endpoint))
}
