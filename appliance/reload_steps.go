package appliance

import (
	"context"
	"fmt"
	"strings"

	"forebay/appliance/config"
	"forebay/httpapi"
	"forebay/httpapi/admin"
	"forebay/sink"
	"forebay/sink/embedded"
	"forebay/sink/postgres"
	"forebay/wal"
)

// step puts some keys in force. It is undone by applying it with the
// configuration before, so it must not depend on what was applied last.
type step struct {
	name  string
	keys  []string // keys, or sections whose keys all are its
	apply func(ctx context.Context, c config.Config) error
}

func (s *step) has(key string) bool {
	for _, k := range s.keys {
		if key == k || strings.HasPrefix(key, k+".") {
			return true
		}
	}
	return false
}

// steps are all that can change while the appliance runs, in the order in which
// it does. A key that is in none of them waits for a restart.
//
// First goes what may be refused: by the group, whose answer takes longest, and
// by the pool. Then what cannot fail with a configuration that is valid.
func (a *Appliance) steps(process func(config.Config) error) []step {
	all := []step{
		{"plans", []string{"rate_limiting.tiers"}, func(ctx context.Context, c config.Config) error {
			_, err := a.group.SetPlans(ctx, plansOf(c.RateLimiting.Tiers))
			return err
		}},
		{"limits", []string{"rate_limiting.window", "rate_limiting.enabled", "rate_limiting.without_quorum"},
			func(ctx context.Context, c config.Config) error { return a.limits.configure(ctx, c.RateLimiting) }},
		{"breakers", []string{"circuit_breaker"}, func(ctx context.Context, c config.Config) error {
			return a.group.SetBreakers(ctx, breakerSettings(c.CircuitBreaker))
		}},
		{"certificate", []string{"http.tls_cert_file", "http.tls_key_file"}, func(_ context.Context, c config.Config) error {
			certificate, err := loadCertificate(c.HTTP)
			if err == nil {
				a.apiListener.SetTLS(certificate)
				a.noteCertificate(certificate)
			}
			return err
		}},
		{"store", []string{"database.max_pool_size", "database.min_pool_size", "database.connection_timeout", "database.slow_query",
			"database.retention", "buffer.idempotency_ttl", "buffer.min_free_disk_bytes"}, a.applyStore},
		{"log", []string{"buffer.capacity", "buffer.backpressure_threshold", "buffer.max_disk_bytes", "buffer.min_free_disk_bytes",
			"buffer.idempotency_ttl", "memory.limit"}, func(_ context.Context, c config.Config) error { return a.log.Configure(logLimits(c)) }},
		{"pipeline", []string{"buffer.batch_size", "buffer.batch_timeout", "http.shutdown_timeout", "memory.limit"},
			func(_ context.Context, c config.Config) error { return a.pipeline.Configure(pipelineTuning(c)) }},
		{"http", []string{"http.max_body_bytes", "http.max_connections", "http.read_timeout", "http.idle_timeout", "delivery.default_ttl",
			"buffer.max_disk_bytes", "database.max_pool_size", // these two: files that connections leave free
			"memory.limit"}, a.applyHTTP},
		{"pressure", []string{"memory", "buffer.capacity", "buffer.backpressure_threshold", "buffer.max_disk_bytes",
			"buffer.min_free_disk_bytes", "alerts.backlog_age", "http.max_connections", "database.max_pool_size"},
			func(_ context.Context, c config.Config) error { return a.applyPressure(c) }},
		{"delivery", []string{"delivery", "channels", "circuit_breaker.timeout", // this one: of one attempt
			"http.shutdown_timeout", "memory.limit"},
			func(_ context.Context, c config.Config) error { return a.configureDelivery(c) }},
		{"admin token", []string{"http.admin_token_file"}, func(_ context.Context, c config.Config) error {
			a.admin.SetToken(admin.NewToken(c.HTTP.AdminToken.Reveal()))
			return nil
		}},
		{"watch", []string{"alerts", "memory.high", "memory.critical"},
			func(_ context.Context, c config.Config) error { return a.watch.Configure(watchSettings(c)) }},
	}
	if process != nil {
		all = append(all, step{"process", []string{"log", "memory.limit", "memory.elevated"},
			func(_ context.Context, c config.Config) error { return process(c) }})
	}
	return all
}

func logLimits(c config.Config) wal.Limits {
	b := c.Buffer
	return wal.Limits{Capacity: b.Capacity, WindowBytes: int64(c.Shares().Window), Threshold: b.BackpressureThreshold, MaxDiskBytes: int64(b.MaxDiskBytes),
		MinFreeBytes: int64(b.MinFreeDiskBytes), IdempotencyTTL: b.IdempotencyTTL}
}

func pipelineTuning(c config.Config) sink.Tuning {
	shares := c.Shares()
	return sink.Tuning{BatchSize: c.Buffer.BatchSize, BatchTimeout: c.Buffer.BatchTimeout, MaxBatchBytes: int(shares.Batch),
		HeldBytes: int(shares.Held), Grace: c.HTTP.ShutdownTimeout / 4}
}

func (a *Appliance) applyStore(_ context.Context, c config.Config) error {
	d, ttl := c.Database, c.Buffer.IdempotencyTTL
	switch s := a.store.(type) {
	case *postgres.Store:
		return s.Configure(postgres.Tuning{MaxPoolSize: d.MaxPoolSize, MinPoolSize: d.MinPoolSize, ConnectionTimeout: d.ConnectionTimeout,
			SlowQuery: d.SlowQuery, Retention: d.Retention, IdempotencyTTL: ttl})
	case *embedded.Store:
		return s.Configure(embedded.Tuning{Retention: max(d.Retention, ttl), ClaimTTL: ttl, SlowQuery: d.SlowQuery, MinFreeBytes: embeddedRoom(c)})
	}
	return fmt.Errorf("a store of type %T cannot be configured while it runs", a.store)
}

// embeddedRoom is half of what makes the log refuse: the store may still take in
// what the log has when the log takes nothing more.
func embeddedRoom(c config.Config) uint64 { return max(uint64(c.Buffer.MinFreeDiskBytes)/2, 64<<20) }

func (a *Appliance) applyHTTP(_ context.Context, c config.Config) error {
	limit, err := connectionLimit(c)
	if err != nil {
		return err
	}
	h := c.HTTP
	// A record must fit a memtable, and those are as large as they were at the start.
	if need := config.MemTableFor(h.MaxBodyBytes); int64(need) > a.log.MemTable() {
		return fmt.Errorf("http.max_body_bytes: %v needs a log with memtables of %v, which a restart makes", h.MaxBodyBytes, need)
	}
	return a.api.Configure(httpapi.Limits{MaxBodyBytes: int(h.MaxBodyBytes), MaxBuffered: int64(c.Shares().Bodies), MaxConnections: min(h.MaxConnections, limit),
		ReadTimeout: h.ReadTimeout, IdleTimeout: h.IdleTimeout, DefaultTTL: c.Delivery.DefaultTTL})
}
