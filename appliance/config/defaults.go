package config

import (
	"path/filepath"
	"time"
)

// DefaultPath is where the configuration is when nobody says otherwise.
const DefaultPath = "/etc/forebay/forebay.yaml"

// Default returns the defaults for the machine that it runs on.
func Default() Config { return defaults().derived(AvailableMemory()) }

// Dev returns the configuration of `forebay serve --dev`: the embedded store,
// loopback only, everything under dir, text for people. Its disk bounds suit a
// laptop.
func Dev(dir string) Config { return devDefaults(dir).derived(AvailableMemory()) }

func devDefaults(dir string) Config {
	c := defaults()
	c.Environment = "development"
	c.DataDir = filepath.Clean(dir)
	c.HTTP.Listen = "127.0.0.1:8080"
	c.Buffer.MaxDiskBytes = 2 * GiB
	c.Buffer.MinFreeDiskBytes = 256 * MiB
	c.Log.Format = "text"
	// The plans are there to be tried; this one is not in the way.
	c.RateLimiting.Tiers["development"] = Tier{RequestsPerMinute: 100_000_000, Burst: 1_000_000, Concurrent: 100_000, Mode: "enforce"}
	return c
}

// defaults leaves what depends on the machine at zero, which means auto.
func defaults() Config {
	return Config{
		Node: 1, Environment: "production", DataDir: "/var/lib/forebay",
		HTTP: HTTP{Listen: ":8080", OpsListen: "127.0.0.1:9090", MaxBodyBytes: 256 * KiB, MaxConnections: 20000,
			ReadTimeout: 10 * time.Second, IdleTimeout: 75 * time.Second, ShutdownTimeout: 25 * time.Second},
		Buffer: Buffer{BatchSize: 1000, BatchTimeout: 100 * time.Millisecond,
			MaxDiskBytes: 10 * GiB, MinFreeDiskBytes: GiB, IdempotencyTTL: 24 * time.Hour},
		Memory: Memory{Elevated: 0.70, High: 0.85, Critical: 0.95},
		RateLimiting: RateLimiting{Enabled: true, Distributed: true, Window: time.Minute, WithoutQuorum: "floor",
			Tiers: map[string]Tier{
				"basic":      {RequestsPerMinute: 100, Burst: 20, Concurrent: 10, Mode: "enforce"},
				"premium":    {RequestsPerMinute: 1000, Burst: 200, Concurrent: 100, Mode: "enforce"},
				"enterprise": {RequestsPerMinute: 10000, Burst: 2000, Concurrent: 1000, Mode: "enforce"},
			}},
		CircuitBreaker: CircuitBreaker{FailureThreshold: 5, Timeout: 30 * time.Second, RecoveryTime: 60 * time.Second},
		Database: Database{MaxPoolSize: 200, MinPoolSize: 10, ConnectionTimeout: 30 * time.Second,
			SlowQuery: 200 * time.Millisecond, Retention: 90 * day},
		Delivery: Delivery{MaxAttempts: 8, BaseDelay: time.Second, MaxDelay: time.Hour, DefaultTTL: 24 * time.Hour,
			WorkersPerChannel: 32, UnknownOutcome: "retry", PerAccountInFlight: 16, PerHostInFlight: 8},
		Channels: Channels{
			WhatsApp: WhatsApp{BaseURL: "https://graph.facebook.com", APIVersion: "v23.0", MessagesPerSecond: 80},
			Email:    Email{Port: 587, TLS: "starttls", Connections: 8},
			Webhook:  Webhook{Enabled: true, Timeout: 15 * time.Second, AllowCIDRs: []string{}},
		},
		Cluster: Cluster{Peers: map[uint16]string{}},
		Alerts:  Alerts{P99Latency: 500 * time.Millisecond, ErrorRate: 0.01, BacklogAge: time.Minute},
		Log:     Log{Level: "info", Format: "json"},
	}
}

const (
	maxDerivedCapacity = 50_000
	minDerivedCapacity = 1_000
	// memoryPerSlot is what one place in the window is reckoned to cost at
	// worst on average, several times a typical message, so that the window
	// stays a small part of the memory.
	memoryPerSlot = 16 * KiB
)

// derived fills in what is auto, from the memory that may be used.
func (c Config) derived(available Size) Config {
	if c.Buffer.Capacity == 0 {
		c.Buffer.Capacity = int(min(max(available/memoryPerSlot, minDerivedCapacity), maxDerivedCapacity))
	}
	if c.Buffer.BackpressureThreshold == 0 {
		c.Buffer.BackpressureThreshold = int(int64(c.Buffer.Capacity) * 8 / 10)
	}
	if c.Memory.Limit == 0 {
		c.Memory.Limit = max(available/10*7, c.leastMemory())
	}
	return c
}
