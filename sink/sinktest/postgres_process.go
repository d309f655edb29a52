package sinktest

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// StopMode is how a server is told to stop.
type StopMode syscall.Signal

// The ways to stop a server, as pg_ctl names them.
const (
	Fast      = StopMode(syscall.SIGINT)  // roll back, disconnect everybody, write a checkpoint
	Immediate = StopMode(syscall.SIGQUIT) // drop everything; the next start recovers
)

// Stop stops the server and waits until it has ended.
func (p *Postgres) Stop(mode StopMode) {
	p.tb.Helper()
	p.signal(syscall.Signal(mode))
	<-p.ended
}

// Kill ends the server and all its processes with SIGKILL: no process gets to
// do anything more. It returns when they are gone.
func (p *Postgres) Kill() {
	p.tb.Helper()
	processes := p.Pause() // so that none is born or dies unseen
	for _, pid := range processes {
		p.kill(pid, syscall.SIGKILL)
	}
	<-p.ended
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for _, pid := range processes[1:] { // nobody's children now: only looking tells
		for alive(pid) {
			<-tick.C
		}
	}
}

// alive reports whether the process still runs; one that only waits for its
// parent to notice its end does not.
func alive(pid int) bool {
	state := stateOf(pid)
	return state != 0 && state != 'Z' && state != 'X'
}

// stateOf is the state of a process as the kernel tells it; 0: there is none.
func stateOf(pid int) byte {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(stat, []byte(") ")) // the state follows the program's name
	if len(rest) == 0 {
		return 0
	}
	return rest[0]
}

// Postmaster is the process that starts the server's others.
func (p *Postgres) Postmaster() int { return p.process.Pid }

// Pause stops all processes of the server with SIGSTOP: it keeps its
// connections and answers nobody. It returns the processes, the postmaster first,
// when the kernel says of each that it is stopped: until then a postmaster may
// still start one, and a backend may still answer.
func (p *Postgres) Pause() []int {
	p.tb.Helper()
	p.kill(p.process.Pid, syscall.SIGSTOP)
	p.awaitStopped(p.process.Pid)
	stopped := []int{p.process.Pid}
	// The kernel's list may leave one out while another ends: look until nothing
	// new is found, with all that were found at rest.
	for fresh := true; fresh; {
		fresh = false
		for _, pid := range p.children() {
			if !slices.Contains(stopped, pid) {
				p.kill(pid, syscall.SIGSTOP)
				stopped, fresh = append(stopped, pid), true
			}
		}
		for _, pid := range stopped {
			p.awaitStopped(pid)
		}
	}
	return stopped
}

// awaitStopped waits until a process is stopped, or has ended.
func (p *Postgres) awaitStopped(pid int) {
	deadline := time.Now().Add(startTimeout)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for alive(pid) && stateOf(pid) != 'T' {
		if time.Now().After(deadline) {
			p.tb.Fatalf("process %d of PostgreSQL does not stop: it is in state %c", pid, stateOf(pid))
		}
		<-tick.C
	}
}

// Resume lets paused processes run again.
func (p *Postgres) Resume() {
	for _, pid := range p.children() {
		p.kill(pid, syscall.SIGCONT)
	}
	p.signal(syscall.SIGCONT)
}

// signal signals the postmaster; one that has ended is no error.
func (p *Postgres) signal(s syscall.Signal) {
	select {
	case <-p.ended: // its number may belong to somebody else by now
	default:
		p.process.Signal(s)
	}
}

func (p *Postgres) kill(pid int, s syscall.Signal) {
	if err := syscall.Kill(pid, s); err != nil && err != syscall.ESRCH {
		p.tb.Errorf("send %v to process %d of PostgreSQL: %v", s, pid, err)
	}
}

// children lists the postmaster's children; each is in a session of its own, so
// no process group names them.
func (p *Postgres) children() []int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.process.Pid, p.process.Pid))
	if err != nil {
		return nil // it has ended
	}
	var pids []int
	for _, field := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
