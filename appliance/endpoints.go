package appliance

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"forebay/httpapi"
	"forebay/httpapi/admin"
	"forebay/raftstate/account"
	"forebay/sink/webhook"
	"forebay/wal/message"
)

// This file tells of webhook addresses that keep failing or are switched off:
// operators by the status, from which the alerts follow, and the account by its
// feed and by its callback address where that is another one.

// maxShownEndpoints bounds what /status.json lists: one server that is gone may
// be thousands of addresses.
const maxShownEndpoints = 200

// endpointStatus lists the addresses that somebody was warned of, the worst first.
func (a *Appliance) endpointStatus(s *admin.Status) {
	for _, e := range a.group.Endpoints("") {
		if e.Warned > 0 || !e.Disabled.IsZero() {
			s.Endpoints = append(s.Endpoints, endpointView(e))
		}
	}
	slices.SortStableFunc(s.Endpoints, func(x, y admin.Endpoint) int {
		if off := !x.Disabled.IsZero(); off == y.Disabled.IsZero() {
			if off {
				return -1
			}
			return 1
		}
		return cmp.Compare(y.Warned, x.Warned)
	})
	s.Endpoints = s.Endpoints[:min(len(s.Endpoints), maxShownEndpoints)]
}

func endpointView(e account.Endpoint) admin.Endpoint {
	return admin.Endpoint{Account: e.Account, ID: e.ID, Host: e.Host, Since: e.Since, Warned: e.Warned, Disabled: e.Disabled, Reason: e.Reason}
}

// noteHostsOff says of webhook hosts' breakers that addresses behind them are
// switched off. A host that has no breaker any more gets a closed one.
func (a *Appliance) noteHostsOff(list []admin.BreakerStatus) []admin.BreakerStatus {
	off := map[string]int{}
	for _, e := range a.group.Endpoints("") {
		if !e.Disabled.IsZero() {
			off["webhook:"+e.Host]++
		}
	}
	for i := range list {
		if n := off[list[i].Name]; n > 0 {
			list[i].HostOff, list[i].HostNote = true, hostNote(n)
			delete(off, list[i].Name)
		}
	}
	for name, n := range off {
		list = append(list, admin.BreakerStatus{Name: name, State: "closed", HostOff: true, HostNote: hostNote(n)})
	}
	return list
}

func hostNote(n int) string {
	if n == 1 {
		return "an address of it is switched off"
	}
	return fmt.Sprintf("%d addresses of it are switched off", n)
}

// endpointTTL is how long the word of a failing address is tried for at the
// account's callback address.
const endpointTTL = 72 * time.Hour

// endpointFails tells an account of one of its addresses that came to a stage of
// the patience. It is told once: what is lost with a crash here, the status and the
// alerts still say.
func (a *Appliance) endpointFails(ctx context.Context, s webhook.Standing) {
	e := httpapi.EndpointEvent{Type: httpapi.EndpointFailing, Timestamp: httpapi.Timestamp{Time: time.Now()}, Data: httpapi.Endpoint{ID: s.ID, Host: s.Host,
		FailingSince: httpapi.Timestamp{Time: s.Since}, PatienceUsed: s.Warned, DisabledAt: httpapi.Timestamp{Time: s.Disabled}, Reason: s.Reason}}
	if !s.Disabled.IsZero() {
		e.Type = httpapi.EndpointDisabled
	}
	a.api.PublishEndpoint(s.Account, e)
	m, err := a.endpointCallback(s, e)
	if m != nil && err == nil {
		err = a.appendCallbacks(ctx, []*message.Message{m})
	}
	if err != nil && ctx.Err() == nil {
		a.logger.Warn("an account could not be told of its failing webhook address at its callback address", "account", s.Account, "endpoint", s.ID, "err", err)
	}
}

// endpointCallback is the message that tells of e; nil: there is no other address
// to tell it to.
func (a *Appliance) endpointCallback(s webhook.Standing, e httpapi.EndpointEvent) (*message.Message, error) {
	to := a.delivery.accounts.get(s.Account).CallbackURL
	path, ok := webhook.EndpointOf(s.Account, to)
	if !ok || path == s.Endpoint || a.delivery.channels.patience.Disabled(path) {
		return nil, nil
	}
	body, err := json.Marshal(e, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", e.Type, err)
	}
	stage := fmt.Sprint(s.Warned, s.Reason)
	m := &message.Message{Account: s.Account, Channel: message.ChannelWebhook, Priority: message.High, Callback: true, To: to,
		Body: string(body), TTL: endpointTTL,
		// Each stage of one failure once. No client's key begins with a control character.
		IdempotencyKey: strings.Join([]string{"\x01endpoint", s.ID, stage, fmt.Sprint(s.Since.Unix())}, " ")}
	m.Fingerprint[0] = 1 // the same for every body: the first one counts
	return m, nil
}
