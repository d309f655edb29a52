package appliance

import (
	"sync"
	"time"

	"forebay/httpapi/admin"
	"forebay/sink/postgres"
	"forebay/wal/message"
)

// measure reads what the appliance is like for /status.json, the page and the
// alerts. Each part has its own function, which fills in its section; a part that is not
// there leaves it out. It is called about once a second and must not wait for
// anything.
func (a *Appliance) measure() admin.Status {
	s := admin.Status{Node: a.cfg.Node, Version: a.version, At: time.Now().UTC(), StartedAt: a.started.UTC(),
		UptimeSeconds: time.Since(a.started).Seconds(), Health: a.readiness().Status, Draining: a.draining.Load()}
	for _, section := range []func(*admin.Status){a.pressureStatus, a.intakeStatus, a.logStatus, a.storeStatus, a.channelsStatus, a.breakersStatus, a.endpointStatus, a.raftStatus, a.certificateStatus, a.limiterStatus, a.memoryStatus, a.configStatus} {
		section(&s)
	}
	return s
}

func (a *Appliance) intakeStatus(s *admin.Status) {
	in := a.api.Intake()
	s.Intake = admin.IntakeStatus{Rate: in.Rate, AcceptedTotal: in.AcceptedTotal, Refused: in.RefusedByCode, Latency: admin.Quantiles(in.Latency)}
}

func (a *Appliance) logStatus(s *admin.Status) {
	stats, b := a.log.Stats(), a.current().Buffer
	s.Log = admin.LogStatus{
		Backlog: map[string]uint64{}, Parked: uint64(stats.Parked), OldestAgeSeconds: stats.Oldest.Seconds(),
		DiskBytes: uint64(stats.DiskBytes), DiskLimitBytes: uint64(b.MaxDiskBytes),
		FreeBytes: uint64(stats.FreeBytes), MinFreeBytes: uint64(b.MinFreeDiskBytes),
		Capacity: uint64(b.Capacity), Threshold: uint64(b.BackpressureThreshold),
		Backpressure: stats.Backpressure, Full: stats.Full, MissingMessages: a.missing.Load(),
		AppendLatency: a.appendTimes.read(time.Now(), a.log.AppendDuration()),
	}
	for lane, n := range stats.Backlog {
		s.Log.Backlog[message.Priority(lane).String()] = uint64(n)
	}
}

// absence is since when something is away, as whoever asks now and then finds it.
type absence struct {
	mu    sync.Mutex
	began time.Time // zero: it is there
}

// since takes what is found at a moment, and returns when it was found so first;
// zero: it is not away.
func (a *absence) since(away bool, now time.Time) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case !away:
		a.began = time.Time{}
	case a.began.IsZero():
		a.began = now
	}
	return a.began
}

func (a *Appliance) storeStatus(s *admin.Status) {
	drain, health := a.pipeline.Stats(), a.store.Health()
	since := a.storeAway.since(!health.Up, time.Now())
	if !drain.DownSince.IsZero() { // whoever has a message for it may know earlier, or better
		since = drain.DownSince
	}
	s.Store = admin.StoreStatus{
		Kind: health.Kind, Up: health.Up, Rate: drain.Rate, BatchSize: float64(drain.BatchSize),
		Latency: a.batchTimes.read(time.Now(), a.pipeline.BatchDuration()), DownSince: since, Detail: health.Detail,
	}
	if pooled, ok := a.store.(interface{ Pool() postgres.PoolStats }); ok {
		p := admin.PoolStatus(pooled.Pool())
		s.Store.Pool = &p
	}
}

func (a *Appliance) raftStatus(s *admin.Status) {
	group := a.group.Status()
	s.Raft = admin.RaftStatus{Role: group.Role, Term: group.Term, Leader: group.Leader, CertificateEnds: group.CertificateEnds}
	for _, m := range group.Members {
		member := admin.RaftMember{Node: m.Node, Address: m.Address, Role: m.Role, Reachable: &m.Reachable}
		if m.Reachable {
			member.Lag = &m.Lag
		}
		s.Raft.Members = append(s.Raft.Members, member)
	}
}
