package wal

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

const ballastName = "BALLAST"

// freeBytes is what an ordinary process may still write on the file system.
func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("measure free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// usedBytes adds up the allocated blocks below dir: Badger's files are sparse,
// their sizes say nothing. Files that vanish meanwhile do not count.
func usedBytes(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreGone(err)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreGone(err)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			total += st.Blocks * 512
		}
		return nil
	})
	return total, err
}

func ignoreGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// layBallast allocates the ballast file. It is no error when there is no room:
// then there is nothing to give up either.
func layBallast(dir string, size int64) error {
	path := filepath.Join(dir, ballastName)
	if info, err := os.Stat(path); err == nil && info.Size() == size {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lay ballast: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(size); err == nil {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
		if err == unix.EOPNOTSUPP || err == nil {
			return nil
		}
	}
	return removeIfThere(path)
}

// dropBallast frees the ballast and reports whether there was any.
func dropBallast(dir string) (bool, error) {
	err := os.Remove(filepath.Join(dir, ballastName))
	if os.IsNotExist(err) {
		return false, nil
	}
	return err == nil, err
}

// diskGuard decides whether appends may go on, with hysteresis: they resume when
// there is a twentieth more room than the limits ask for.
type diskGuard struct {
	maxUsed int64 // appends stop when the log's own files reach it
	minFree int64 // and when the file system has less than this
	full    bool
}

const resumeShare = 20

// measured takes a measurement and returns whether the log counts as full.
func (g *diskGuard) measured(used, free int64) bool {
	if g.full {
		g.full = used > g.maxUsed-g.maxUsed/resumeShare || free < g.minFree+g.minFree/resumeShare
	} else {
		g.full = used >= g.maxUsed || free < g.minFree
	}
	return g.full
}
