package sink

import (
	"fmt"
	"time"
)

// Tuning is what of a Pipeline changes while it runs. Zero fields take the
// defaults of Config.
type Tuning struct {
	BatchSize     int           // see Config.BatchSize; MaxBatch becomes five times that
	BatchTimeout  time.Duration // see Config.BatchTimeout
	MaxBatchBytes int           // see Config.MaxBatchBytes
	HeldBytes     int           // see Config.HeldBytes
	Grace         time.Duration // see Config.Grace
}

// Configure changes the tuning. Batches under way are not touched. With an error
// nothing has changed.
func (p *Pipeline) Configure(n Tuning) error {
	cfg := p.cfg
	cfg.BatchSize, cfg.BatchTimeout, cfg.MaxBatch = n.BatchSize, n.BatchTimeout, 0
	cfg.MaxBatchBytes, cfg.HeldBytes, cfg.Grace = n.MaxBatchBytes, n.HeldBytes, n.Grace
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("configure pipeline: %w", err)
	}
	cfg = cfg.withDefaults()
	p.sizer.configure(cfg.BatchSize, cfg.MaxBatch)
	p.tuning.Store(cfg.tuning())
	return nil
}

func (c Config) tuning() *Tuning {
	return &Tuning{c.BatchSize, c.BatchTimeout, c.MaxBatchBytes, c.HeldBytes, c.Grace}
}

// configure begins anew at the new base: what was learnt was of batches of
// another size.
func (s *sizer) configure(base, limit int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.floor, s.base, s.limit, s.size = max(base/10, 1), base, limit, base
}

// Tuning returns what is in force.
func (p *Pipeline) Tuning() Tuning { return *p.tuning.Load() }
