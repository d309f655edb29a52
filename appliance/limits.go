package appliance

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"forebay/appliance/config"
	"forebay/wal"
)

// What the process needs files for, beside its clients. Badger loses tables
// without an error when it can't open one for want of a descriptor, so clients
// are never allowed near the limit.
const (
	reserveFiles = 1024 // listeners, raft, pipes, what libraries open
	leastClients = 16
)

// connectionLimit is how many clients may be connected, by the process's file
// limit and its memory. An error: too few to serve.
func connectionLimit(cfg config.Config) (int, error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, fmt.Errorf("read the file limit: %w", err)
	}
	reserved := uint64(reserveFiles) + uint64(cfg.Database.MaxPoolSize) + uint64(cfg.Buffer.MaxDiskBytes)/uint64(wal.TableSize(int64(cfg.Shares().LogMemTable)))
	if r.Max < reserved+leastClients {
		return 0, fmt.Errorf("the process may open %d files, and needs %d for itself: raise its limit (LimitNOFILE, ulimit -n) or lower buffer.max_disk_bytes or database.max_pool_size", r.Max, reserved+leastClients)
	}
	return int(min(r.Max-reserved, uint64(cfg.Shares().Connections))), nil
}

// gcPercent is how much garbage may come to what lives.
const gcPercent = 60

// hugeHeap is how much of the heap asks for huge pages: rather more than an
// appliance with ten thousand connections needs. What is not needed is only
// address space.
const hugeHeap = 640 << 20

// LimitMemory sets the runtime's soft limit, at which it collects more often
// instead of growing; it may be called again. gomemlimit is the variable of that
// name: who sets it knows better. The collector has to work before pressure
// counts what it has left lying about, so its limit is below the first rung.
func LimitMemory(cfg config.Config, gomemlimit string) {
	if gomemlimit == "" {
		debug.SetMemoryLimit(int64(0.9 * cfg.Memory.Elevated * float64(cfg.Memory.Limit)))
	}
}

// TuneRuntime sets the Go runtime's memory for a process that is one appliance:
// the soft limit, at which it collects more often instead of growing, and huge
// pages for the heap. gomemlimit is the variable of that name: who sets it knows
// better.
//
// The collector works somewhat more eagerly than by default: a fifth less memory
// for about two hundredths of the processor. A lazier one was measured: it more than
// doubled the memory and gained nothing, for touching fresh memory costs what
// collecting saves. gogc is the variable of that name.
func TuneRuntime(cfg config.Config, gomemlimit, gogc string) {
	LimitMemory(cfg, gomemlimit)
	if gogc == "" {
		debug.SetGCPercent(gcPercent)
	}
	// The runtime leaves huge pages to the system, whose usual setting is to give
	// them to who asks. The heap is filled from its lowest address, so what is
	// asked for here, and given up at once, is what it will use. Nothing is
	// touched, so nothing is used before it is needed.
	// Where memory is short there are none: a huge page is used whole.
	if cfg.Memory.Limit < 4*hugeHeap {
		return
	}
	heap := make([]byte, hugeHeap)
	_ = unix.Madvise(heap, unix.MADV_HUGEPAGE) // not every kernel has them
	runtime.KeepAlive(heap)
	// A collection that its making began may have found it alive, and the next
	// would then wait until the heap is twice as large.
	runtime.GC()
}
