package wal

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"forebay/wal/message"
)

// TestKilledWhileAFileWasMade: an empty file of Badger's, which a kill may leave,
// keeps the log neither from opening nor from being verified.
func TestKilledWhileAFileWasMade(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), Node: 1}
	l := openTest(t, cfg)
	if _, err := l.Append(context.Background(), &message.Message{Account: "a", Channel: message.ChannelStore, Body: "b"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"000099.vlog", "00099.mem"} {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dbDir(cfg.Dir), name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := tryVerify(t, cfg.Dir, func(f Finding) { t.Errorf("found: %v", f) })
		if err != nil || s.Waiting != 1 {
			t.Fatalf("verify: %+v %v", s, err)
		}
		if l = openTest(t, cfg); l.Waiting() != 1 {
			t.Fatalf("%d wait, want 1", l.Waiting())
		}
	}
}
