package watch

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"forebay/httpapi/admin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var settings = Settings{P99Latency: 500 * time.Millisecond, ErrorRate: 0.01, BacklogAge: time.Minute, MemoryHigh: .85, MemoryCritical: .95}

// well is an appliance that nothing is wrong with.
func well() admin.Status {
	return admin.Status{Node: 1, Version: "test", Health: admin.Ready,
		Intake: admin.IntakeStatus{Rate: 100, AcceptedTotal: 1000, Refused: map[string]uint64{}, Latency: admin.Quantiles{P50: .001, P90: .002, P99: .003}},
		Log: admin.LogStatus{Backlog: map[string]uint64{"normal": 5}, OldestAgeSeconds: .1, DiskBytes: 1 << 20, DiskLimitBytes: 10 << 30,
			FreeBytes: 100 << 30, MinFreeBytes: 1 << 30},
		Store:  admin.StoreStatus{Kind: "postgres", Up: true},
		Raft:   admin.RaftStatus{Role: "leader", Term: 2, Leader: 1, Members: []admin.RaftMember{{Node: 1, Role: "leader"}}},
		Memory: &admin.MemoryStatus{UsedBytes: 100 << 20, LimitBytes: 1 << 30},
	}
}
