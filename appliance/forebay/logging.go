package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"

	"forebay/appliance/config"
)

// newLogger builds the appliance's log on w: JSON or text as configured,
// without times where the journal adds its own.
func newLogger(c config.Log, w io.Writer, journalStream string) (*slog.Logger, error) {
	var level slog.LevelVar
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		return nil, fmt.Errorf("read log.level: %w", err)
	}
	options := &slog.HandlerOptions{Level: &level}
	if isJournal(w, journalStream) {
		options.ReplaceAttr = func(groups []string, attr slog.Attr) slog.Attr {
			if len(groups) == 0 && attr.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return attr
		}
	}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(w, options)), nil
	}
	return slog.New(slog.NewJSONHandler(w, options)), nil
}

// isJournal reports whether w is the very stream that systemd connected to the
// journal: JOURNAL_STREAM holds its device and inode (systemd.exec(5)). The
// variable alone is inherited also by those who write elsewhere.
func isJournal(w io.Writer, journalStream string) bool {
	f, ok := w.(*os.File)
	if !ok || journalStream == "" {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && journalStream == fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}
