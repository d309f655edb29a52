package config

import (
	"path/filepath"
	"time"
)

// Config is everything an operator can set. The yaml tag is the key; the change
// tag says what it takes to change it: "live" while the appliance runs,
// "cluster" by agreement of all nodes, "restart" not without one.
type Config struct {
	// Node is this appliance's number, 1–65535. It is part of every message id,
	// so no two appliances of a cluster may share one. Default 1.
	Node uint16 `yaml:"node" change:"restart"`
	// Environment names the overlay forebay.ENVIRONMENT.yaml: small letters,
	// digits, - and _, at most 32. Default production.
	Environment string `yaml:"environment" change:"restart"`
	// DataDir holds the log, the replicated state and the embedded store.
	// Default /var/lib/forebay.
	DataDir string `yaml:"data_dir" change:"restart"`

	HTTP           HTTP           `yaml:"http"`
	Buffer         Buffer         `yaml:"buffer"`
	Memory         Memory         `yaml:"memory"`
	RateLimiting   RateLimiting   `yaml:"rate_limiting"`
	CircuitBreaker CircuitBreaker `yaml:"circuit_breaker"`
	Database       Database       `yaml:"database"`
	Delivery       Delivery       `yaml:"delivery"`
	Channels       Channels       `yaml:"channels"`
	Cluster        Cluster        `yaml:"cluster"`
	Alerts         Alerts         `yaml:"alerts"`
	Log            Log            `yaml:"log"`
}

// AdminSocket is the path of the admin socket: http.admin_socket, else
// admin.sock in the data directory.
func (c *Config) AdminSocket() string {
	if c.HTTP.AdminSocket != "" {
		return c.HTTP.AdminSocket
	}
	return filepath.Join(c.DataDir, "admin.sock")
}

// LogDir is where the write-ahead log is: wal in the data directory.
func (c *Config) LogDir() string { return filepath.Join(c.DataDir, "wal") }

// HTTP is how the appliance listens.
type HTTP struct {
	// Listen is the address of the public API, host:port. Default ":8080".
	Listen string `yaml:"listen" change:"restart"`
	// OpsListen is the address of status, metrics and administration, host:port;
	// empty: none. Default "127.0.0.1:9090". On an address that is not loopback
	// everything but health asks for the admin token.
	OpsListen string `yaml:"ops_listen" change:"restart"`
	// AdminSocket is the path of the Unix socket for administration, at most
	// 107 bytes. Default DATA_DIR/admin.sock; read it with Config.AdminSocket.
	AdminSocket string `yaml:"admin_socket" change:"restart"`
	// AdminTokenFile holds the token for administration over TCP. Empty: none,
	// administration over TCP is refused.
	AdminTokenFile string `yaml:"admin_token_file" change:"live"`
	// TLSCertFile and TLSKeyFile are PEM files for the public API, both or none.
	TLSCertFile string `yaml:"tls_cert_file" change:"live"`
	TLSKeyFile  string `yaml:"tls_key_file" change:"live"`
	// MaxBodyBytes bounds one message, 1 KiB to 960 KiB: a record of the log must
	// fit into one of its transactions. Default 256 KiB.
	MaxBodyBytes Size `yaml:"max_body_bytes" change:"live"`
	// MaxConnections bounds the open client connections, 1 to 1,000,000, and
	// below that by the process's file limit. Default 20,000.
	MaxConnections int `yaml:"max_connections" change:"live"`
	// ReadTimeout bounds the reading of one request, 100ms to 10m. Default 10s.
	ReadTimeout time.Duration `yaml:"read_timeout" change:"live"`
	// IdleTimeout closes a connection without requests, 1s to 1h. Default 75s.
	IdleTimeout time.Duration `yaml:"idle_timeout" change:"live"`
	// ShutdownTimeout bounds a graceful stop, 1s to 10m. Default 25s.
	ShutdownTimeout time.Duration `yaml:"shutdown_timeout" change:"live"`

	// AdminToken is what AdminTokenFile holds, after ReadSecrets.
	AdminToken Secret `yaml:"-"`
	// CertificateDigest tells what the two TLS files hold apart, after ReadSecrets.
	CertificateDigest string `yaml:"-"`
}

