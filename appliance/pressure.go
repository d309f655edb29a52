package appliance

import (
	"fmt"
	"time"

	"forebay/appliance/config"
	"forebay/appliance/pressure"
	"forebay/httpapi"
	"forebay/httpapi/admin"
)

// pressureLimits are what the signals are fractions of.
type pressureLimits struct {
	config.Config
	connections int // that clients may have open
}

// applyPressure has the ladder go by a configuration, from the next measurement
// on.
func (a *Appliance) applyPressure(c config.Config) error {
	files, err := connectionLimit(c)
	if err != nil {
		return err
	}
	a.pressed.Store(&pressureLimits{c, min(c.HTTP.MaxConnections, files)})
	return a.pressure.Configure(pressureSettings(c))
}

func (a *Appliance) buildPressure() (err error) {
	a.memory = pressure.NewMemoryMeter()
	a.pressure, err = pressure.New(pressure.Config{
		Measure:  a.readings,
		Settings: pressureSettings(a.cfg),
		// The window is what memory under pressure can do without: new records
		// stay on disk and are read back in order. Compaction gives way, too.
		OnChange:   func(_, to pressure.Level) { a.log.Spill(to >= pressure.Elevated) },
		Logger:     a.logger.With("part", "pressure"),
		Registerer: a.registry,
	})
	if err != nil {
		return err
	}
	return a.applyPressure(a.cfg)
}

// pressureSettings are what a reload changes of the ladder.
func pressureSettings(c config.Config) pressure.Settings {
	return pressure.Settings{
		Window: float64(c.Buffer.BackpressureThreshold) / float64(c.Buffer.Capacity),
		Memory: pressure.Rungs{Elevated: c.Memory.Elevated, High: c.Memory.High, Critical: c.Memory.Critical},
	}
}

const (
	// ageLimit, in times of alerts.backlog_age, is when the age of the backlog
	// counts as reached. An outage of the store ages it without harm, so this is
	// no reason to refuse anything: see pressure's table.
	ageLimit = 10
	// slowBatch is a batch so slow that the store has nothing to spare.
	slowBatch = 5 * time.Second
)

// readings measures the signals. Only the gauge's goroutine calls it.
func (a *Appliance) readings() (r pressure.Readings) {
	log, c := a.log.Stats(), a.pressed.Load()
	b := c.Buffer
	backlog := 0
	for _, n := range log.Backlog {
		backlog += n
	}
	of := func(s pressure.Signal, have, limit float64, format string, args ...any) {
		if limit > 0 {
			r[s] = pressure.Reading{Value: have / limit, Detail: fmt.Sprintf(format, args...)}
		}
	}
	of(pressure.Window, float64(backlog), float64(b.Capacity), "%d messages wait, buffer.capacity is %d", backlog, b.Capacity)
	of(pressure.Log, float64(log.DiskBytes), float64(b.MaxDiskBytes), "%s of %s (buffer.max_disk_bytes)", rough(log.DiskBytes), b.MaxDiskBytes)
	of(pressure.Disk, float64(b.MinFreeDiskBytes), float64(log.FreeBytes), "%s free, %s are kept free (buffer.min_free_disk_bytes)", rough(log.FreeBytes), b.MinFreeDiskBytes)
	memory := a.memory.Read()
	of(pressure.Memory, float64(memory.Reserved), float64(c.Memory.Limit), "%s of %s (memory.limit)", rough(memory.Reserved), rough(int64(c.Memory.Limit)))
	r[pressure.Memory].Full = memory.Resident >= uint64(c.Memory.Limit)
	of(pressure.Age, log.Oldest.Seconds(), ageLimit*c.Alerts.BacklogAge.Seconds(), "the oldest message waits for %v", log.Oldest.Round(time.Second))
	batch := a.pipeline.Stats().Latency
	if backlog == 0 {
		batch = 0 // of some time ago
	}
	of(pressure.Store, batch.Seconds(), slowBatch.Seconds(), "the last batch took %v", batch.Round(time.Millisecond))
	if a.apiListener != nil {
		open := a.apiListener.Active()
		of(pressure.Connections, float64(open), float64(c.connections), "%d of %d connections", open, c.connections)
	}
	return r
}

// rough is a size for people.
func rough[N int64 | uint64](bytes N) config.Size {
	return config.Size(bytes) / config.MiB * config.MiB
}

// admission is the ladder as the public API climbs it.
func (a *Appliance) admission() httpapi.Pressure {
	level, full := a.pressure.Level()
	switch {
	case a.log.Full():
		return httpapi.PressureStorage
	case full:
		return httpapi.PressureFull
	}
	return [...]httpapi.Pressure{
		pressure.Normal: httpapi.PressureNormal, pressure.Elevated: httpapi.PressureElevated,
		pressure.High: httpapi.PressureHigh, pressure.Critical: httpapi.PressureCritical,
	}[level]
}

func (a *Appliance) pressureStatus(s *admin.Status) {
	now := a.pressure.Status()
	p := &admin.PressureStatus{Level: now.Level.String(), Since: now.Since.UTC()}
	for _, signal := range now.Signals {
		p.Signals = append(p.Signals, admin.PressureSignal{Name: signal.Name, Level: signal.Level.String(), Value: signal.Value, Detail: signal.Detail})
	}
	s.Pressure = p
}
