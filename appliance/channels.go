package appliance

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"forebay/appliance/config"
	"forebay/sink"
	"forebay/sink/email"
	"forebay/sink/webhook"
	"forebay/sink/whatsapp"
	"forebay/wal/message"
)

// This file makes the channels from the configuration, and other ones when it
// changes.

// channels are those in use. The webhook channel is one for good and takes other
// settings while it runs; the others are replaced when theirs change.
type channels struct {
	webhook  *webhook.Channel
	patience *webhook.Patience

	mu      sync.Mutex // guards what follows
	now     channelSet
	retired sync.WaitGroup // closings of replaced channels
	err     error          // of those
}

// channelSet are the channels of one version of the configuration; nil: off.
type channelSet struct {
	whatsapp *whatsapp.Channel
	email    *email.Channel
	from     config.Channels // what they were made from
}

// openChannels makes the channel that is always there.
func (a *Appliance) openChannels() (*channels, error) {
	patience, err := webhook.NewPatience(webhook.PatienceConfig{Keeper: endpointKeeper{a.group}, Warn: a.endpointFails,
		Logger: a.logger.With("part", "webhook"), Registerer: a.registry})
	if err != nil {
		return nil, err
	}
	settings, err := webhookSettings(a.cfg)
	if err != nil {
		return nil, err
	}
	hooks, err := webhook.New(webhook.Config{Settings: settings, Secrets: a.group, Patience: patience, UserAgent: "Forebay/" + a.version})
	return &channels{webhook: hooks, patience: patience}, err
}

// prepare makes the channels of a configuration; those whose settings stay the
// same are the ones in use. Nothing changes before adopt, or discard.
func (c *channels) prepare(cfg config.Config) (next channelSet, err error) {
	c.mu.Lock()
	now := c.now
	c.mu.Unlock()
	next.from = cfg.Channels
	if _, err := webhookSettings(cfg); err != nil {
		return next, err
	}
	if w := cfg.Channels.WhatsApp; w.Enabled {
		if next.whatsapp = now.whatsapp; next.whatsapp == nil || now.from.WhatsApp != w {
			if next.whatsapp, err = newWhatsApp(w); err != nil {
				return next, fmt.Errorf("channels.whatsapp: %w", err)
			}
		}
	}
	if e := cfg.Channels.Email; e.Enabled {
		if next.email = now.email; next.email == nil || now.from.Email != e {
			if next.email, err = newEmail(e); err != nil {
				return next, fmt.Errorf("channels.email: %w", err)
			}
		}
	}
	return next, nil
}

func newWhatsApp(w config.WhatsApp) (*whatsapp.Channel, error) {
	token, err := whatsapp.NewTokenFile(w.AccessTokenFile)
	if err != nil {
		return nil, err
	}
	return whatsapp.New(whatsapp.Config{BaseURL: w.BaseURL, Version: w.APIVersion, PhoneNumberID: w.PhoneNumberID, Token: token})
}

func newEmail(e config.Email) (*email.Channel, error) {
	return email.New(email.Config{Host: e.Host, Port: e.Port, TLS: e.TLS, Username: e.Username, Password: e.Password.Reveal(),
		From: e.From, Connections: e.Connections})
}

// senders are the channels as the dispatcher takes them.
func (c *channels) senders(set channelSet) map[message.Channel]sink.ChannelConfig {
	senders := map[message.Channel]sink.ChannelConfig{}
	if set.from.Webhook.Enabled {
		// A webhook that comes twice has the same webhook-id: to try again is
		// what its receivers expect, whatever delivery.unknown_outcome says.
		senders[message.ChannelWebhook] = sink.ChannelConfig{Sender: c.webhook, UnknownOutcome: sink.PolicyRetry}
	}
	if set.whatsapp != nil {
		senders[message.ChannelWhatsApp] = sink.ChannelConfig{Sender: set.whatsapp, PerSecond: float64(set.from.WhatsApp.MessagesPerSecond), Reports: true}
	}
	if set.email != nil {
		senders[message.ChannelEmail] = sink.ChannelConfig{Sender: set.email, Calls: set.from.Email.Connections}
	}
	return senders
}

// adopt puts prepared channels in use, after the dispatcher has taken them, and
// closes those that they replace once their last attempt has ended.
func (c *channels) adopt(cfg config.Config, next channelSet) error {
	settings, err := webhookSettings(cfg)
	if err == nil {
		err = c.webhook.Apply(settings)
	}
	c.mu.Lock()
	before := c.now
	c.now = next
	c.mu.Unlock()
	c.retire(before, next)
	return err
}

// discard closes prepared channels that are not to be used.
func (c *channels) discard(next channelSet) {
	c.mu.Lock()
	now := c.now
	c.mu.Unlock()
	c.retire(next, now)
}

// retire closes what is in gone and not in stays.
func (c *channels) retire(gone, stays channelSet) {
	if gone.whatsapp != nil && gone.whatsapp != stays.whatsapp {
		c.retired.Go(func() { c.closed(gone.whatsapp.Close()) })
	}
	if gone.email != nil && gone.email != stays.email {
		c.retired.Go(func() { c.closed(gone.email.Close()) })
	}
}

func (c *channels) closed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = errors.Join(c.err, err)
}

// close closes every channel. No attempt may be under way.
func (c *channels) close() error {
	c.mu.Lock()
	last := c.now
	c.now = channelSet{}
	c.mu.Unlock()
	c.retire(last, channelSet{})
	c.retired.Wait()
	return errors.Join(c.webhook.Close(), c.err)
}

func webhookSettings(c config.Config) (webhook.Settings, error) {
	w := c.Channels.Webhook
	settings := webhook.Settings{Timeout: w.Timeout, AllowHTTP: w.AllowHTTP, PerHost: c.Delivery.PerHostInFlight}
	for _, text := range w.AllowCIDRs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return settings, fmt.Errorf("channels.webhook.allow_cidrs: %w", err)
		}
		settings.Allow = append(settings.Allow, prefix)
	}
	return settings, settings.Validate()
}
