package postgres

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are the store's. Labels are names of ours: of statements, of states.
type metrics struct {
	duration  *prometheus.HistogramVec
	slow      *prometheus.CounterVec
	reclaimed *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, pool func() *pgxpool.Pool) *metrics {
	factory := promauto.With(reg) // nil: made, not registered
	for state, of := range map[string]func(*pgxpool.Stat) int32{
		"acquired": (*pgxpool.Stat).AcquiredConns, "idle": (*pgxpool.Stat).IdleConns, "opening": (*pgxpool.Stat).ConstructingConns,
	} {
		factory.NewGaugeFunc(prometheus.GaugeOpts{Name: "forebay_store_pool_connections",
			Help: "Connections to the database, by what they do.", ConstLabels: prometheus.Labels{"state": state}},
			func() float64 {
				if p := pool(); p != nil {
					return float64(of(p.Stat()))
				}
				return 0
			})
	}
	return &metrics{
		duration: factory.NewHistogramVec(prometheus.HistogramOpts{Name: "forebay_store_query_duration_seconds",
			Help: "How long a statement took, by its name.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160, NativeHistogramMinResetDuration: time.Hour}, []string{"query"}),
		slow: factory.NewCounterVec(prometheus.CounterOpts{Name: "forebay_store_slow_queries_total",
			Help: "Statements that took longer than database.slow_query, by name."}, []string{"query"}),
		reclaimed: factory.NewCounterVec(prometheus.CounterOpts{Name: "forebay_store_reclaimed_total",
			Help: "What retention removed: partitions, claims, messages set aside."}, []string{"what"}),
	}
}

// PoolStats counts the connections of the pool.
type PoolStats struct{ Acquired, Idle, Opening, Max uint64 }

// Pool returns what the connections do now; all 0 before the first one.
func (s *Store) Pool() PoolStats {
	p := s.pool.Load()
	if p == nil {
		return PoolStats{Max: uint64(s.settings.Load().pool.MaxConns)}
	}
	stat := p.Stat()
	return PoolStats{Acquired: uint64(stat.AcquiredConns()), Idle: uint64(stat.IdleConns()), Opening: uint64(stat.ConstructingConns()), Max: uint64(stat.MaxConns())}
}

// tracer times every statement that begins with a comment of its name,
// "/* insert */ …", which the database shows in its own views as well.
type tracer struct {
	metrics *metrics
	logger  *slog.Logger
	slow    atomic.Int64 // ns
	logged  atomic.Int64 // when a slow statement was last logged, Unix ms
}

// slowLogEvery bounds the lines about slow statements: when the database is
// slow, all are.
const slowLogEvery = time.Second

type traceKey struct{}

type trace struct {
	name  string
	start time.Time
}

// statementName returns the name in a statement's comment, or nothing.
func statementName(sql string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(sql, "/* "), " */")
	if len(name)+len("/*  */") > len(sql) || !strings.HasPrefix(sql, "/* ") {
		return ""
	}
	return name
}

// TraceQueryStart implements pgx.QueryTracer.
func (t *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if name := statementName(data.SQL); name != "" {
		return context.WithValue(ctx, traceKey{}, trace{name, time.Now()})
	}
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (t *tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if tr, ok := ctx.Value(traceKey{}).(trace); ok {
		t.observe(tr.name, time.Since(tr.start))
	}
}

// TraceBatchStart implements pgx.BatchTracer.
func (t *tracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

// TraceBatchQuery implements pgx.BatchTracer.
func (t *tracer) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	if name := statementName(data.SQL); name != "" && !data.ReadStartTime.IsZero() {
		t.observe(name, time.Since(data.ReadStartTime))
	}
}

// TraceBatchEnd implements pgx.BatchTracer.
func (t *tracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

func (t *tracer) observe(name string, took time.Duration) {
	t.metrics.duration.WithLabelValues(name).Observe(took.Seconds())
	if int64(took) < t.slow.Load() {
		return
	}
	t.metrics.slow.WithLabelValues(name).Inc()
	now, last := time.Now().UnixMilli(), t.logged.Load()
	if now-last >= slowLogEvery.Milliseconds() && t.logged.CompareAndSwap(last, now) {
		t.logger.Warn("slow statement", "query", name, "duration_ms", took.Milliseconds())
	}
}
