package admin

import "time"

// Status is the answer to GET /status, /status.json, and each event of the feed.
// A section whose part this appliance does not have is left out.
type Status struct {
	Node          uint16          `json:"node"`
	Version       string          `json:"version"`
	At            time.Time       `json:"at"` // when it was measured, by the appliance's clock
	StartedAt     time.Time       `json:"started_at"`
	UptimeSeconds float64         `json:"uptime"`
	Health        string          `json:"health"` // ready, degraded, unready: as /readyz says
	Draining      bool            `json:"draining,omitzero"`
	Pressure      *PressureStatus `json:"pressure,omitzero"`
	Intake        IntakeStatus    `json:"intake"`
	Log           LogStatus       `json:"log"`
	Store         StoreStatus     `json:"store"`
	Channels      []ChannelStatus `json:"channels,omitzero"`  // by name
	Breakers      []BreakerStatus `json:"breakers,omitzero"`  // by name
	Endpoints     []Endpoint      `json:"endpoints,omitzero"` // webhook addresses that somebody was warned of, those switched off first; at most 200
	Limiter       *LimiterStatus  `json:"limiter,omitzero"`
	Raft          RaftStatus      `json:"raft"`
	Memory        *MemoryStatus   `json:"memory,omitzero"`
	Config        ConfigStatus    `json:"config"`
	Alerts        []Alert         `json:"alerts,omitzero"` // that fire now, the worst first
}

// Quantiles summarizes a latency, in seconds.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
}

// PressureStatus is where the appliance stands on the pressure ladder.
type PressureStatus struct {
	Level   string           `json:"level"` // normal, elevated, high, critical
	Since   time.Time        `json:"since,omitzero"`
	Signals []PressureSignal `json:"signals"` // the one that counts most first
}

// PressureSignal is one measure that the level follows from.
type PressureSignal struct {
	Name   string  `json:"name"`            // window, log, disk, memory, age, store, connections
	Level  string  `json:"level"`           // that it asks for by itself; not every signal may ask for all
	Value  float64 `json:"value"`           // fraction of its limit: 1 is at the limit
	Detail string  `json:"detail,omitzero"` // the figures behind it, for people
}

// IntakeStatus says what comes in.
type IntakeStatus struct {
	Rate          float64           `json:"rate"` // accepted messages a second, lately
	AcceptedTotal uint64            `json:"accepted_total"`
	Refused       map[string]uint64 `json:"refused"` // by problem code
	Latency       Quantiles         `json:"latency"`
	RefusedRate   float64           `json:"refused_rate"` // refusals a second, lately
	ErrorRate     float64           `json:"error_rate"`   // fraction of submissions answered 5xx, lately
}

// LogStatus says what waits in the write-ahead log.
type LogStatus struct {
	Backlog          map[string]uint64 `json:"backlog"` // messages, by lane
	Parked           uint64            `json:"parked"`  // that wait for their time, a retry or a breaker
	OldestAgeSeconds float64           `json:"oldest_age_seconds"`
	DiskBytes        uint64            `json:"disk_bytes"`                // allocated
	DiskLimitBytes   uint64            `json:"disk_limit_bytes,omitzero"` // buffer.max_disk_bytes
	FreeBytes        uint64            `json:"free_bytes,omitzero"`       // of the file system
	MinFreeBytes     uint64            `json:"min_free_bytes,omitzero"`   // buffer.min_free_disk_bytes
	Capacity         uint64            `json:"capacity,omitzero"`         // buffer.capacity
	Threshold        uint64            `json:"threshold,omitzero"`        // buffer.backpressure_threshold
	Backpressure     bool              `json:"backpressure"`
	MissingMessages  uint64            `json:"missing_messages,omitzero"` // by the last audit: must be 0
	Full             bool              `json:"full"`                      // a disk limit is reached: nothing is accepted
	AppendLatency    Quantiles         `json:"append_latency"`
}

// StoreStatus says how the drain is doing.
type StoreStatus struct {
	Kind      string      `json:"kind"` // postgres, embedded
	Up        bool        `json:"up"`
	Rate      float64     `json:"rate"`       // rows a second, lately
	BatchSize float64     `json:"batch_size"` // mean rows a batch, lately
	Latency   Quantiles   `json:"latency"`    // of a batch
	Pool      *PoolStatus `json:"pool,omitzero"`
	DownSince time.Time   `json:"down_since,omitzero"`
	Detail    string      `json:"detail,omitzero"` // why it is down
}

// PoolStatus counts the connections to the database.
type PoolStatus struct {
	Acquired uint64 `json:"acquired"`
	Idle     uint64 `json:"idle"`
	Opening  uint64 `json:"opening"`
	Max      uint64 `json:"max"`
}

// ChannelStatus says how one way out is doing.
type ChannelStatus struct {
	Name       string  `json:"name"`    // whatsapp, email, webhook
	Rate       float64 `json:"rate"`    // sent a second, lately
	Breaker    string  `json:"breaker"` // closed, half-open, open: of the whole channel; for webhook the worst of its hosts
	Queued     uint64  `json:"queued"`  // in memory, waiting for a worker
	InFlight   uint64  `json:"in_flight"`
	Parked     uint64  `json:"parked"`               // on disk
	Sent       uint64  `json:"sent"`                 // since the start
	Failed     uint64  `json:"failed"`               // finally, since the start
	StoppedFor string  `json:"stopped_for,omitzero"` // why it is stopped by itself, as bad credentials
	// ThrottledUntil is when the service takes messages again: it has asked that
	// nothing be sent before.
	ThrottledUntil time.Time `json:"throttled_until,omitzero"`
}

