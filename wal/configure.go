package wal

import (
	"errors"
	"time"
)

// Limits are the settings of a Log that change while it runs. Zero fields take
// the defaults of Config.
type Limits struct {
	Capacity       int           // see Config.Capacity
	WindowBytes    int64         // see Config.WindowBytes
	Threshold      int           // see Config.Threshold
	MaxDiskBytes   int64         // see Config.MaxDiskBytes
	MinFreeBytes   int64         // see Config.MinFreeBytes
	IdempotencyTTL time.Duration // see Config.IdempotencyTTL; of keys that are claimed from now on
}

// Limits returns those in force.
func (l *Log) Limits() Limits { return *l.limits.Load() }

// Configure changes the limits. Records in memory over a smaller capacity stay
// there until they are handed out; a disk limit counts from the next append. With
// an error nothing has changed.
func (l *Log) Configure(n Limits) error {
	cfg := l.cfg
	cfg.Capacity, cfg.WindowBytes, cfg.Threshold, cfg.MaxDiskBytes, cfg.MinFreeBytes, cfg.IdempotencyTTL =
		n.Capacity, n.WindowBytes, n.Threshold, n.MaxDiskBytes, n.MinFreeBytes, n.IdempotencyTTL
	if n.IdempotencyTTL < 0 {
		return errors.New("log: the idempotency time is negative")
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	n = cfg.withDefaults().limits()
	l.limits.Store(&n)
	l.window.configure(n)
	l.wakeUpkeep() // it measures by the new limits, and may open the door
	return nil
}

func (c Config) limits() Limits {
	return Limits{c.Capacity, c.WindowBytes, c.Threshold, c.MaxDiskBytes, c.MinFreeBytes, c.IdempotencyTTL}
}

func (w *window) configure(n Limits) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.capacity, w.maxBytes, w.threshold = n.Capacity, n.WindowBytes, n.Threshold
	w.judgeLocked()
}
