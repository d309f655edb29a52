package breaker

import (
	"errors"
	"fmt"
	"time"
)

// Settings are the same for every breaker of a group and are part of its state.
type Settings struct {
	Threshold int           // failures in a row that open a breaker; 1–1,000,000
	Timeout   time.Duration // bounds one call; 1 ms to 1 h
	Recovery  time.Duration // from opening to the first probe; 1 ms to 24 h
}

// DefaultSettings are circuit_breaker's defaults.
func DefaultSettings() Settings {
	return Settings{Threshold: 5, Timeout: 30 * time.Second, Recovery: time.Minute}
}

// Validate names all that is wrong.
func (s Settings) Validate() error {
	var errs []error
	if s.Threshold < 1 || s.Threshold > 1_000_000 {
		errs = append(errs, fmt.Errorf("threshold %d: want 1 to 1,000,000", s.Threshold))
	}
	if s.Timeout < time.Millisecond || s.Timeout > time.Hour {
		errs = append(errs, fmt.Errorf("timeout %v: want 1 ms to 1 h", s.Timeout))
	}
	if s.Recovery < time.Millisecond || s.Recovery > 24*time.Hour {
		errs = append(errs, fmt.Errorf("recovery time %v: want 1 ms to 24 h", s.Recovery))
	}
	return errors.Join(errs...)
}

// maxFactor is how many times the recovery time may grow.
const maxFactor = 10

// probeTime is how long a probe's permit is good for: its call's time-out, and a
// margin for the way of the report. In ms.
//
// A node begins the call while the permit has Timeout and probeMargin left.
func (s Settings) probeTime() uint64 { return ms(s.Timeout + s.Timeout/4 + 500*time.Millisecond) }

// probeMargin is how long before its permit's end a probe ends at the latest, for
// clocks of nodes and of the group that are not quite the same.
const probeMargin = 250 * time.Millisecond

func ms(d time.Duration) uint64 { return uint64(max(d, 0) / time.Millisecond) }

// settingsJSON is how settings stand in the log and in snapshots.
type settingsJSON struct {
	Threshold  int    `json:"threshold"`
	TimeoutMS  uint64 `json:"timeout_ms"`
	RecoveryMS uint64 `json:"recovery_ms"`
}

func (s Settings) json() settingsJSON {
	return settingsJSON{s.Threshold, ms(s.Timeout), ms(s.Recovery)}
}

func (j settingsJSON) settings() Settings {
	return Settings{j.Threshold, time.Duration(j.TimeoutMS) * time.Millisecond, time.Duration(j.RecoveryMS) * time.Millisecond}
}
