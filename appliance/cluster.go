package appliance

import (
	"time"

	"forebay/appliance/config"
	"forebay/raftstate"
)

// clusterOf is how this node reaches the others, from its configuration.
func clusterOf(c config.Cluster, beat time.Duration) raftstate.ClusterConfig {
	return raftstate.ClusterConfig{
		Listen:    c.Listen,
		Advertise: c.Advertise,
		Peers:     c.Peers,
		TLS:       raftstate.TLSFiles{Cert: c.TLSCertFile, Key: c.TLSKeyFile, CA: c.TLSCAFile},
		Heartbeat: beat,
	}
}