// BreakerStatus is one breaker as this node sees it.
type BreakerStatus struct {
	Name       string    `json:"name"`               // the service: whatsapp, email, database, webhook:HOST
	State      string    `json:"state"`              // closed, half-open, open
	Forced     string    `json:"forced,omitzero"`    // open or closed, by an operator
	ForcedBy   string    `json:"forced_by,omitzero"` // who did that, or set it to auto last
	ForcedAt   time.Time `json:"forced_at,omitzero"`
	OpenOn     []uint16  `json:"open_on,omitzero"` // nodes where it is open; left out: on all or none
	Since      time.Time `json:"since,omitzero"`   // of the state
	Failures   uint64    `json:"failures"`         // in a row
	Generation uint64    `json:"generation"`
	Reason     string    `json:"reason,omitzero"`     // of the last opening
	NextProbe  time.Time `json:"next_probe,omitzero"` // when it will be half-open
	Probing    uint16    `json:"probing,omitzero"`    // node that makes the probe of a half-open one
	Waiting    uint64    `json:"waiting,omitzero"`    // messages that wait for it on this node
	HostOff    bool      `json:"host_off,omitzero"`   // a webhook host that is switched off after long failure or 410
	HostNote   string    `json:"host_note,omitzero"`  // what happened to it
}

// LimiterStatus says how the limits are held.
type LimiterStatus struct {
	Mode              string       `json:"mode"`   // distributed, local, off
	Leases            uint64       `json:"leases"` // that this node holds
	CommandsPerSecond float64      `json:"commands_per_second"`
	Limited           uint64       `json:"limited"`           // submissions refused since the start
	Degraded          bool         `json:"degraded,omitzero"` // no quorum: standing reserves only
	TopAccounts       []TopAccount `json:"top_accounts"`      // the busiest on this node, first
}

// TopAccount is one account's use of its limits.
type TopAccount struct {
	Account string  `json:"account"`
	Tier    string  `json:"tier"`
	Rate    float64 `json:"rate"`  // messages in the last minute, this node
	Limit   uint64  `json:"limit"` // messages a minute, all nodes
	Refused uint64  `json:"refused,omitzero"`
}

// RaftStatus says how the group that holds accounts, limits and breakers is doing.
type RaftStatus struct {
	Role    string       `json:"role"` // leader, follower, candidate, shutdown
	Term    uint64       `json:"term"`
	Leader  uint16       `json:"leader"` // node; 0: none
	Members []RaftMember `json:"members"`
	// CertificateEnds is when the nearest of the certificates of the cluster
	// port and the public API ends.
	CertificateEnds time.Time `json:"certificate_ends,omitzero"`
}

// RaftMember is one node of the group.
type RaftMember struct {
	Node    uint16 `json:"node"`
	Address string `json:"address"`
	Role    string `json:"role"` // leader, voter, nonvoter
	// Reachable: this node heard from it lately; nil: not known here.
	Reachable *bool   `json:"reachable,omitzero"`
	Lag       *uint64 `json:"lag,omitzero"` // entries of the Raft log that it has not yet; nil: not known here
}

// MemoryStatus is the process's memory against its limit.
type MemoryStatus struct {
	UsedBytes  uint64 `json:"used_bytes"` // that the Go runtime counts against the limit
	LimitBytes uint64 `json:"limit_bytes"`
	Goroutines uint64 `json:"goroutines"`
}

// ConfigStatus says which configuration runs.
type ConfigStatus struct {
	Version  uint64    `json:"version"`
	LoadedAt time.Time `json:"loaded_at"`
	// Drift names what differs between this node's file and what the group has
	// agreed on, or waits for a restart.
	Drift     []string       `json:"drift,omitzero"`
	LastError string         `json:"last_error,omitzero"` // of the last reload, if it failed
	History   []ConfigChange `json:"history,omitzero"`    // the last few, newest first
}

// ConfigChange is one version of the configuration, in short.
type ConfigChange struct {
	Version uint64    `json:"version"`
	At      time.Time `json:"at"`
	Who     string    `json:"who,omitzero"`
	Source  string    `json:"source,omitzero"`
	Outcome string    `json:"outcome"`
	Changed []string  `json:"changed,omitzero"` // keys
}

// Alert is something that wants an operator.
type Alert struct {
	Name     string    `json:"name"`             // stable: database_down, backlog_age, …
	Subject  string    `json:"subject,omitzero"` // which one, where there are several: a breaker, a node
	Severity string    `json:"severity"`         // critical, warning, notice
	Since    time.Time `json:"since"`            // when its condition began to hold
	Summary  string    `json:"summary"`          // what is, in one sentence
	WhatToDo string    `json:"what_to_do"`       // what to do, with the command
}

// The words of Alert.Severity, the worst first.
const (
	SeverityCritical = "critical" // messages are refused or stand still: act now
	SeverityWarning  = "warning"  // nothing is lost and it will not mend itself: act today
	SeverityNotice   = "notice"   // worth knowing
)