// Buffer is the log and the window of it that is kept in memory.
type Buffer struct {
	// Capacity is how many messages wait in memory, 100 to 10,000,000; more
	// wait on disk only. Default auto: one for each 16 KiB of available memory,
	// at least 1,000 and at most 50,000.
	Capacity int `yaml:"capacity" auto:"yes" change:"live"`
	// BackpressureThreshold is the fill, in messages, from which backpressure
	// is on. At most Capacity. Default auto: 80 % of Capacity.
	BackpressureThreshold int `yaml:"backpressure_threshold" auto:"yes" change:"live"`
	// BatchSize is the most messages written to the store at once, 1 to 10,000.
	// Default 1,000.
	BatchSize int `yaml:"batch_size" change:"live"`
	// BatchTimeout is how long a batch waits to fill, 1ms to 1m. Default 100ms.
	BatchTimeout time.Duration `yaml:"batch_timeout" change:"live"`
	// MaxDiskBytes bounds the log on disk, at least 64 MiB. Default 10 GiB.
	MaxDiskBytes Size `yaml:"max_disk_bytes" change:"live"`
	// MinFreeDiskBytes is the free space under which no message is accepted.
	// Default 1 GiB. The log keeps a lower bound of its own.
	MinFreeDiskBytes Size `yaml:"min_free_disk_bytes" change:"live"`
	// IdempotencyTTL is how long an idempotency key is remembered, 1m to 30d.
	// Default 24h.
	IdempotencyTTL time.Duration `yaml:"idempotency_ttl" change:"live"`
}

// Memory is what the process may use, and when it gets careful.
type Memory struct {
	// Limit is what the process keeps its own memory under, at least 128 MiB (with
	// the embedded store 192) and 420 times http.max_body_bytes: see Shares. Default
	// auto: 70 % of what the machine or its cgroup has; the rest is for mapped files.
	Limit Size `yaml:"limit" auto:"yes" change:"live"`
	// Elevated, High and Critical are fractions of Limit at which pressure
	// rises, ascending, each over 0 and at most 1. Defaults 0.70, 0.85, 0.95.
	Elevated float64 `yaml:"elevated" change:"live"`
	High     float64 `yaml:"high" change:"live"`
	Critical float64 `yaml:"critical" change:"live"`
}

// Database is the PostgreSQL behind the appliance. Without a URL the embedded
// store is used.
type Database struct {
	// URL is a postgres:// URL or a keyword=value string; empty: the embedded
	// store. It may hold a password, which is never printed.
	URL DSN `yaml:"url" change:"restart"`
	// URLFile is a file that holds the URL; not together with URL.
	URLFile string `yaml:"url_file" change:"restart"`
	// MaxPoolSize and MinPoolSize bound the open connections, 1 to 10,000 and 0
	// to MaxPoolSize. Defaults 200 and 10.
	MaxPoolSize int `yaml:"max_pool_size" change:"live"`
	MinPoolSize int `yaml:"min_pool_size" change:"live"`
	// ConnectionTimeout bounds one attempt to connect, 100ms to 10m. Default 30s.
	ConnectionTimeout time.Duration `yaml:"connection_timeout" change:"live"`
	// SlowQuery is the time from which a query is counted as slow, 1ms to 10m.
	// Default 200ms.
	SlowQuery time.Duration `yaml:"slow_query" change:"live"`
	// Retention is how long messages are kept in the store, at least 1h.
	// Default 90d.
	Retention time.Duration `yaml:"retention" change:"live"`
}

// Log is what the appliance says of itself, on standard error.
type Log struct {
	// Level is debug, info, warn or error. Default info.
	Level string `yaml:"level" change:"live"`
	// Format is json or text. Default json.
	Format string `yaml:"format" change:"live"`
}
