package config

import "time"

// The sections of this file set what the appliance does with messages beyond
// keeping them: limits, breakers, delivery, channels, cluster, alerts.

// RateLimiting holds accounts to their plans.
type RateLimiting struct {
	// Enabled: false admits every account without counting. Default true.
	Enabled bool `yaml:"enabled" change:"live"`
	// Distributed: false lets each node count alone. Default true.
	Distributed bool `yaml:"distributed" change:"restart"`
	// Window is the length of the sliding window, 1s to 1h. Default 1m.
	Window time.Duration `yaml:"window" change:"cluster"`
	// WithoutQuorum: floor goes on with each node's standing reserve, refuse
	// answers 503 at once. Default floor.
	WithoutQuorum string `yaml:"without_quorum" change:"live"`
	// Tiers are the plans by name. Default basic, premium and enterprise; a
	// file adds to them or changes single values.
	Tiers map[string]Tier `yaml:"tiers" change:"cluster"`
}

// Tier is what a plan allows.
type Tier struct {
	// RequestsPerMinute is the limit over any window, at least 1.
	RequestsPerMinute int `yaml:"requests_per_minute" change:"cluster"`
	// Burst is how many may come at once, at least 1.
	Burst int `yaml:"burst" change:"cluster"`
	// Concurrent is how many requests may be in flight, at least 1.
	Concurrent int `yaml:"concurrent" change:"cluster"`
	// Mode: enforce, or shadow, which counts and refuses nothing. Default enforce.
	Mode string `yaml:"mode" change:"cluster"`
}

// CircuitBreaker protects the outside services and those who wait for them.
type CircuitBreaker struct {
	// FailureThreshold is how many failures in a row open a breaker, 1 to 1,000.
	// Default 5.
	FailureThreshold int `yaml:"failure_threshold" change:"cluster"`
	// Timeout bounds one call, 100ms to 10m. Default 30s.
	Timeout time.Duration `yaml:"timeout" change:"cluster"`
	// RecoveryTime is how long an open breaker waits for its probe, 100ms to
	// 24h. Default 60s.
	RecoveryTime time.Duration `yaml:"recovery_time" change:"cluster"`
}

// Delivery is how messages are handed to channels.
type Delivery struct {
	// MaxAttempts is how often one message is tried, 1 to 100. Default 8.
	MaxAttempts int `yaml:"max_attempts" change:"live"`
	// BaseDelay and MaxDelay bound the exponential backoff, 1ms to 7d, the base
	// at most the maximum. Defaults 1s and 1h.
	BaseDelay time.Duration `yaml:"base_delay" change:"live"`
	MaxDelay  time.Duration `yaml:"max_delay" change:"live"`
	// DefaultTTL is how long a message without its own is worth sending, 1s to
	// 30d. Default 24h.
	DefaultTTL time.Duration `yaml:"default_ttl" change:"live"`
	// WorkersPerChannel is how many deliveries of a channel run at once, 1 to
	// 10,000. Default 32.
	WorkersPerChannel int `yaml:"workers_per_channel" change:"live"`
	// UnknownOutcome says what follows an attempt that was sent and not
	// answered: retry or fail. Default retry.
	UnknownOutcome string `yaml:"unknown_outcome" change:"live"`
	// PerAccountInFlight and PerHostInFlight cap what one account and one host
	// have in flight, 1 to 10,000. Defaults 16 and 8.
	PerAccountInFlight int `yaml:"per_account_in_flight" change:"live"`
	PerHostInFlight    int `yaml:"per_host_in_flight" change:"live"`
}

// Channels are the ways out.
type Channels struct {
	WhatsApp WhatsApp `yaml:"whatsapp"`
	Email    Email    `yaml:"email"`
	Webhook  Webhook  `yaml:"webhook"`
}

