package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxBody        = 960 * KiB // a record must fit one transaction of the log, and stay out of its value log
	minMemoryLimit = 128 * MiB
	// A second database, of which a compaction makes large tables in memory.
	minMemoryEmbedded = 192 * MiB
	minLogDisk        = 64 * MiB
	maxSocketPath     = 107 // sockaddr_un
	maxPlan           = 1_000_000_000
)

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)

func environmentName(s string) bool { return namePattern.MatchString(s) }

// Validate checks every rule over the values of c, those of parts that are
// switched off too, and returns all that is broken, as Problems. It reads no
// files.
func (c *Config) Validate() error {
	v := &validator{}
	v.base(c)
	v.http(&c.HTTP, c.AdminSocket())
	v.buffer(&c.Buffer)
	v.memory(&c.Memory)
	v.room(c)
	v.limits(&c.RateLimiting, &c.CircuitBreaker)
	v.database(&c.Database)
	v.delivery(&c.Delivery)
	v.whatsapp(&c.Channels.WhatsApp)
	v.email(&c.Channels.Email)
	v.webhook(&c.Channels.Webhook)
	v.cluster(&c.Cluster, c.Node)
	v.apart("http.ops_listen", c.HTTP.OpsListen, "http.listen", c.HTTP.Listen)
	v.apart("cluster.listen", c.Cluster.Listen, "http.listen", c.HTTP.Listen)
	v.apart("cluster.listen", c.Cluster.Listen, "http.ops_listen", c.HTTP.OpsListen)
	v.alerts(&c.Alerts)
	v.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	v.oneOf("log.format", c.Log.Format, "json", "text")
	return v.problems.err()
}

type validator struct{ problems Problems }

func (v *validator) require(ok bool, key, format string, args ...any) {
	if !ok {
		v.problems.add("", key, format, args...)
	}
}

func between[T cmp.Ordered](v *validator, key string, x, low, high T) {
	v.require(x >= low && x <= high, key, "%v is out of range; write %v to %v", show(x), show(low), show(high))
}

func atLeast[T cmp.Ordered](v *validator, key string, x, low T) {
	v.require(x >= low, key, "%v is too small; write at least %v", show(x), show(low))
}

func show(x any) string {
	if d, ok := x.(time.Duration); ok {
		return FormatDuration(d)
	}
	return fmt.Sprint(x)
}

func (v *validator) oneOf(key, got string, allowed ...string) {
	if slices.Contains(allowed, got) {
		return
	}
	hint := "write " + strings.Join(allowed, " or ")
	if near := nearest(got, allowed); near != "" {
		hint = "did you mean " + near + "?"
	}
	v.require(false, key, "%s is not known; %s", excerpt(got), hint)
}

// address checks host:port, the port a number. Port 0 takes any free one.
func (v *validator) address(key, addr string, optional bool) (host string) {
	if addr == "" {
		v.require(optional, key, "is empty; write host:port, for example 127.0.0.1:8080")
		return ""
	}
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	v.require(err == nil, key, "%s is no address to listen on; write host:port, for example 127.0.0.1:8080 or :8080", excerpt(addr))
	return host
}

