package embedded

import (
	"fmt"
	"log/slog"
	"strings"
)

// badgerLogger hands Badger's log lines on, and its errors to failed: Badger
// tells of some only there.
type badgerLogger struct {
	log    *slog.Logger
	failed func(line string)
}

func line(format string, args []any) string { return strings.TrimSpace(fmt.Sprintf(format, args...)) }

// Errorf implements badger.Logger.
func (l badgerLogger) Errorf(format string, args ...any) {
	text := line(format, args)
	l.log.Error("Badger reports an error.", "line", text)
	l.failed(text)
}

// Warningf implements badger.Logger.
func (l badgerLogger) Warningf(format string, args ...any) {
	l.log.Warn("Badger warns.", "line", line(format, args))
}

// Infof implements badger.Logger. What Badger finds worth telling is of no
// interest to operators.
func (l badgerLogger) Infof(format string, args ...any) {
	l.log.Debug("Badger says.", "line", line(format, args))
}

// Debugf implements badger.Logger; nobody has ever needed it.
func (l badgerLogger) Debugf(string, ...any) {}
