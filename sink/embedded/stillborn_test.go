package embedded

import (
	"os"
	"path/filepath"
	"testing"
)

// TestKilledWhileAFileWasMade: an empty file of Badger's, which a kill may leave,
// does not keep the store from opening.
func TestKilledWhileAFileWasMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, name := range []string{"000099.vlog", "00099.mem"} {
		w.close()
		if err := os.WriteFile(filepath.Join(w.cfg.Dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		w.open()
	}
}
