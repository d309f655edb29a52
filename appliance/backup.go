package appliance

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
)

// A backup is a zip file with these members, in this order. A store that is a
// database of its own is backed up by its own means and not in it.
const (
	backupState = "raft"  // accounts, plans, keys (hashes)
	backupLog   = "wal"   // the log
	backupStore = "store" // the embedded store, if that is in use
)

// storeBackup is what the embedded store can and a database does not.
type storeBackup interface {
	Backup(ctx context.Context, w io.Writer) error
}

// backup writes a backup while the appliance runs. The log goes before the
// store: a message that moves from the one to the other meanwhile is then in
// both copies, which is harmless, and never in neither.
func (a *Appliance) backup(ctx context.Context, w io.Writer) error {
	z := zip.NewWriter(w)
	add := func(name string, write func(io.Writer) error) error {
		// Stored, not deflated: the parts have their own checksums, and speed
		// matters more than size to who has to wait.
		member, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err == nil {
			err = write(member)
		}
		if err != nil {
			return fmt.Errorf("back up %s: %w", name, err)
		}
		return nil
	}
	if err := add(backupState, a.group.Dump); err != nil {
		return err
	}
	if err := add(backupLog, func(w io.Writer) error { return a.log.Backup(ctx, w) }); err != nil {
		return err
	}
	if s, ok := a.store.(storeBackup); ok {
		if err := add(backupStore, func(w io.Writer) error { return s.Backup(ctx, w) }); err != nil {
			return err
		}
	}
	return z.Close()
}
