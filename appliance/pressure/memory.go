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

// Usage is how much memory a process has, in bytes.
type Usage struct {
	// Resident is what it can't be without: what the kernel counts as resident and
	// not backed by a file. Mapped tables of the log are not counted: the kernel
	// takes their pages back when it needs them.
	Resident uint64
	// Reserved is that, or if it is more what the Go runtime holds. It includes what
	// was never touched, such as the rest of the buffers in which Badger makes its
	// tables, and may become resident at any moment.
	Reserved uint64
}

// MemoryMeter measures the memory of this process.
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

// Read returns what the process has now. Where the kernel does not say, the
// runtime's figure is both. It is not safe for concurrent use.
func (m *MemoryMeter) Read() Usage {
	metrics.Read(m.samples)
	runtime := m.samples[0].Value.Uint64() - m.samples[1].Value.Uint64()
	if m.statm != nil {
		n, _ := m.statm.ReadAt(m.buf[:], 0) // ends with io.EOF
		if pages := anonymous(string(m.buf[:n])); pages > 0 {
			resident := pages * uint64(os.Getpagesize())
			return Usage{resident, max(resident, runtime)}
		}
	}
	return Usage{runtime, runtime}
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
