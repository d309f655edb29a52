package raftstate

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"slices"

	"github.com/hashicorp/go-hclog"
)

// raftLogger hands raft's log lines to slog, one level lower than raft gives
// them: what raft warns of in a group of one ("no known peers", "starting
// election") is the ordinary start. Errors stay errors.
type raftLogger struct {
	*slog.Logger
	name string
	args []any
}

var _ hclog.Logger = (*raftLogger)(nil)

func slogLevel(level hclog.Level) slog.Level {
	switch level {
	case hclog.Error:
		return slog.LevelError
	case hclog.Warn:
		return slog.LevelInfo
	case hclog.Info:
		return slog.LevelDebug
	default:
		return slog.LevelDebug - 4
	}
}

// unreachable are raft's errors that a node which is away causes, many a second.
// That it is away is said once, by keepInTouch.
var unreachable = []string{"failed to appendEntries to", "failed to heartbeat to", "failed to contact", "failed to make requestVote RPC",
	"failed to decode incoming command", "failed to flush response", "failed to pipeline appendEntries to"}

// Log implements hclog.Logger.
func (l *raftLogger) Log(level hclog.Level, msg string, args ...any) {
	ctx := context.Background()
	at := slogLevel(level)
	if slices.Contains(unreachable, msg) {
		at = slog.LevelDebug
	}
	if !l.Logger.Enabled(ctx, at) {
		return
	}
	// hclog's values may be formats with arguments, which slog would print as a structure.
	plain := make([]any, len(args))
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			a = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
		plain[i] = a
	}
	l.Logger.Log(ctx, at, "raft: "+msg, plain...)
}

// Trace implements hclog.Logger.
func (l *raftLogger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }

// Debug implements hclog.Logger.
func (l *raftLogger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }

// Info implements hclog.Logger.
func (l *raftLogger) Info(msg string, args ...any) { l.Log(hclog.Info, msg, args...) }

// Warn implements hclog.Logger.
func (l *raftLogger) Warn(msg string, args ...any) { l.Log(hclog.Warn, msg, args...) }

// Error implements hclog.Logger.
func (l *raftLogger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *raftLogger) enabled(level hclog.Level) bool {
	return l.Logger.Enabled(context.Background(), slogLevel(level))
}

// IsTrace implements hclog.Logger, as the four below do.
func (l *raftLogger) IsTrace() bool { return l.enabled(hclog.Trace) }
func (l *raftLogger) IsDebug() bool { return l.enabled(hclog.Debug) }
func (l *raftLogger) IsInfo() bool  { return l.enabled(hclog.Info) }
func (l *raftLogger) IsWarn() bool  { return l.enabled(hclog.Warn) }
func (l *raftLogger) IsError() bool { return l.enabled(hclog.Error) }

// ImpliedArgs implements hclog.Logger.
func (l *raftLogger) ImpliedArgs() []any { return l.args }

// With implements hclog.Logger.
func (l *raftLogger) With(args ...any) hclog.Logger {
	implied := append(append([]any(nil), l.args...), args...)
	return &raftLogger{Logger: l.Logger.With(args...), name: l.name, args: implied}
}

// Name implements hclog.Logger.
func (l *raftLogger) Name() string { return l.name }

// Named implements hclog.Logger. Names are not shown: all of this is raft.
func (l *raftLogger) Named(name string) hclog.Logger { return l.ResetNamed(l.name + name) }

// ResetNamed implements hclog.Logger.
func (l *raftLogger) ResetNamed(name string) hclog.Logger {
	return &raftLogger{Logger: l.Logger, name: name, args: l.args}
}

// SetLevel implements hclog.Logger; the level is slog's alone.
func (l *raftLogger) SetLevel(hclog.Level) {}

// GetLevel implements hclog.Logger.
func (l *raftLogger) GetLevel() hclog.Level { return hclog.NoLevel }

// StandardLogger implements hclog.Logger.
func (l *raftLogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(l.Logger.Handler(), slog.LevelDebug)
}

// StandardWriter implements hclog.Logger.
func (l *raftLogger) StandardWriter(o *hclog.StandardLoggerOptions) io.Writer {
	return l.StandardLogger(o).Writer()
}
