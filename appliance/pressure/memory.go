package pressure

import (
	"os"
	"runtime/metrics"
	"strconv"
	"strings"
)

// The runtime's own figures: what it has mapped less what it has given back.
const (
	memoryTotal    = "/memory/classes/total:bytes"
	memoryReleased = "/memory/classes/heap/released:bytes"
)

// MemoryMeter measures the memory that this process can't be without: what the Go
// runtime holds, or if that is more what the kernel counts as resident and not
// backed by a file. Mapped tables of the log are not counted: the kernel takes
// their pages back when it needs them.
type MemoryMeter struct {
	samples []metrics.Sample
	statm   *os.File // nil: the kernel does not say
	buf     [128]byte
}

// NewMemoryMeter opens what it reads from.
func NewMemoryMeter() *MemoryMeter {
	m := &MemoryMeter{samples: []metrics.Sample{{Name: memoryTotal}, {Name: memoryReleased}}}
	m.statm, _ = os.Open("/proc/self/statm") // without it the runtime's figures must do
	return m
}

// Close closes it.
func (m *MemoryMeter) Close() error {
	if m.statm == nil {
		return nil
	}
	return m.statm.Close()
}

// Used returns the bytes in use now. It is not safe for concurrent use.
func (m *MemoryMeter) Used() uint64 {
	metrics.Read(m.samples)
	used := m.samples[0].Value.Uint64() - m.samples[1].Value.Uint64()
	if m.statm == nil {
		return used
	}
	n, _ := m.statm.ReadAt(m.buf[:], 0) // ends with io.EOF
	return max(used, anonymous(string(m.buf[:n]))*uint64(os.Getpagesize()))
}

// anonymous returns how many pages of /proc/PID/statm (proc(5)) are resident and
// not of a file; 0: it can't be read.
func anonymous(statm string) uint64 {
	fields := strings.Fields(statm)
	if len(fields) < 3 {
		return 0
	}
	resident, err1 := strconv.ParseUint(fields[1], 10, 64)
	shared, err2 := strconv.ParseUint(fields[2], 10, 64)
	if err1 != nil || err2 != nil || shared > resident {
		return 0
	}
	return resident - shared
}