// isLoopback: an empty host listens everywhere.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// everywhere reports whether a host to listen on means all addresses.
func everywhere(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

// apart: two cannot listen at the same place.
func (v *validator) apart(key, addr, otherKey, other string) {
	host, port, err := net.SplitHostPort(addr)
	otherHost, otherPort, otherErr := net.SplitHostPort(other)
	if err != nil || otherErr != nil || port == "0" || port != otherPort {
		return // what is no address has been said
	}
	v.require(host != otherHost && !everywhere(host) && !everywhere(otherHost), key, "%s takes the port of %s, which is %s; choose another", excerpt(addr), otherKey, other)
}

func (v *validator) url(key, text string, schemes ...string) {
	u, err := url.Parse(text)
	v.require(err == nil && u.Host != "" && slices.Contains(schemes, u.Scheme), key,
		"is no URL; write %s://host/path", strings.Join(schemes, ":// or "))
}

// together: some keys make sense only with the others.
func (v *validator) together(keys []string, values ...string) {
	missing, set := []string{}, false
	for i, value := range values {
		if set = set || value != ""; value == "" {
			missing = append(missing, keys[i])
		}
	}
	if set && len(missing) > 0 {
		v.require(false, missing[0], "is empty; set %s, all of them or none", strings.Join(keys, ", "))
	}
}

func (v *validator) base(c *Config) {
	v.require(c.Node > 0, "node", "0 is out of range; write 1 to 65535")
	v.require(environmentName(c.Environment), "environment", "%s is no name of an environment; write small letters, digits, - and _, at most 32", excerpt(c.Environment))
	v.require(c.DataDir != "", "data_dir", "is empty; write the directory that keeps the messages")
}

func (v *validator) http(h *HTTP, socket string) {
	v.address("http.listen", h.Listen, false)
	v.address("http.ops_listen", h.OpsListen, true)
	v.require(len(socket) <= maxSocketPath, "http.admin_socket", "the path has %d bytes, a socket's may have %d; set a shorter one, for example /run/forebay/admin.sock", len(socket), maxSocketPath)
	v.together([]string{"http.tls_cert_file", "http.tls_key_file"}, h.TLSCertFile, h.TLSKeyFile)
	between(v, "http.max_body_bytes", h.MaxBodyBytes, KiB, maxBody)
	between(v, "http.max_connections", h.MaxConnections, 1, 1_000_000)
	between(v, "http.read_timeout", h.ReadTimeout, 100*time.Millisecond, 10*time.Minute)
	between(v, "http.idle_timeout", h.IdleTimeout, time.Second, time.Hour)
	between(v, "http.shutdown_timeout", h.ShutdownTimeout, time.Second, 10*time.Minute)
}

func (v *validator) buffer(b *Buffer) {
	between(v, "buffer.capacity", b.Capacity, 100, 10_000_000)
	v.require(b.BackpressureThreshold >= 1 && b.BackpressureThreshold <= b.Capacity, "buffer.backpressure_threshold",
		"%d is out of range; write 1 to buffer.capacity, which is %d, or auto", b.BackpressureThreshold, b.Capacity)
	between(v, "buffer.batch_size", b.BatchSize, 1, 10_000)
	between(v, "buffer.batch_timeout", b.BatchTimeout, time.Millisecond, time.Minute)
	atLeast(v, "buffer.max_disk_bytes", b.MaxDiskBytes, minLogDisk)
	between(v, "buffer.idempotency_ttl", b.IdempotencyTTL, time.Minute, 30*day)
}

func (v *validator) memory(m *Memory) {
	atLeast(v, "memory.limit", m.Limit, minMemoryLimit)
	v.require(m.Elevated > 0, "memory.elevated", "%v is out of range; write a fraction over 0", m.Elevated)
	v.require(m.High > m.Elevated, "memory.high", "%v is not over memory.elevated, which is %v; the three rise", m.High, m.Elevated)
	v.require(m.Critical > m.High, "memory.critical", "%v is not over memory.high, which is %v; the three rise", m.Critical, m.High)
	v.require(m.Critical <= 1, "memory.critical", "%v is out of range; write a fraction of at most 1", m.Critical)
}

// room: a log whose memtables are a large part of the memory could not keep inside
// it.
func (v *validator) room(c *Config) {
	need := memoryFor(c.HTTP.MaxBodyBytes)
	if c.Memory.Limit < minMemoryLimit || c.HTTP.MaxBodyBytes > maxBody {
		return // said already
	}
	v.require(!c.embedded() || c.Memory.Limit >= minMemoryEmbedded, "memory.limit", "%v is too small for the embedded store; write at least %v, or name a database in database.url_file", c.Memory.Limit, Size(minMemoryEmbedded))
	v.require(c.Memory.Limit >= need, "http.max_body_bytes", "%v is too large for memory.limit, which is %v; lower it, or give the process %v", c.HTTP.MaxBodyBytes, c.Memory.Limit, need)
}

func (v *validator) limits(r *RateLimiting, b *CircuitBreaker) {
	between(v, "rate_limiting.window", r.Window, time.Second, time.Hour)
	v.oneOf("rate_limiting.without_quorum", r.WithoutQuorum, "floor", "refuse")
	for name, t := range r.Tiers {
		key := "rate_limiting.tiers." + name
		v.require(namePattern.MatchString(name), key, "is no name of a plan; write small letters, digits, - and _, at most 32")
		for what, n := range map[string]int{"requests_per_minute": t.RequestsPerMinute, "burst": t.Burst, "concurrent": t.Concurrent} {
			atLeast(v, key+"."+what, n, 1)
			v.require(n <= maxPlan, key+"."+what, "%d is too large; write at most %d", n, int(maxPlan))
		}
		v.oneOf(key+".mode", t.Mode, "enforce", "shadow")
	}
	between(v, "circuit_breaker.failure_threshold", b.FailureThreshold, 1, 1000)
	between(v, "circuit_breaker.timeout", b.Timeout, 100*time.Millisecond, 10*time.Minute)
	between(v, "circuit_breaker.recovery_time", b.RecoveryTime, 100*time.Millisecond, day)
}

func (v *validator) database(d *Database) {
	wrong := d.URL.check()
	v.require(wrong == "", "database.url", "%s", wrong)
	v.require(d.URL == "" || d.URLFile == "", "database.url_file", "is set beside database.url; keep one of them")
	between(v, "database.max_pool_size", d.MaxPoolSize, 1, 10_000)
	v.require(d.MinPoolSize >= 0 && d.MinPoolSize <= d.MaxPoolSize, "database.min_pool_size",
		"%d is out of range; write 0 to database.max_pool_size, which is %d", d.MinPoolSize, d.MaxPoolSize)
	between(v, "database.connection_timeout", d.ConnectionTimeout, 100*time.Millisecond, 10*time.Minute)
	between(v, "database.slow_query", d.SlowQuery, time.Millisecond, 10*time.Minute)
	atLeast(v, "database.retention", d.Retention, time.Hour)
}
