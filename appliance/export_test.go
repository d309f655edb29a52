package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"forebay/appliance/config"
	"forebay/raftstate"
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

// KeepEndpoint puts into the replicated state that an account's webhook address has
// failed since then, as if that had been seen.
func (a *Appliance) KeepEndpoint(ctx context.Context, owner, address string, since time.Time, warned int) error {
	e, ok := webhook.EndpointOf(owner, address)
	if !ok {
		return fmt.Errorf("no address: %s", address)
	}
	return endpointKeeper{a.group}.Keep(ctx, webhook.Standing{Endpoint: e, Since: since, Warned: warned})
}

// InForce is what the parts that a key configures work with, not what the
// configuration says: one text where all of them agree, else all that they say.
// ok is false for keys that have no such figure.
func (a *Appliance) InForce(key string) (text string, ok bool) {
	f := figures{}
	a.logFigures(f)
	a.storeFigures(f)
	a.limitFigures(f)
	a.deliveryFigures(f)
	api, pressed := a.api.Limits(), a.pressed.Load()
	f.add("http.max_body_bytes", api.MaxBodyBytes)
	f.add("http.max_connections", api.MaxConnections, pressed.connections)
	f.add("http.read_timeout", api.ReadTimeout)
	f.add("http.idle_timeout", api.IdleTimeout)
	rungs, alerts := a.pressure.Settings().Memory, a.watch.Settings()
	f.add("memory.limit", int64(pressed.Memory.Limit))
	a.shareFigures(f, pressed.Config)
	f.add("memory.elevated", rungs.Elevated)
	f.add("memory.high", rungs.High, alerts.MemoryHigh)
	f.add("memory.critical", rungs.Critical, alerts.MemoryCritical)
	f.add("alerts.webhook_url", alerts.WebhookURL)
	f.add("alerts.p99_latency", alerts.P99Latency)
	f.add("alerts.error_rate", alerts.ErrorRate)
	f.add("alerts.backlog_age", alerts.BacklogAge, pressed.Alerts.BacklogAge)
	said, ok := f[key]
	return strings.Join(said, " and "), ok
}

// figures are what parts say of keys, each answer once.
type figures map[string][]string

func (f figures) add(key string, values ...any) {
	for _, v := range values {
		if text := fmt.Sprint(v); !slices.Contains(f[key], text) {
			f[key] = append(f[key], text)
		}
	}
}

func (a *Appliance) logFigures(f figures) {
	log, drain, pressed := a.log.Limits(), a.pipeline.Tuning(), a.pressed.Load().Buffer
	f.add("buffer.capacity", log.Capacity, pressed.Capacity)
	f.add("buffer.backpressure_threshold", log.Threshold)
	f.add("buffer.max_disk_bytes", log.MaxDiskBytes, int64(pressed.MaxDiskBytes))
	f.add("buffer.min_free_disk_bytes", log.MinFreeBytes, int64(pressed.MinFreeDiskBytes))
	f.add("buffer.idempotency_ttl", log.IdempotencyTTL)
	f.add("buffer.batch_size", drain.BatchSize)
	f.add("buffer.batch_timeout", drain.BatchTimeout)
	f.add("http.shutdown_timeout", drain.Grace*4, a.dispatcher.Delivery().Grace*4)
}

// shareFigures add to memory.limit the parts that have not the share of it that a
// configuration gives them.
func (a *Appliance) shareFigures(f figures, c config.Config) {
	want, drain := c.Shares(), a.pipeline.Tuning()
	for part, has := range map[string][2]int64{
		"bodies": {int64(want.Bodies), a.api.Limits().MaxBuffered}, "window": {int64(want.Window), a.log.Limits().WindowBytes},
		"batch": {int64(want.Batch), int64(drain.MaxBatchBytes)}, "held": {int64(want.Held), int64(drain.HeldBytes)},
		"queue": {int64(want.Queue), int64(a.dispatcher.Delivery().QueueBytes)},
	} {
		if has[0] != has[1] {
			f.add("memory.limit", fmt.Sprintf("%s: %d in place of %d", part, has[1], has[0]))
		}
	}
}

