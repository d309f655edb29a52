package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"syscall"

	"forebay/appliance/config"
)

// logging is the appliance's log: JSON or text, from a level on, both of which
// change while it is written.
type logging struct {
	*slog.Logger
	level slog.LevelVar
	text  atomic.Bool
}

// newLogger builds the appliance's log on w: JSON or text as configured,
// without times where the journal adds its own.
func newLogger(c config.Log, w io.Writer, journalStream string) (*logging, error) {
	l := &logging{}
	options := &slog.HandlerOptions{Level: &l.level}
	if isJournal(w, journalStream) {
		options.ReplaceAttr = func(groups []string, attr slog.Attr) slog.Attr {
			if len(groups) == 0 && attr.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return attr
		}
	}
	l.Logger = slog.New(eitherHandler{slog.NewJSONHandler(w, options), slog.NewTextHandler(w, options), &l.text})
	return l, l.configure(c)
}

// configure changes level and format, for the lines from now on.
func (l *logging) configure(c config.Log) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		return fmt.Errorf("read log.level: %w", err)
	}
	l.level.Set(level)
	l.text.Store(c.Format == "text")
	return nil
}

// eitherHandler carries both formats, for loggers that were derived from it keep
// what they were given in the form of one of them.
type eitherHandler struct {
	json, text slog.Handler
	useText    *atomic.Bool
}

func (h eitherHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.json.Enabled(ctx, level)
}

func (h eitherHandler) Handle(ctx context.Context, r slog.Record) error {
	if h.useText.Load() {
		return h.text.Handle(ctx, r)
	}
	return h.json.Handle(ctx, r)
}

func (h eitherHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return eitherHandler{h.json.WithAttrs(attrs), h.text.WithAttrs(attrs), h.useText}
}

func (h eitherHandler) WithGroup(name string) slog.Handler {
	return eitherHandler{h.json.WithGroup(name), h.text.WithGroup(name), h.useText}
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