// WhatsApp is Meta's Cloud API.
type WhatsApp struct {
	// Enabled needs PhoneNumberID and AccessTokenFile. Default false.
	Enabled bool `yaml:"enabled" change:"live"`
	// BaseURL of the Graph API. Default https://graph.facebook.com.
	BaseURL string `yaml:"base_url" change:"live"`
	// APIVersion is the version part of its paths. Default v23.0.
	APIVersion string `yaml:"api_version" change:"live"`
	// PhoneNumberID is the sender's id.
	PhoneNumberID string `yaml:"phone_number_id" change:"live"`
	// AccessTokenFile, AppSecretFile and VerifyTokenFile hold the secrets for
	// sending, for the signature of updates and for their subscription.
	AccessTokenFile string `yaml:"access_token_file" change:"live"`
	AppSecretFile   string `yaml:"app_secret_file" change:"live"`
	VerifyTokenFile string `yaml:"verify_token_file" change:"live"`
	// MessagesPerSecond is the sending rate, 1 to 10,000. Default 80.
	MessagesPerSecond int `yaml:"messages_per_second" change:"live"`

	// What the three files hold, after ReadSecrets.
	AccessToken Secret `yaml:"-"`
	AppSecret   Secret `yaml:"-"`
	VerifyToken Secret `yaml:"-"`
}

// Email is an SMTP relay.
type Email struct {
	// Enabled needs Host and From. Default false.
	Enabled bool `yaml:"enabled" change:"live"`
	// Host and Port of the relay. Port 1–65535, default 587.
	Host string `yaml:"host" change:"live"`
	Port int    `yaml:"port" change:"live"`
	// TLS is starttls, implicit or none. Default starttls.
	TLS string `yaml:"tls" change:"live"`
	// Username and PasswordFile log in; empty: no login.
	Username     string `yaml:"username" change:"live"`
	PasswordFile string `yaml:"password_file" change:"live"`
	// From is the sender's address.
	From string `yaml:"from" change:"live"`
	// Connections is how many are kept open, 1 to 1,000. Default 8.
	Connections int `yaml:"connections" change:"live"`

	// Password is what PasswordFile holds, after ReadSecrets.
	Password Secret `yaml:"-"`
}

// Webhook is HTTP to anyone.
type Webhook struct {
	// Enabled: false refuses the channel and callbacks. Default true.
	Enabled bool `yaml:"enabled" change:"live"`
	// Timeout bounds one call, 100ms to 10m. Default 15s.
	Timeout time.Duration `yaml:"timeout" change:"live"`
	// AllowCIDRs are networks that are not public and allowed all the same.
	AllowCIDRs []string `yaml:"allow_cidrs" change:"live"`
	// AllowHTTP permits http:// addresses. Default false.
	AllowHTTP bool `yaml:"allow_http" change:"live"`
}

// Cluster joins several appliances.
type Cluster struct {
	// Listen is the cluster port, host:port; empty: a cluster of one. An
	// address that is not loopback needs the three TLS files.
	Listen string `yaml:"listen" change:"restart"`
	// Advertise is the address that the peers use; empty: Listen.
	Advertise string `yaml:"advertise" change:"restart"`
	// Peers are addresses by node number. With this node among them they are the
	// first members of a new group: one, three or five, the same on each. Without
	// it they are a group that this node joins when it is added to it.
	Peers map[uint16]string `yaml:"peers" change:"restart"`
	// TLSCertFile, TLSKeyFile and TLSCAFile are PEM files, all or none; read
	// again when they change. The certificate is for node-N.forebay.
	TLSCertFile string `yaml:"tls_cert_file" change:"restart"`
	TLSKeyFile  string `yaml:"tls_key_file" change:"restart"`
	TLSCAFile   string `yaml:"tls_ca_file" change:"restart"`
}

// Alerts are sent to an operator's webhook.
type Alerts struct {
	// WebhookURL receives them; empty: none are sent.
	WebhookURL string `yaml:"webhook_url" change:"live"`
	// P99Latency of acceptance over which an alert fires, 1ms to 1m. Default 500ms.
	P99Latency time.Duration `yaml:"p99_latency" change:"live"`
	// ErrorRate is the fraction of answers 5xx, over 0 and at most 1. Default 0.01.
	ErrorRate float64 `yaml:"error_rate" change:"live"`
	// BacklogAge is the age of the oldest waiting message, 1s to 7d. Default 1m.
	BacklogAge time.Duration `yaml:"backlog_age" change:"live"`
}
