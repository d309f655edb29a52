package appliance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"forebay/appliance/config"
	"forebay/httpapi"
	"forebay/httpapi/admin"
	"forebay/raftstate"
	"forebay/sink"
	"forebay/wal"
	"forebay/wal/message"
)

// This file wires delivery: the channels, what the dispatcher asks of log, store,
// accounts and breakers, and callbacks.

// delivery is the appliance's side of the dispatcher.
type delivery struct {
	channels *channels
	accounts accountCache
	// searching has one place: who holds it reads through the log.
	searching chan struct{}
	callbacks prometheus.Counter

	mu      sync.Mutex // guards what follows
	stopped map[message.Channel]string
}

func (a *Appliance) buildDispatcher() error {
	channels, err := a.openChannels()
	if err != nil {
		return err
	}
	a.delivery = &delivery{channels: channels, accounts: accountCache{group: a.group}, searching: make(chan struct{}, 1), stopped: map[message.Channel]string{},
		callbacks: promauto.With(a.registry).NewCounter(prometheus.CounterOpts{Name: "forebay_callbacks_accepted_total",
			Help: "Callbacks that the log has taken. With forebay_messages_accepted_total, which counts what clients and operators asked for, they are all that an audit calls accepted."})}
	set, err := channels.prepare(a.cfg)
	if err != nil {
		return err
	}
	if err := channels.adopt(a.cfg, set); err != nil {
		return err
	}
	settings, err := a.deliverySettings(a.cfg, set)
	if err != nil {
		return err
	}
	a.dispatcher, err = sink.NewDispatcher(sink.DispatcherConfig{
		Journal:     journalAdapter{a.log},
		Archive:     a.store,
		Delivery:    settings,
		Breakers:    breakersAdapter{a.group.Breakers()},
		Weight:      a.delivery.accounts.weight,
		Admit:       a.delivery.accounts.admit,
		CallbackURL: a.delivery.accounts.callbackURL,
		Render:      renderCallback,
		Append:      a.appendCallbacks,
		OnChange:    func(changed []message.Record) { a.api.Publish(changed) },
		OnStop:      a.channelStopped,
		Logger:      a.logger.With("part", "delivery"),
		Registerer:  a.registry,
	})
	return err
}

// appendCallbacks accepts callbacks into the log, as one group. One that the log has
// had before is taken, and counts once.
func (a *Appliance) appendCallbacks(ctx context.Context, ms []*message.Message) error {
	receipts := make([]wal.Receipt, len(ms))
	if err := a.log.AppendBatch(ctx, ms, receipts); err != nil {
		return err
	}
	var failed error
	for _, r := range receipts {
		switch {
		case r.Err == nil && !r.Replayed:
			a.delivery.callbacks.Inc()
		case r.Err != nil && !errors.Is(r.Err, wal.ErrInProgress) && !errors.Is(r.Err, wal.ErrKeyMismatch):
			failed = r.Err // and with these two it is there
		}
	}
	return failed
}

// deliverySettings are what the configuration says of delivery, with the
// channels that were made from it.
func (a *Appliance) deliverySettings(c config.Config, set channelSet) (s sink.DeliveryConfig, err error) {
	s = sink.DeliveryConfig{
		MaxAttempts: c.Delivery.MaxAttempts, BaseDelay: c.Delivery.BaseDelay, MaxDelay: c.Delivery.MaxDelay,
		Workers: c.Delivery.WorkersPerChannel, AttemptTimeout: c.CircuitBreaker.Timeout,
		PerAccount: c.Delivery.PerAccountInFlight, PerHost: c.Delivery.PerHostInFlight,
		QueueBytes: int(c.Shares().Queue), Grace: c.HTTP.ShutdownTimeout / 4,
		Channels: a.delivery.channels.senders(set),
	}
	if s.UnknownOutcome, err = sink.ParsePolicy(c.Delivery.UnknownOutcome); err != nil {
		return s, fmt.Errorf("delivery.unknown_outcome: %w", err)
	}
	return s, nil
}

// configureDelivery puts other settings in force. With an error nothing of the
// dispatcher's has changed.
func (a *Appliance) configureDelivery(c config.Config) error {
	set, err := a.delivery.channels.prepare(c)
	if err == nil {
		var settings sink.DeliveryConfig
		if settings, err = a.deliverySettings(c, set); err == nil {
			err = a.dispatcher.Configure(settings)
		}
	}
	if err != nil {
		a.delivery.channels.discard(set)
		return err
	}
	if err := a.delivery.channels.adopt(c, set); err != nil {
		return err
	}
	a.api.Open(channelsOn(c), c.Channels.Webhook.AllowHTTP)
	return nil
}

// channelsOn are the channels that messages are accepted for.
func channelsOn(c config.Config) []message.Channel {
	on := []message.Channel{message.ChannelStore}
	for channel, enabled := range map[message.Channel]bool{message.ChannelWebhook: c.Channels.Webhook.Enabled,
		message.ChannelWhatsApp: c.Channels.WhatsApp.Enabled, message.ChannelEmail: c.Channels.Email.Enabled} {
		if enabled {
			on = append(on, channel)
		}
	}
	return on
}

