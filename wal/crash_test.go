package wal

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// crashRounds is how many kills a run makes; FOREBAY_CRASH_ROUNDS overrides it.
func crashRounds(t *testing.T, normal int) int {
	t.Helper()
	text := os.Getenv("FOREBAY_CRASH_ROUNDS")
	if text == "" {
		return normal
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// writeUntil runs a writing child and ends it after a time by end. It returns
// when the child has ended and all that it told is known.
func (a *told) writeUntil(t *testing.T, cmd *exec.Cmd, after time.Duration, end func()) {
	t.Helper()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready, heard := make(chan struct{}), make(chan struct{})
	go func() { defer close(heard); a.listen(stdout, ready) }()
	select {
	case <-ready:
		timer := time.NewTimer(after)
		defer timer.Stop()
		select {
		case <-timer.C:
			end()
		case <-heard:
			if !a.failed {
				t.Fatalf("the child ended by itself: %v\n%s", cmd.Wait(), stderr.String())
			}
		}
	case <-heard:
		t.Fatalf("the child did not open its log: %v\n%s", cmd.Wait(), stderr.String())
	case <-time.After(time.Minute):
		_ = cmd.Process.Kill()
		t.Fatal("the child did not open its log within a minute")
	}
	<-heard
	err = cmd.Wait()
	if _, killed := err.(*exec.ExitError); err != nil && !killed {
		t.Fatal(err)
	}
}

func TestKillAtAnyMomentLosesNothing(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	cfg := smallConfig(t)
	account := newTold()
	total := 0
	for round := range crashRounds(t, 12) {
		cmd := child(t, "write", "DIR="+cfg.Dir, fmt.Sprint("FROM=", account.next()))
		account.writeUntil(t, cmd, time.Duration(rnd.IntN(200))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		total += len(account.accepted)
		l := openTest(t, cfg)
		account.check(t, l, rnd.IntN(3) == 0)
		if rnd.IntN(2) == 0 {
			closeTest(t, l)
			continue
		}
		// The next child opens what a kill of this one would leave.
		to := filepath.Join(filepath.Dir(cfg.Dir), fmt.Sprint("copy", round))
		copyTree(t, cfg.Dir, to)
		closeTest(t, l)
		if err := os.RemoveAll(cfg.Dir); err != nil {
			t.Fatal(err)
		}
		cfg.Dir = to
	}
	if total == 0 {
		t.Fatal("the children accepted nothing")
	}
	t.Logf("%d messages", account.next())
}

// needRoot ends the test where it can't be run, and says what to do.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts a file system of its own: run it as root")
	}
}

func needTool(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			t.Fatalf("%s is missing: apt-get install %s", name, pkg)
		}
	}
	return path
}

// loopDisk is a small ext4 with a journal, in a file.
type loopDisk struct {
	image, at string
	mounted   bool
}

func newLoopDisk(t *testing.T, mib int) *loopDisk {
	t.Helper()
	needRoot(t)
	mkfs := needTool(t, "mkfs.ext4", "e2fsprogs")
	needTool(t, "mount", "mount")
	dir := t.TempDir()
	d := &loopDisk{image: filepath.Join(dir, "image"), at: filepath.Join(dir, "mnt")}
	f, err := os.Create(d.image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(mib) << 20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d.at, 0o700); err != nil {
		t.Fatal(err)
	}
	command(t, mkfs, "-q", "-F", "-m", "0", d.image)
	d.mount(t)
	t.Cleanup(func() { d.unmount(t) })
	return d
}

func (d *loopDisk) mount(t *testing.T) {
	t.Helper()
	command(t, "mount", "-o", "loop", d.image, d.at)
	d.mounted = true
}

func (d *loopDisk) unmount(t *testing.T) {
	t.Helper()
	if d.mounted { // a child of this process may hold it between its fork and its exec
		eventually(t, "the disk is free", func() bool { return exec.Command("umount", d.at).Run() == nil })
		d.mounted = false
	}
}

// powerCut stops the file system as a loss of power does: what was not synced is
// gone (EXT4_IOC_SHUTDOWN, without flushing the journal).
func (d *loopDisk) powerCut(t *testing.T) {
	t.Helper()
	const shutdown, noLogFlush = 0x8004587d, uint32(2)
	f, err := os.Open(d.at)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	how := noLogFlush
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		t.Fatalf("shut the file system down: %v", errno)
	}
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// cutPower lets a child write on a disk, cuts the power, kills the child, and
// mounts the disk again.
func cutPower(t *testing.T, d *loopDisk, account *told, after time.Duration, env ...string) Config {
	t.Helper()
	cfg := Config{Dir: filepath.Join(d.at, "wal"), Node: 7, MemTable: 1 << 20, MinFreeBytes: 1, BallastBytes: -1}
	cmd := child(t, "write", append(env, "DIR="+cfg.Dir, fmt.Sprint("FROM=", account.next()))...)
	account.writeUntil(t, cmd, after, func() {
		// It goes on, and may tell what it can still sync.
		d.powerCut(t)
		_ = cmd.Process.Kill()
	})
	d.unmount(t)
	d.mount(t)
	return cfg
}

func TestPowerCutLosesNothing(t *testing.T) {
	t.Parallel()
	d := newLoopDisk(t, 192)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	account := newTold()
	for range max(crashRounds(t, 5)/10, 5) {
		cfg := cutPower(t, d, account, time.Duration(50+rnd.IntN(300))*time.Millisecond)
		l := openTest(t, cfg)
		account.check(t, l, true)
		closeTest(t, l)
	}
	t.Logf("%d messages", account.next())
}

// TestPowerCutWithoutSyncLosesMessages is the control run: the same cut must lose
// messages where nothing is synced, or the test above proves nothing. And the
// log must not start as if nothing had happened, if its tide mark has risen.
func TestPowerCutWithoutSyncLosesMessages(t *testing.T) {
	t.Parallel()
	d := newLoopDisk(t, 192)
	for range 5 {
		account := newTold()
		cfg := cutPower(t, d, account, 300*time.Millisecond, "UNSAFE=1", "KEEP=1")
		l, err := tryOpen(t, cfg)
		lost := 0
		if err == nil {
			there := map[string]bool{}
			for _, e := range drain(t, l) {
				there[e.ID.String()] = true
			}
			for id := range account.accepted {
				if !there[id.String()] {
					lost++
				}
			}
			closeTest(t, l)
		} else {
			lost = len(account.accepted) // it says so
		}
		t.Logf("%d accepted, %d lost, %v", len(account.accepted), lost, err)
		if lost > 0 {
			return
		}
		if err := os.RemoveAll(cfg.Dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("no message was lost in 5 power cuts without syncs: the harness does not bite")
}
