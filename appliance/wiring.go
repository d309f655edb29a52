package appliance

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"forebay/appliance/config"
	"forebay/httpapi"
	"forebay/raftstate"
	"forebay/raftstate/account"
	"forebay/sink"
	"forebay/sink/embedded"
	"forebay/sink/postgres"
	"forebay/wal"
	"forebay/wal/message"
)

// This file is where the rooms meet: what builds each part from the
// configuration, and the adapters between what one offers and another asks for.

func (a *Appliance) openLog() (err error) {
	b, shares := a.cfg.Buffer, a.cfg.Shares()
	a.log, err = wal.Open(wal.Config{
		Dir:            a.cfg.LogDir(),
		Node:           a.cfg.Node,
		Capacity:       b.Capacity,
		Threshold:      b.BackpressureThreshold,
		WindowBytes:    int64(shares.Window),
		MemTable:       int64(shares.LogMemTable),
		MaxDiskBytes:   int64(b.MaxDiskBytes),
		MinFreeBytes:   int64(b.MinFreeDiskBytes),
		IdempotencyTTL: b.IdempotencyTTL,
		Logger:         a.logger.With("part", "log"),
		Registerer:     a.registry,
		Fatal:          a.die,
	})
	return err
}

func (a *Appliance) openGroup() (err error) {
	c := groupOf(a.cfg)
	c.Cluster.Heartbeat = a.beat
	c.Fatal, c.Logger, c.Registerer = a.die, a.logger.With("part", "raft"), a.registry
	a.group, err = raftstate.Open(c)
	return err
}

// answerNodes has this node answer the others, who may ask as soon as its group is
// open: only now, when all is there that the answers need. Before, it does not know
// their calls.
func (a *Appliance) answerNodes() error {
	a.answerPeers()
	a.answerCancels()
	a.answerReports()
	a.answerFinds()
	a.answerLists()
	return nil
}

func (a *Appliance) openStore() (err error) {
	d := a.cfg.Database
	logger := a.logger.With("part", "store")
	if a.sharesStore() {
		c := databaseOf(a.cfg)
		c.Logger, c.Registerer = logger, a.registry
		a.store, err = asStore(postgres.New(c))
		return err
	}
	a.store, err = asStore(embedded.Open(embedded.Config{
		Dir:          a.path("store"),
		Retention:    max(d.Retention, a.cfg.Buffer.IdempotencyTTL),
		ClaimTTL:     a.cfg.Buffer.IdempotencyTTL,
		SlowQuery:    d.SlowQuery,
		MinFreeBytes: embeddedRoom(a.cfg),
		MemTable:     int64(a.cfg.Shares().StoreMemTable),
		Logger:       logger,
		Registerer:   a.registry,
	}))
	return err
}

// databaseOf is the configuration of the store in PostgreSQL.
func databaseOf(c config.Config) postgres.Config {
	d := c.Database
	return postgres.Config{URL: d.URL.Reveal(), MaxPoolSize: d.MaxPoolSize, MinPoolSize: d.MinPoolSize, ConnectionTimeout: d.ConnectionTimeout,
		SlowQuery: d.SlowQuery, Retention: d.Retention, IdempotencyTTL: c.Buffer.IdempotencyTTL}
}