func (a *Appliance) channelStopped(c message.Channel, why *message.Failure, _ time.Time) {
	a.delivery.mu.Lock()
	defer a.delivery.mu.Unlock()
	delete(a.delivery.stopped, c)
	if why != nil {
		a.delivery.stopped[c] = why.Code
	}
}

func (a *Appliance) channelsStatus(s *admin.Status) {
	worst := a.group.Breakers().Worst()
	a.delivery.mu.Lock()
	defer a.delivery.mu.Unlock()
	for _, c := range a.dispatcher.Stats() {
		if !c.Enabled {
			continue
		}
		name := c.Channel.String()
		s.Channels = append(s.Channels, admin.ChannelStatus{Name: name, Rate: c.Rate, Breaker: worst[name].Phase.String(),
			Queued: uint64(c.Queued), InFlight: uint64(c.InFlight), Parked: uint64(c.Parked), Sent: c.Sent, Failed: c.Failed,
			StoppedFor: a.delivery.stopped[c.Channel], ThrottledUntil: c.ThrottledUntil.UTC()})
	}
}

// renderCallback is the body of a callback (callbacks in httpapi/openapi.yaml).
func renderCallback(r *message.Record) ([]byte, error) {
	return json.Marshal(struct {
		Type      string            `json:"type"`
		Timestamp httpapi.Timestamp `json:"timestamp"`
		Data      httpapi.View      `json:"data"`
	}{"message." + r.Status.String(), httpapi.Timestamp{Time: time.Now().UTC()}, httpapi.ViewOf(r)}, json.Deterministic(true))
}

// journalAdapter is the log as the dispatcher sees it.
type journalAdapter struct{ *wal.Log }

func (j journalAdapter) Shelve(ctx context.Context, shelf uint64, entries []message.Entry) error {
	return j.Log.Shelve(ctx, wal.Shelf(shelf), entries)
}

func (j journalAdapter) Fetch(ctx context.Context, shelf uint64, n int) (int, bool, error) {
	return j.Log.Fetch(ctx, wal.Shelf(shelf), n)
}

func (j journalAdapter) Browse(shelf uint64, after message.ID, n int) ([]message.Entry, error) {
	return j.Log.Browse(wal.Shelf(shelf), after, n)
}

func (j journalAdapter) Shelves() ([]uint64, error) {
	shelves, err := j.Log.Shelves()
	numbers := make([]uint64, len(shelves))
	for i, s := range shelves {
		numbers[i] = uint64(s)
	}
	return numbers, err
}

func (j journalAdapter) Lookup(id message.ID) (message.Entry, error) {
	e, err := j.Log.Lookup(id)
	return e, notInLog(err)
}

func (j journalAdapter) Recall(ctx context.Context, id message.ID, state []byte) (message.Entry, error) {
	e, err := j.Log.Recall(ctx, id, state)
	return e, notInLog(err)
}

func notInLog(err error) error {
	if errors.Is(err, wal.ErrNotFound) {
		return sink.ErrNotFound
	}
	return err
}

// accountCache answers what delivery asks of accounts, as of a second ago or
// less: it is asked for every message.
type accountCache struct {
	group *raftstate.Group
	known sync.Map // account → cachedAccount
}

type cachedAccount struct {
	raftstate.AccountView
	found  bool
	weight int
	allows func(channel string) bool
	at     time.Time
}

const accountStale = time.Second

func (c *accountCache) get(id string) cachedAccount {
	if v, ok := c.known.Load(id); ok && time.Since(v.(cachedAccount).at) < accountStale {
		return v.(cachedAccount)
	}
	view, err := c.group.Account(id)
	known := cachedAccount{AccountView: view, found: err == nil, weight: 1, at: time.Now()}
	for _, p := range c.group.Plans() {
		if p.Name == view.Tier {
			known.allows = p.Allows
			known.weight = weightOf(p.RequestsPerMinute)
		}
	}
	c.known.Store(id, known)
	return known
}

// weightOf gives a plan with ten times the rate twice the turns: who pays for
// more waits less, and nobody waits for ever.
func weightOf(perMinute int) int {
	weight := 1
	for ; perMinute >= 1000; perMinute /= 10 {
		weight *= 2
	}
	return weight
}

func (c *accountCache) weight(id string) int { return c.get(id).weight }

// admit is the part of validation that knows plans. Accounts that are gone or
// suspended still have delivered what they were promised.
func (c *accountCache) admit(id string, channel message.Channel) *message.Failure {
	a := c.get(id)
	if a.allows == nil || a.allows(channel.String()) {
		return nil
	}
	return &message.Failure{Code: "channel_not_in_plan", Category: "account", Message: "the account's plan does not have the channel " + channel.String()}
}

func (c *accountCache) callbackURL(r *message.Record) string {
	if r.CallbackURL != "" {
		return r.CallbackURL
	}
	return c.get(r.Account).CallbackURL
}
