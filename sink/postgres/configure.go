package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Tuning is what of a Store changes while it runs: the fields of Config of these
// names, zero for their defaults.
type Tuning struct {
	MaxPoolSize, MinPoolSize  int
	ConnectionTimeout         time.Duration
	SlowQuery                 time.Duration
	Retention, IdempotencyTTL time.Duration
}

// settings are those in force.
type settings struct {
	Config
	pool *pgxpool.Config
}

// Configure changes the tuning. A pool of another size takes the place of the
// one there is at once; the calls that are under way end on the old one, which
// then closes, so for that long both have connections. It does not wait for the
// database. With an error nothing has changed.
func (s *Store) Configure(n Tuning) error {
	cfg := s.cfg
	cfg.MaxPoolSize, cfg.MinPoolSize, cfg.ConnectionTimeout = n.MaxPoolSize, n.MinPoolSize, n.ConnectionTimeout
	cfg.SlowQuery, cfg.Retention, cfg.IdempotencyTTL = n.SlowQuery, n.Retention, n.IdempotencyTTL
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("configure PostgreSQL: %w", err)
	}
	next, err := s.settingsOf(cfg.withDefaults())
	if err != nil {
		return fmt.Errorf("configure PostgreSQL: %w", err)
	}
	s.swapping.Lock()
	defer s.swapping.Unlock()
	old, oldPool := s.settings.Load(), s.pool.Load()
	same := old.MaxPoolSize == next.MaxPoolSize && old.MinPoolSize == next.MinPoolSize && old.ConnectionTimeout == next.ConnectionTimeout
	if oldPool != nil && !same {
		// It opens connections in the background, by its own time.
		pool, err := pgxpool.NewWithConfig(context.Background(), next.pool)
		if err != nil {
			return fmt.Errorf("replace the pool: %w", err)
		}
		s.pool.Store(pool)
		s.retired.Go(oldPool.Close) // waits for the connections that are out
	}
	s.settings.Store(next)
	s.tracer.slow.Store(int64(next.SlowQuery))
	return nil
}

func (s *Store) settingsOf(cfg Config) (*settings, error) {
	pc, err := cfg.poolConfig()
	if err != nil {
		return nil, err
	}
	pc.ConnConfig.Tracer = s.tracer
	pc.BeforeConnect = func(_ context.Context, cc *pgx.ConnConfig) error {
		if s.plain.Load() {
			withoutLimits(cc)
		}
		return nil
	}
	return &settings{cfg, pc}, nil
}

// openPool is for Run: the first pool.
func (s *Store) openPool(ctx context.Context) error {
	s.swapping.Lock()
	defer s.swapping.Unlock()
	pool, err := pgxpool.NewWithConfig(ctx, s.settings.Load().pool)
	if err == nil {
		s.pool.Store(pool)
	}
	return err
}

// Tuning returns what is in force.
func (s *Store) Tuning() Tuning {
	n := s.settings.Load()
	return Tuning{n.MaxPoolSize, n.MinPoolSize, n.ConnectionTimeout, n.SlowQuery, n.Retention, n.IdempotencyTTL}
}