// asStore keeps a nil *T from becoming a Store that is not nil.
func asStore[S sink.Store](s S, err error) (sink.Store, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (a *Appliance) buildPipeline() (err error) {
	shares := a.cfg.Shares()
	a.pipeline, err = sink.NewPipeline(sink.Config{
		Source:        a.log,
		Store:         a.store,
		Breakers:      a.storeBreakers(),
		BatchSize:     a.cfg.Buffer.BatchSize,
		BatchTimeout:  a.cfg.Buffer.BatchTimeout,
		MaxBatchBytes: int(shares.Batch),
		HeldBytes:     int(shares.Held),
		Grace:         a.cfg.HTTP.ShutdownTimeout / 4,
		Dispatcher:    a.dispatcher,
		OnStored:      a.stored.stored,
		Logger:        a.logger.With("part", "pipeline"),
		Registerer:    a.registry,
	})
	return err
}

func (a *Appliance) buildAPI() (err error) {
	limit, err := connectionLimit(a.cfg)
	if err != nil {
		return err
	}
	h := a.cfg.HTTP
	a.api, err = httpapi.New(httpapi.Config{
		MaxBodyBytes:   int(h.MaxBodyBytes),
		MaxBuffered:    int64(a.cfg.Shares().Bodies),
		MaxConnections: min(h.MaxConnections, limit),
		ReadTimeout:    h.ReadTimeout,
		IdleTimeout:    h.IdleTimeout,
		DefaultTTL:     a.cfg.Delivery.DefaultTTL,
		Channels:       channelsOn(a.cfg),
		AllowHTTP:      a.cfg.Channels.Webhook.AllowHTTP,
		Log:            logAdapter{a.log},
		Messages:       (*messages)(a),
		Life:           (*life)(a),
		Hook:           (*whatsAppHook)(a),
		Keys:           keysAdapter{a.group},
		Limiter:        a.limits,
		Ready:          a.publicReadiness,
		Pressure:       a.admission,
		Registerer:     a.registry,
		Logger:         a.logger.With("part", "http"),
	})
	return err
}

// plansOf turns the configured tiers into the group's plans, by name.
func plansOf(tiers map[string]config.Tier) []account.Plan {
	plans := make([]account.Plan, 0, len(tiers))
	for name, t := range tiers {
		plans = append(plans, account.Plan{Name: name, RequestsPerMinute: t.RequestsPerMinute, Burst: t.Burst, Concurrent: t.Concurrent, Mode: t.Mode})
	}
	slices.SortFunc(plans, func(x, y account.Plan) int {
		if x.Name < y.Name {
			return -1
		}
		return 1
	})
	return plans
}

// logAdapter is the log as the public API sees it.
type logAdapter struct{ log *wal.Log }

func (l logAdapter) Append(ctx context.Context, m *message.Message) (httpapi.Receipt, error) {
	r, err := l.log.Append(ctx, m)
	if err != nil {
		return httpapi.Receipt{}, refusal(err)
	}
	return httpapi.Receipt{ID: r.ID, Replayed: r.Replayed}, nil
}

func (l logAdapter) AppendBatch(ctx context.Context, ms []*message.Message, out []httpapi.Receipt) error {
	receipts := make([]wal.Receipt, len(ms))
	if err := l.log.AppendBatch(ctx, ms, receipts); err != nil {
		return refusal(err)
	}
	for i, r := range receipts {
		out[i] = httpapi.Receipt{ID: r.ID, Replayed: r.Replayed}
		if r.Err != nil {
			out[i].Err = refusal(r.Err)
		}
	}
	return nil
}

// refusal turns the log's errors into those that the API knows how to answer.
func refusal(err error) error {
	for _, pair := range [...]struct{ from, to error }{
		{wal.ErrFull, httpapi.ErrStorageFull},
		{wal.ErrStalled, httpapi.ErrStalled},
		{wal.ErrUnanswered, httpapi.ErrUnknown},
		{wal.ErrInProgress, httpapi.ErrInProgress},
		{wal.ErrKeyMismatch, httpapi.ErrMismatch},
		{wal.ErrTooLarge, httpapi.ErrTooLarge},
		{wal.ErrClosed, httpapi.ErrDraining},
	} {
		if errors.Is(err, pair.from) {
			return fmt.Errorf("%w: %w", pair.to, err)
		}
	}
	return err
}

// keysAdapter is the replicated state as the public API sees it.
type keysAdapter struct{ group *raftstate.Group }

func (k keysAdapter) Authenticate(key string) (httpapi.Principal, error) {
	p, err := k.group.Authenticate(key)
	switch {
	case errors.Is(err, raftstate.ErrUnknownKey):
		return httpapi.Principal{}, httpapi.ErrUnauthenticated
	case errors.Is(err, raftstate.ErrNotReady):
		return httpapi.Principal{}, httpapi.ErrUnavailable
	case err != nil:
		return httpapi.Principal{}, err
	}
	return httpapi.Principal{Account: p.Account, Plan: planOf(p.Plan), Channels: channelsOf(p.Plan), Test: p.Test, Suspended: p.Suspended, CallbackURL: p.CallbackURL}, nil
}

func channelsOf(plan *account.Plan) (set httpapi.ChannelSet) {
	if len(plan.Channels) == 0 {
		return ^set
	}
	for _, c := range message.Channels {
		if plan.Allows(c.String()) {
			set |= httpapi.ChannelsOf(c)
		}
	}
	return set
}

// messages answers questions about messages wherever they are: see
// cluster_messages.go.
type messages Appliance

func (m *messages) Wait(ctx context.Context, id message.ID) (message.State, error) {
	return m.stored.wait(ctx, id, func() (message.State, bool) {
		if _, err := m.log.Lookup(id); !errors.Is(err, wal.ErrNotFound) {
			return message.State{}, false
		}
		r, err := m.store.Get(ctx, "", id)
		return r.State, err == nil
	})
}

func fromStore(err error) error {
	var down *sink.Down
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sink.ErrNotFound):
		return httpapi.ErrNotFound
	case errors.As(err, &down):
		return fmt.Errorf("%w: %w", httpapi.ErrUnavailable, err)
	}
	return err
}
