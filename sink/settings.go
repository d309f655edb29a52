package sink

import (
	"errors"
	"fmt"
	"time"

	"forebay/wal/message"
)

// DeliveryConfig is how messages are handed to channels. It can change while a
// Dispatcher runs (Configure). Zero fields take the defaults.
type DeliveryConfig struct {
	MaxAttempts    int           // 1–100, default 8
	BaseDelay      time.Duration // ceiling of the first retry's delay, default 1 s
	MaxDelay       time.Duration // and of all of them, default 1 h
	Workers        int           // attempts of one channel at once whose end is not yet in the log; 1–10,000, default 32
	AttemptTimeout time.Duration // of one attempt, default 30 s
	UnknownOutcome Policy        // default PolicyRetry
	PerAccount     int           // of one account in flight on one channel, calls alone; 1–10,000, default 16
	PerHost        int           // of one service in flight, calls alone; 1–10,000, default 8. Channels with one service are not held to it
	QueueBytes     int           // payload of one channel in memory, about; default 32 MiB
	Grace          time.Duration // what attempts under way get when the dispatcher is stopped; default 10 s

	// Channels are those that are switched on, with what is particular to each.
	// A message of a channel that is not here is rejected after acceptance.
	Channels map[message.Channel]ChannelConfig
}

// ChannelConfig is what may differ from channel to channel.
type ChannelConfig struct {
	// Sender makes the attempts; nil: the channel is switched off.
	Sender Channel
	// PerSecond is the pace of attempts; 0: none is kept.
	PerSecond float64
	// Calls is how many may be under way at once, where the channel has no more
	// connections: what waits for one must not use up an attempt. 0: as many as
	// there are workers.
	Calls int
	// UnknownOutcome overrides that of DeliveryConfig; zero: it does not.
	UnknownOutcome Policy
	// Reports: the provider says later what became of a message, to whichever node.
	// Before a message is tried once more, the store is asked whether it has.
	Reports bool
}

// Policy says what follows an attempt whose outcome is not known.
type Policy uint8

// The policies.
const (
	PolicyRetry Policy = iota + 1 // at least once
	PolicyFail                    // at most once
)

// ParsePolicy reads "retry" or "fail".
func ParsePolicy(s string) (Policy, error) {
	switch s {
	case "retry":
		return PolicyRetry, nil
	case "fail":
		return PolicyFail, nil
	}
	return 0, fmt.Errorf("%q: want retry or fail", s)
}

// withDefaults fills in what is zero.
func (c DeliveryConfig) withDefaults() DeliveryConfig {
	setDefault(&c.MaxAttempts, 8)
	setDefault(&c.BaseDelay, time.Second)
	setDefault(&c.MaxDelay, time.Hour)
	setDefault(&c.Workers, 32)
	setDefault(&c.AttemptTimeout, 30*time.Second)
	setDefault(&c.UnknownOutcome, PolicyRetry)
	setDefault(&c.PerAccount, 16)
	setDefault(&c.PerHost, 8)
	setDefault(&c.QueueBytes, 32<<20)
	setDefault(&c.Grace, 10*time.Second)
	return c
}

// Validate says what is wrong with the configuration, all of it.
func (c DeliveryConfig) Validate() error {
	c = c.withDefaults()
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.MaxAttempts >= 1 && c.MaxAttempts <= 100, "max attempts: %d, want 1 to 100", c.MaxAttempts)
	check(c.BaseDelay > 0 && c.MaxDelay >= c.BaseDelay, "delays: %v to %v, want more than 0 and in order", c.BaseDelay, c.MaxDelay)
	check(c.Workers >= 1 && c.Workers <= 10_000, "workers: %d, want 1 to 10,000", c.Workers)
	check(c.AttemptTimeout > 0, "attempt timeout: %v, want more than 0", c.AttemptTimeout)
	check(c.PerAccount >= 1 && c.PerAccount <= 10_000, "per account: %d, want 1 to 10,000", c.PerAccount)
	check(c.PerHost >= 1 && c.PerHost <= 10_000, "per host: %d, want 1 to 10,000", c.PerHost)
	check(c.QueueBytes >= 1, "queue bytes: %d, want at least 1", c.QueueBytes)
	check(c.Grace > 0, "grace: %v, want more than 0", c.Grace)
	check(c.UnknownOutcome == PolicyRetry || c.UnknownOutcome == PolicyFail, "unknown outcome: %d", c.UnknownOutcome)
	for channel, cc := range c.Channels {
		check(channel.Valid() && channel != message.ChannelStore, "channel %v: nothing is sent there", channel)
		check(cc.Calls >= 0, "channel %v: %d calls at once, want 0 or more", channel, cc.Calls)
		check(cc.PerSecond >= 0, "channel %v: %v per second, want 0 or more", channel, cc.PerSecond)
	}
	return errors.Join(errs...)
}
