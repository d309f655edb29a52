package wal

import "testing"

// TestConfigureWindowBytes: as many bytes wait in memory as the last settings
// say; the rest waits on disk, and nothing is lost by it.
func TestConfigureWindowBytes(t *testing.T) {
	const messages, size, room = 40, 10_000, 4
	cfg := testConfig(t)
	cfg.WindowBytes = 64 << 20
	l := openTest(t, cfg)
	defer closeTest(t, l)
	inMemory := func() (bytes int64) {
		l.window.mu.Lock()
		defer l.window.mu.Unlock()
		return l.window.bytes
	}
	mustAppend(t, l, bigMessage(0, size))
	if got := inMemory(); got < size {
		t.Fatalf("%d bytes wait in memory, want the message's %d", got, size)
	}
	limits := l.Limits()
	limits.WindowBytes = room * size
	if err := l.Configure(limits); err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		mustAppend(t, l, bigMessage(i+1, size))
	}
	if got := inMemory(); got > room*size {
		t.Errorf("%d bytes wait in memory, want at most %d", got, room*size)
	}
	if got := drain(t, l); len(got) != messages+1 {
		t.Errorf("%d messages were handed out, want %d", len(got), messages+1)
	}
}