func (a *Appliance) storeFigures(f figures) {
	switch s := a.store.(type) {
	case *postgres.Store:
		t := s.Tuning()
		f.add("database.max_pool_size", t.MaxPoolSize)
		f.add("database.min_pool_size", t.MinPoolSize)
		f.add("database.connection_timeout", t.ConnectionTimeout)
		f.add("database.slow_query", t.SlowQuery)
		f.add("database.retention", t.Retention)
		f.add("buffer.idempotency_ttl", t.IdempotencyTTL)
	case *embedded.Store:
		t := s.Tuning()
		f.add("database.slow_query", t.SlowQuery)
		f.add("database.retention", t.Retention)
		f.add("buffer.idempotency_ttl", t.ClaimTTL)
	}
}

func (a *Appliance) limitFigures(f figures) {
	for _, p := range a.group.Plans() {
		tier := "rate_limiting.tiers." + p.Name + "."
		f.add(tier+"requests_per_minute", p.RequestsPerMinute)
		f.add(tier+"burst", p.Burst)
		f.add(tier+"concurrent", p.Concurrent)
		f.add(tier+"mode", p.Mode)
	}
	f.add("rate_limiting.window", a.limits.window())
	f.add("rate_limiting.enabled", a.limits.enabled.Load())
	f.add("rate_limiting.without_quorum", map[bool]string{true: "refuse", false: "floor"}[a.limits.spender.Refuses()])
	b := a.group.Breakers().Settings()
	f.add("circuit_breaker.failure_threshold", b.Threshold)
	f.add("circuit_breaker.timeout", b.Timeout, a.dispatcher.Delivery().AttemptTimeout)
	f.add("circuit_breaker.recovery_time", b.Recovery)
}

func (a *Appliance) deliveryFigures(f figures) {
	d, hooks := a.dispatcher.Delivery(), a.delivery.channels.webhook.Settings()
	f.add("delivery.max_attempts", d.MaxAttempts)
	f.add("delivery.base_delay", d.BaseDelay)
	f.add("delivery.max_delay", d.MaxDelay)
	f.add("delivery.default_ttl", a.api.Limits().DefaultTTL)
	f.add("delivery.workers_per_channel", d.Workers)
	f.add("delivery.unknown_outcome", map[sink.Policy]string{sink.PolicyRetry: "retry", sink.PolicyFail: "fail"}[d.UnknownOutcome])
	f.add("delivery.per_account_in_flight", d.PerAccount)
	f.add("delivery.per_host_in_flight", d.PerHost, hooks.PerHost)
	f.add("channels.webhook.timeout", hooks.Timeout)
	f.add("channels.webhook.allow_cidrs", hooks.Allow)
	f.add("channels.webhook.allow_http", hooks.AllowHTTP)
	if c, on := d.Channels[message.ChannelWhatsApp]; on {
		f.add("channels.whatsapp.messages_per_second", c.PerSecond)
	}
}

// CallsAtStart are the codes of this node's answers to what others may ask of it, at
// the moment at which its group is open and nothing else: that is when they begin.
func CallsAtStart(ctx context.Context, c config.Config) (codes map[string]string, err error) {
	a := &Appliance{cfg: c, logger: slog.New(slog.DiscardHandler), registry: prometheus.NewRegistry(), fatal: make(chan error, 1)}
	if err := a.openGroup(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	codes = map[string]string{}
	for _, path := range []string{callMessage, callCancel, callReports, callFind, callPresent, callSending} {
		_, err := a.group.Call(ctx, c.Node, path, []byte("null"))
		refusal, _ := errors.AsType[*raftstate.CallError](err)
		if codes[path] = "answered"; refusal != nil {
			codes[path] = refusal.Code
		}
	}
	return codes, nil
}
