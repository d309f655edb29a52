package appliancetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Disk is a small ext4 with a journal, in a file: one that can be full, and
// whose power can be cut. It needs root.
type Disk struct {
	Path string // where it is mounted

	tb      testing.TB
	image   string
	mounted bool
}

// NewDisk makes and mounts a disk of so many MiB. It goes with the test; start
// no process on it whose end comes later than that.
func NewDisk(tb testing.TB, mib int) *Disk {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatal("this test mounts a file system of its own: run it as root")
	}
	dir := tb.TempDir()
	d := &Disk{tb: tb, image: filepath.Join(dir, "image"), Path: filepath.Join(dir, "mnt")}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Truncate(d.image, int64(mib)<<20); err != nil {
		tb.Fatal(err)
	}
	if err := os.Mkdir(d.Path, 0o700); err != nil {
		tb.Fatal(err)
	}
	d.run("mkfs.ext4", "-q", "-F", "-m", "0", d.image)
	d.mount()
	tb.Cleanup(d.unmount)
	return d
}

func (d *Disk) run(name string, args ...string) {
	d.tb.Helper()
	cmd := exec.Command(name, args...)
	if cmd.Err != nil { // not every user's path has it
		cmd = exec.Command(filepath.Join("/usr/sbin", name), args...)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		d.tb.Fatalf("%s %q: %v: %s (the packages e2fsprogs and mount are needed)", name, args, err, out)
	}
}

func (d *Disk) mount() {
	d.tb.Helper()
	d.run("mount", "-o", "loop", d.image, d.Path)
	d.mounted = true
}

func (d *Disk) unmount() {
	d.tb.Helper()
	if d.mounted {
		d.run("umount", d.Path)
		d.mounted = false
	}
}

// CutPower stops the disk as a loss of power does: what is not synced is gone
// (EXT4_IOC_SHUTDOWN without a flush of the journal), and every write fails.
func (d *Disk) CutPower() {
	d.tb.Helper()
	const shutdown = 0x8004587d
	how := uint32(2) // EXT4_GOING_FLAGS_NOLOGFLUSH
	f, err := os.Open(d.Path)
	if err != nil {
		d.tb.Fatal(err)
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		d.tb.Fatalf("cut the power of the disk: %v", errno)
	}
}

// AbortJournal does what ext4 does when its disk refuses a write of the journal:
// nothing is written to that any more.
func (d *Disk) AbortJournal() {
	d.tb.Helper()
	d.run("mount", "-o", "remount,abort", d.Path)
}

// Remount brings the disk back after CutPower or AbortJournal. No process may use it.
func (d *Disk) Remount() {
	d.tb.Helper()
	d.unmount()
	d.mount()
}

// Fill takes space until only so many bytes are left.
func (d *Disk) Fill(left int64) {
	d.tb.Helper()
	f, err := os.OpenFile(filepath.Join(d.Path, "filling"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		d.tb.Fatal(err)
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		d.tb.Fatal(err)
	}
	for take := d.free() - left; take > 0 && err == nil; take = d.free() - left {
		if err = unix.Fallocate(int(f.Fd()), 0, size, max(take, 1<<12)); err == nil {
			size += max(take, 1<<12)
		}
	}
	if err != nil && err != unix.ENOSPC {
		d.tb.Fatalf("fill the disk: %v", err)
	}
}

func (d *Disk) free() int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(d.Path, &st); err != nil {
		d.tb.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// Empty gives back what Fill has taken.
func (d *Disk) Empty() {
	d.tb.Helper()
	if err := os.Remove(filepath.Join(d.Path, "filling")); err != nil {
		d.tb.Fatal(err)
	}
}
