package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// removeStillborn removes log files without a byte in them. A kill between the
// creation of a file and its first extension leaves one, and Badger does not
// open beside it. It holds the lock that Badger takes on an open tree: a running
// process may be about to extend such a file.
func removeStillborn(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("look for empty files: %w", err)
	}
	defer d.Close()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.New("another process has it open")
	}
	for _, pattern := range []string{"*.mem", "*.vlog"} {
		names, _ := filepath.Glob(filepath.Join(dir, pattern)) // only a bad pattern is an error
		for _, name := range names {
			info, err := os.Lstat(name)
			if err == nil && info.Mode().IsRegular() && info.Size() == 0 {
				err = os.Remove(name)
			}
			if err != nil {
				return fmt.Errorf("remove an empty file: %w", err)
			}
		}
	}
	return nil
}
