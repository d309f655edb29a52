package loadtest

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"forebay/wal/message"
)

// Config says what to send where. Zero fields take the defaults of withDefaults.
type Config struct {
	// URL of the public API, http or https; default http://127.0.0.1:8080.
	URL string
	// RootCAs are trusted for https; nil: those of the system.
	RootCAs *x509.CertPool
	// Path is where messages are posted. Default /v1/messages.
	Path string
	// Keys are API keys; the messages take turns over them. At least one.
	Keys []string
	// Rate is messages a second over all connections, at most 10 million; 0 is a
	// closed loop.
	Rate float64
	// Connections is how many are kept open. Default 64.
	Connections int
	// Duration ends the sending; 0: only Count does. Answers are still waited
	// for, up to Timeout. Default 10s without a Count.
	Duration time.Duration
	// Count is how many messages to send; 0: as many as Duration allows.
	Count uint64
	// Ramp is how long the connecting takes before the clock starts. Default
	// 200 µs for each connection.
	Ramp time.Duration
	// Timeout bounds connecting, and the wait for an answer. Default 10s.
	Timeout time.Duration
	// Channel of the messages, default store, and To, where one is needed.
	Channel, To string
	// Priorities and Sizes are the mix. A size is the length of the message's
	// body text in bytes. Defaults: all normal; all 256.
	Priorities []Share[message.Priority]
	Sizes      []Share[int]
	// Seed makes a run reproducible.
	Seed uint64
	// Acked, if not nil, gets a line for each acknowledged message: its id, a
	// space, its client_ref. It is flushed before Run returns.
	Acked io.Writer
	// Progress, if not nil, is called each second while messages are sent.
	Progress func(Progress)
}

// Share is one value of a mix and how often it is taken, relative to the others.
type Share[T any] struct {
	Value  T
	Weight int
}

// Bounds of Config.
const (
	maxRate        = 10_000_000
	maxConnections = 1_000_000
	maxBodyText    = 2 << 20
	maxWeight      = 1_000_000
)

func (c Config) withDefaults() Config {
	c.URL = cmp.Or(c.URL, "http://127.0.0.1:8080")
	c.Path = cmp.Or(c.Path, "/v1/messages")
	c.Connections = cmp.Or(c.Connections, 64)
	c.Ramp = cmp.Or(c.Ramp, time.Duration(c.Connections)*200*time.Microsecond)
	c.Timeout = cmp.Or(c.Timeout, 10*time.Second)
	c.Channel = cmp.Or(c.Channel, message.ChannelStore.String())
	if c.Duration == 0 && c.Count == 0 {
		c.Duration = 10 * time.Second
	}
	if len(c.Priorities) == 0 {
		c.Priorities = []Share[message.Priority]{{message.Normal, 1}}
	}
	if len(c.Sizes) == 0 {
		c.Sizes = []Share[int]{{256, 1}}
	}
	return c
}

// Validate says what is wrong with the configuration once defaults are in.
func (c Config) Validate() error {
	c = c.withDefaults()
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("url %q is none of an API; write http://host:port", c.URL)
	case !strings.HasPrefix(c.Path, "/") || strings.ContainsAny(c.Path, " \r\n"):
		return fmt.Errorf("path %q: write /v1/messages or another path of the API", c.Path)
	case len(c.Keys) == 0:
		return errors.New("no API key: create one with `forebay key create ACCOUNT`")
	case slices.ContainsFunc(c.Keys, func(k string) bool { return k == "" || strings.ContainsAny(k, " \r\n") }):
		return errors.New("an API key is empty or has spaces in it; write one key a line")
	case !(c.Rate >= 0 && c.Rate <= maxRate):
		return fmt.Errorf("rate %v is out of range; write 0 to %d messages a second", c.Rate, maxRate)
	case c.Connections < 1 || c.Connections > maxConnections:
		return fmt.Errorf("%d connections are out of range; write 1 to %d", c.Connections, maxConnections)
	case c.Duration < 0 || c.Ramp < 0 || c.Timeout < time.Millisecond:
		return errors.New("a duration is negative, or the timeout under 1ms")
	}
	return c.validateMix()
}

func (c Config) validateMix() error {
	for _, s := range c.Sizes {
		if s.Value < 1 || s.Value > maxBodyText {
			return fmt.Errorf("size %d is out of range; write 1 to %d bytes", s.Value, maxBodyText)
		}
	}
	for _, s := range c.Priorities {
		if s.Value >= message.Lanes {
			return fmt.Errorf("priority %v does not exist", s.Value)
		}
	}
	if !weighted(c.Sizes) || !weighted(c.Priorities) {
		return fmt.Errorf("a weight is out of range; write 1 to %d", maxWeight)
	}
	return nil
}

func weighted[T any](shares []Share[T]) bool {
	return !slices.ContainsFunc(shares, func(s Share[T]) bool { return s.Weight < 1 || s.Weight > maxWeight })
}

// ParsePriorities reads a mix such as "critical:1,normal:8,low". A weight that
// is not written is 1.
func ParsePriorities(text string) ([]Share[message.Priority], error) {
	return parseMix(text, func(name string) (message.Priority, error) {
		p, ok := message.ParsePriority(name)
		if !ok {
			return 0, fmt.Errorf("priority %q does not exist; write critical, high, normal or low", name)
		}
		return p, nil
	})
}

// ParseSizes reads a mix such as "256:8,4096:2", in bytes.
func ParseSizes(text string) ([]Share[int], error) {
	return parseMix(text, func(digits string) (int, error) {
		n, err := strconv.Atoi(digits)
		if err != nil || n < 1 || n > maxBodyText {
			return 0, fmt.Errorf("size %q is out of range; write 1 to %d bytes", digits, maxBodyText)
		}
		return n, nil
	})
}

func parseMix[T any](text string, parse func(string) (T, error)) ([]Share[T], error) {
	var shares []Share[T]
	for part := range strings.SplitSeq(text, ",") {
		name, weight, given := strings.Cut(strings.TrimSpace(part), ":")
		value, err := parse(name)
		if err != nil {
			return nil, err
		}
		share := Share[T]{Value: value, Weight: 1}
		if given {
			if share.Weight, err = strconv.Atoi(weight); err != nil || share.Weight < 1 || share.Weight > maxWeight {
				return nil, fmt.Errorf("weight %q is out of range; write 1 to %d", weight, maxWeight)
			}
		}
		shares = append(shares, share)
	}
	return shares, nil
}

// spareFiles is what a process needs beside its connections.
const spareFiles = 100

// checkFileLimit fails before the first connection does.
func checkFileLimit(connections int) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read file limit: %w", err)
	}
	if need := uint64(connections) + spareFiles; need > limit.Cur {
		return fmt.Errorf("%d connections need %d open files and the limit is %d; raise it with `ulimit -n %d`", connections, need, limit.Cur, need)
	}
	return nil
}
