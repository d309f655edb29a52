package embedded

import "time"

// settings are what Configure changes: the fields of Config of these names.
type settings struct {
	retention, claimTTL time.Duration
	minFree             uint64
}

// Configure changes how long messages and claims stay, and the room that the
// disk must have. Zero values take the defaults of Config. With an error nothing
// has changed.
func (s *Store) Configure(retention, claimTTL time.Duration, minFreeBytes uint64) error {
	cfg := s.cfg
	cfg.Retention, cfg.ClaimTTL, cfg.MinFreeBytes = retention, claimTTL, minFreeBytes
	if err := cfg.Validate(); err != nil {
		return err
	}
	s.apply(cfg.withDefaults())
	return nil
}

func (s *Store) apply(c Config) {
	s.settings.Store(&settings{c.Retention, c.ClaimTTL, c.MinFreeBytes})
}

// Retention is how long messages stay, as it is in force.
func (s *Store) Retention() time.Duration { return s.settings.Load().retention }
