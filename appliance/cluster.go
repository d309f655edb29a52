package appliance

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"forebay/appliance/config"
	"forebay/httpapi/admin"
	"forebay/raftstate"
)

// groupOf is the configuration of the replicated state.
func groupOf(c config.Config) raftstate.Config {
	return raftstate.Config{
		NodeID: c.Node,
		Dir:    filepath.Join(c.DataDir, "raft"),
		Plans:  plansOf(c.RateLimiting.Tiers),

		Window:   c.RateLimiting.Window,
		Breakers: breakerSettings(c.CircuitBreaker),
		Cluster: raftstate.ClusterConfig{
			Listen:    c.Cluster.Listen,
			Advertise: c.Cluster.Advertise,
			Peers:     c.Cluster.Peers,
			TLS:       raftstate.TLSFiles{Cert: c.Cluster.TLSCertFile, Key: c.Cluster.TLSKeyFile, CA: c.Cluster.TLSCAFile},
		},
	}
}

// RecoverGroup makes the node of this configuration, whose appliance is stopped,
// a group of its own after the others are lost for good: see raftstate.Recover.
func RecoverGroup(ctx context.Context, c config.Config) (raftstate.Recovered, error) {
	group := groupOf(c)
	group.Fatal = func(error) {} // nothing runs that could
	return raftstate.Recover(ctx, group)
}

// clusterAdapter is the group as the admin API changes its members.
type clusterAdapter struct{ group *raftstate.Group }

func (c clusterAdapter) AddMember(ctx context.Context, body admin.AddMember) error {
	return refuseMember(c.group.AddMember(ctx, body.Node, body.Address, body.NonVoter))
}

func (c clusterAdapter) RemoveMember(ctx context.Context, node uint16) error {
	return refuseMember(c.group.RemoveMember(ctx, node))
}

func (c clusterAdapter) Transfer(ctx context.Context, to uint16) error {
	return refuseMember(c.group.Transfer(ctx, to))
}

func refuseMember(err error) error {
	if refusal, ok := errors.AsType[*raftstate.CallError](err); ok {
		switch refusal.Code {
		case raftstate.CodeBadMember, raftstate.CodeNoMember, raftstate.CodeUnavailable:
			return fmt.Errorf("%w: %w", admin.Refuse(refusal.Code, refusal.Detail), err)
		}
	}
	return refuse(err)
}
