package embedded

import "time"

// Tuning is what of a Store changes while it runs: the fields of Config of these
// names. Zero fields take the defaults.
type Tuning struct {
	Retention, ClaimTTL time.Duration
	SlowQuery           time.Duration
	MinFreeBytes        uint64
}

// Configure changes the tuning. With an error nothing has changed.
func (s *Store) Configure(n Tuning) error {
	cfg := s.cfg
	cfg.Retention, cfg.ClaimTTL, cfg.SlowQuery, cfg.MinFreeBytes = n.Retention, n.ClaimTTL, n.SlowQuery, n.MinFreeBytes
	if err := cfg.Validate(); err != nil {
		return err
	}
	s.apply(cfg.withDefaults())
	return nil
}

func (s *Store) apply(c Config) {
	s.settings.Store(&Tuning{c.Retention, c.ClaimTTL, c.SlowQuery, c.MinFreeBytes})
}

// Tuning returns what is in force.
func (s *Store) Tuning() Tuning { return *s.settings.Load() }
