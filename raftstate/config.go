package raftstate

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"forebay/raftstate/account"
	"forebay/raftstate/breaker"
)

// Defaults of Config.
const (
	DefaultCommandTimeout    = 10 * time.Second
	DefaultStallLimit        = 5 * time.Second
	DefaultSnapshotThreshold = 8192
	DefaultTrailingLogs      = 10240
)

// Config says how to open a Group. NodeID, Dir, Plans and Fatal must be set.
type Config struct {
	NodeID uint16 // 1–65535; a directory belongs to one node for good
	Dir    string // of this package alone; made if it is not there

	// Plans are proposed to the group whenever this node comes to lead it and
	// the group's are others.
	Plans []account.Plan
	// Breakers are the settings of all circuit breakers, proposed like Plans.
	// Zero means breaker.DefaultSettings.
	Breakers breaker.Settings
	// Window is the window of all limits, proposed like Plans; 0: whatever the
	// group has.
	Window time.Duration

	// Cluster is how this node reaches others.
	Cluster ClusterConfig

	// Fatal must end the process. It is called at most once, from any
	// goroutine, and must not call back into the Group.
	Fatal func(error)

	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // nil: metrics are not registered

	// CommandTimeout bounds a change whose context has no earlier deadline.
	CommandTimeout time.Duration
	// StallLimit is how long one write to the log may take before it is fatal.
	StallLimit time.Duration
	// SnapshotThreshold is how many commands pass from one snapshot to the next.
	SnapshotThreshold uint64
	// TrailingLogs is how many commands stay in the log after a snapshot, for
	// nodes that are only a little behind.
	TrailingLogs uint64
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.CommandTimeout == 0 {
		c.CommandTimeout = DefaultCommandTimeout
	}
	if c.StallLimit == 0 {
		c.StallLimit = DefaultStallLimit
	}
	if c.SnapshotThreshold == 0 {
		c.SnapshotThreshold = DefaultSnapshotThreshold
	}
	if c.TrailingLogs == 0 {
		c.TrailingLogs = DefaultTrailingLogs
	}
	c.Cluster = c.Cluster.withDefaults(c.NodeID)
	c.Plans = normal(c.Plans)
	if c.Breakers == (breaker.Settings{}) {
		c.Breakers = breaker.DefaultSettings()
	}
	return c
}

func normal(plans []account.Plan) []account.Plan {
	out := make([]account.Plan, 0, len(plans))
	for _, p := range plans {
		out = append(out, p.Normal())
	}
	return out
}

// Validate names everything that is wrong with the configuration.
func (c Config) Validate() error {
	var errs []error
	if c.NodeID == 0 {
		errs = append(errs, errors.New("node must be 1 to 65535"))
	}
	if c.Dir == "" {
		errs = append(errs, errors.New("directory must be set"))
	}
	if c.Fatal == nil {
		errs = append(errs, errors.New("fatal must be set"))
	}
	if len(c.Plans) == 0 {
		errs = append(errs, errors.New("there must be at least one plan"))
	}
	if c.CommandTimeout < 0 || c.StallLimit < 0 {
		errs = append(errs, errors.New("time limits must not be negative"))
	}
	if err := c.Breakers.Validate(); c.Breakers != (breaker.Settings{}) && err != nil {
		errs = append(errs, fmt.Errorf("breakers: %w", err))
	}
	if err := (account.SetPlans{Plans: normal(c.Plans)}).Validate(); err != nil {
		errs = append(errs, err)
	}
	if err := c.Cluster.validate(c.NodeID); err != nil {
		errs = append(errs, fmt.Errorf("cluster: %w", err))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("configure raft state: %w", err)
	}
	return nil
}
