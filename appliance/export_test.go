package appliance

import (
	"context"
	"fmt"
	"time"

	"forebay/sink"
	"forebay/sink/embedded"
	"forebay/sink/postgres"
	"forebay/sink/webhook"
	"forebay/wal/message"
)

// GiveUp gives up on reports of messages that were sent before t.
func (a *Appliance) GiveUp(ctx context.Context, t time.Time) int { return a.giveUp(ctx, t) }

// TellAgain makes the callbacks of records as they are.
func (a *Appliance) TellAgain(ctx context.Context, records []message.Record) error {
	return a.dispatcher.Callbacks(ctx, records)
}

// GiveUpAndDie is GiveUp of a process that ends between what it tells and what it
// changes.
func (a *Appliance) GiveUpAndDie(ctx context.Context, t time.Time) error {
	whole := a.store
	dying := &dyingStore{Store: whole}
	a.store = dying
	defer func() { a.store = whole }()
	a.giveUp(ctx, t)
	return dying.died
}

type dyingStore struct {
	sink.Store
	died error
}

func (s *dyingStore) Unreported(ctx context.Context, t time.Time, limit int, tell func([]message.Record) error) ([]message.Record, error) {
	return s.Store.Unreported(ctx, t, limit, func(records []message.Record) error {
		if err := tell(records); err != nil {
			return err
		}
		s.died = fmt.Errorf("the process ended after it told of %d messages", len(records))
		return s.died
	})
}

// HasStep reports whether a key changes while the appliance runs.
func (a *Appliance) HasStep(key string) bool { return a.reloads.stepOf(key) != nil }

// KeepEndpoint puts into the replicated state that an account's webhook address has
// failed since then, as if that had been seen.
func (a *Appliance) KeepEndpoint(ctx context.Context, owner, address string, since time.Time, warned int) error {
	e, ok := webhook.EndpointOf(owner, address)
	if !ok {
		return fmt.Errorf("no address: %s", address)
	}
	return endpointKeeper{a.group}.Keep(ctx, webhook.Standing{Endpoint: e, Since: since, Warned: warned})
}

// InForce is what the part that a key configures works with, not what the
// configuration says; ok is false for keys that have no such figure.
func (a *Appliance) InForce(key string) (text string, ok bool) {
	log, drain, api := a.log.Limits(), a.pipeline.Tuning(), a.api.Limits()
	figures := map[string]any{
		"buffer.capacity":               log.Capacity,
		"buffer.backpressure_threshold": log.Threshold,
		"buffer.max_disk_bytes":         log.MaxDiskBytes,
		"buffer.min_free_disk_bytes":    log.MinFreeBytes,
		"buffer.idempotency_ttl":        log.IdempotencyTTL,
		"buffer.batch_size":             drain.BatchSize,
		"buffer.batch_timeout":          drain.BatchTimeout,
		"http.shutdown_timeout":         drain.Grace * 4,
		"http.max_body_bytes":           api.MaxBodyBytes,
		"http.max_connections":          api.MaxConnections,
		"http.read_timeout":             api.ReadTimeout,
		"http.idle_timeout":             api.IdleTimeout,
		"delivery.default_ttl":          api.DefaultTTL,
	}
	switch s := a.store.(type) {
	case *postgres.Store:
		t := s.Tuning()
		figures["database.max_pool_size"], figures["database.min_pool_size"] = t.MaxPoolSize, t.MinPoolSize
		figures["database.connection_timeout"], figures["database.slow_query"], figures["database.retention"] = t.ConnectionTimeout, t.SlowQuery, t.Retention
	case *embedded.Store:
		figures["database.retention"] = s.Retention()
	}
	for _, p := range a.group.Plans() {
		tier := "rate_limiting.tiers." + p.Name + "."
		figures[tier+"requests_per_minute"], figures[tier+"burst"] = p.RequestsPerMinute, p.Burst
		figures[tier+"concurrent"], figures[tier+"mode"] = p.Concurrent, p.Mode
	}
	figures["rate_limiting.window"] = a.group.Window()
	b := a.group.Breakers().Settings()
	figures["circuit_breaker.failure_threshold"], figures["circuit_breaker.timeout"], figures["circuit_breaker.recovery_time"] = b.Threshold, b.Timeout, b.Recovery
	figure, ok := figures[key]
	return fmt.Sprint(figure), ok
}
