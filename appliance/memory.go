package appliance

import (
	"runtime/metrics"

	"forebay/httpapi/admin"
)

// The runtime's own figures: what counts against its memory limit is all that
// it has mapped less what it has given back.
const (
	memoryTotal    = "/memory/classes/total:bytes"
	memoryReleased = "/memory/classes/heap/released:bytes"
	goroutineCount = "/sched/goroutines:goroutines"
)

// memoryStatus reads the runtime's figures, which stops nothing.
func (a *Appliance) memoryStatus(s *admin.Status) {
	samples := []metrics.Sample{{Name: memoryTotal}, {Name: memoryReleased}, {Name: goroutineCount}}
	metrics.Read(samples)
	s.Memory = &admin.MemoryStatus{UsedBytes: samples[0].Value.Uint64() - samples[1].Value.Uint64(),
		LimitBytes: uint64(a.current().Memory.Limit), Goroutines: samples[2].Value.Uint64()}
}
