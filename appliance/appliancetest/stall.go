package appliancetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Stall is a disk that has stopped answering one process.
type Stall struct {
	trace string // file
	cmd   *exec.Cmd
}

// StallDisk has the disk of the process stop: from now on every sync of it takes
// as long as given, by strace, which needs leave to trace (root). It returns once
// all threads are traced.
func (p *Process) StallDisk(takes time.Duration) *Stall {
	p.tb.Helper()
	s := &Stall{trace: filepath.Join(p.tb.TempDir(), "stall")}
	const calls = "fsync,fdatasync,msync"
	s.cmd = exec.Command("strace", "-f", "-o", s.trace, "-e", "trace="+calls,
		"-e", fmt.Sprintf("inject=%s:delay_enter=%d", calls, takes.Microseconds()), "-p", fmt.Sprint(p.PID()))
	said := filepath.Join(p.tb.TempDir(), "said")
	out, err := os.Create(said)
	if err != nil {
		p.tb.Fatal(err)
	}
	defer out.Close()
	s.cmd.Stderr = out
	if err := s.cmd.Start(); err != nil {
		p.tb.Fatalf("strace (this test needs root, and strace): %v", err)
	}
	p.tb.Cleanup(s.End)
	Eventually(p.tb, 30*time.Second, "strace is attached", func() bool {
		text, err := os.ReadFile(said)
		return err == nil && strings.Contains(string(text), "attached")
	})
	return s
}

// End has the disk run again; what was under way goes on at once. It may be
// called again, and after the process has ended.
func (s *Stall) End() {
	if s.cmd.ProcessState == nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

// Seen is how many syncs were held up so far.
func (s *Stall) Seen() int {
	text, err := os.ReadFile(s.trace)
	if err != nil {
		return 0
	}
	return strings.Count(string(text), "sync(")
}
