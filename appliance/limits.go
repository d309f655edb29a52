package appliance

import (
	"fmt"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"forebay/appliance/config"
)

// What the process needs files for, beside its clients. Badger loses tables
// without an error when it can't open one for want of a descriptor, so clients
// are never allowed near the limit.
const (
	reserveFiles    = 1024     // listeners, raft, pipes, what libraries open
	reservePerTable = 16 << 20 // bytes of log for each open table, rather few
	leastClients    = 16
)

// connectionLimit is how many clients may be connected, by the process's file
// limit. An error: too few to serve.
func connectionLimit(cfg config.Config) (int, error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, fmt.Errorf("read the file limit: %w", err)
	}
	reserved := uint64(reserveFiles) + uint64(cfg.Database.MaxPoolSize) + uint64(cfg.Buffer.MaxDiskBytes)/reservePerTable
	if r.Max < reserved+leastClients {
		return 0, fmt.Errorf("the process may open %d files, and needs %d for itself: raise its limit (LimitNOFILE, ulimit -n) or lower buffer.max_disk_bytes or database.max_pool_size", r.Max, reserved+leastClients)
	}
	return int(min(r.Max-reserved, 1<<30)), nil
}

// gcPercent lets the heap grow to five times what is live before a collection:
// throughput for memory, up to the memory limit, which the runtime then keeps
// by collecting more often.
const gcPercent = 400

// TuneRuntime sets the Go runtime's collector for a process that is one
// appliance. gogc and gomemlimit are the variables of those names: who sets
// them knows better.
func TuneRuntime(cfg config.Config, gogc, gomemlimit string) {
	if gomemlimit == "" {
		debug.SetMemoryLimit(int64(cfg.Memory.Limit))
	}
	if gogc == "" {
		debug.SetGCPercent(gcPercent)
	}
}
