package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"forebay/wal/message"

	"github.com/prometheus/client_golang/prometheus"
)

// Defaults of Config.
const (
	DefaultMaxBodyBytes   = 256 << 10
	DefaultMaxConnections = 20000
	DefaultReadTimeout    = 10 * time.Second
	DefaultIdleTimeout    = 75 * time.Second
	DefaultStreamTimeout  = 60 * time.Second
	DefaultDrainGrace     = 2 * time.Second
	DefaultTTL            = 24 * time.Hour
)

const (
	// maxWait bounds Prefer: wait.
	maxWait = 30 * time.Second
	// maxTTL bounds ttl_seconds: 30 days.
	maxTTL = 2_592_000 * time.Second
	// maxHeaderBytes bounds a request's head; net/http allows 4 KiB more.
	maxHeaderBytes = 16 << 10
	// writeMargin is what a client gets to take an answer, after the longest
	// time that the answer itself may need.
	writeMargin = 15 * time.Second
)

// Config says how to build an API. Fields that are zero take their default.
type Config struct {
	MaxBodyBytes   int           // of a message, single or one line of a batch; at least 1 KiB
	MaxBuffered    int64         // bytes of bodies and messages in memory at a time; over it 503; default 512 times MaxBodyBytes
	MaxConnections int           // of one Listener; above it 503 and close
	ReadTimeout    time.Duration // for a request's head, and for its whole
	IdleTimeout    time.Duration // for the next request on a connection
	StreamTimeout  time.Duration // for the next whole line of a batch, and to take its answers
	DrainGrace     time.Duration // how long open batch streams go on answering after Drain
	DefaultTTL     time.Duration // of messages that name none, except on channel store; whole seconds
	Channels       []message.Channel
	AllowHTTP      bool // addresses of webhooks and callbacks may be http://

	Log      Log
	Messages Messages
	Keys     Keys
	Life     Life    // nil: messages cannot be canceled, requeued or counted
	Hook     Hook    // of /hooks/whatsapp; nil: not found
	Limiter  Limiter // nil: nothing is limited
	// Ready is asked by /readyz. nil: always ready.
	Ready func(context.Context) Readiness
	// Pressure says what is admitted. It is asked for each message and must
	// return at once. nil: all.
	Pressure func() Pressure

	Registerer prometheus.Registerer // nil: metrics are not registered
	Logger     *slog.Logger          // nil: nothing is logged
}

func (c *Config) setDefaults() {
	setDefault(&c.MaxBodyBytes, DefaultMaxBodyBytes)
	setDefault(&c.MaxBuffered, 512*int64(c.MaxBodyBytes))
	setDefault(&c.MaxConnections, DefaultMaxConnections)
	setDefault(&c.ReadTimeout, DefaultReadTimeout)
	setDefault(&c.IdleTimeout, DefaultIdleTimeout)
	setDefault(&c.StreamTimeout, DefaultStreamTimeout)
	setDefault(&c.DrainGrace, DefaultDrainGrace)
	setDefault(&c.DefaultTTL, DefaultTTL)
	if c.Channels == nil {
		c.Channels = []message.Channel{message.ChannelStore}
	}
	if c.Ready == nil {
		c.Ready = func(context.Context) Readiness { return Readiness{Status: StatusReady, Checks: map[string]any{}} }
	}
	if c.Pressure == nil {
		c.Pressure = func() Pressure { return PressureNormal }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports everything that is wrong with the configuration, by field.
// Fields that are zero are right: they stand for their defaults.
func (c *Config) Validate() error {
	full := *c
	full.setDefaults()
	return full.validate()
}

func (c *Config) validate() error {
	var errs []error
	bad := func(field, rule string, got any) {
		errs = append(errs, fmt.Errorf("%s: %s, got %v", field, rule, got))
	}
	if c.MaxBodyBytes < 1<<10 || c.MaxBodyBytes > 64<<20 {
		bad("max_body_bytes", "want 1 KiB to 64 MiB", c.MaxBodyBytes)
	}
	if c.MaxBuffered < 5*int64(c.MaxBodyBytes) {
		bad("max_buffered", "want at least five times max_body_bytes", c.MaxBuffered)
	}
	if c.MaxConnections < 1 {
		bad("max_connections", "want at least 1", c.MaxConnections)
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{
		{"read_timeout", c.ReadTimeout}, {"idle_timeout", c.IdleTimeout},
		{"stream_timeout", c.StreamTimeout}, {"drain_grace", c.DrainGrace},
	} {
		if d.value <= 0 {
			bad(d.field, "want a positive duration", d.value)
		}
	}
	if c.DefaultTTL < 0 || c.DefaultTTL > maxTTL || c.DefaultTTL%time.Second != 0 {
		bad("default_ttl", fmt.Sprintf("want whole seconds up to %s", maxTTL), c.DefaultTTL)
	}
	for _, ch := range c.Channels {
		if !ch.Valid() {
			bad("channels", "want channels that exist", ch)
		}
	}
	if c.Log == nil || c.Messages == nil || c.Keys == nil {
		errs = append(errs, errors.New("log, messages and keys: all three are needed"))
	}
	return errors.Join(errs...)
}
