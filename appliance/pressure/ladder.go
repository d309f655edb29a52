// Package pressure turns what is measured of an appliance into one level, with
// hysteresis. Everything that degrades asks it, and nothing else decides.
//
//	normal    all is accepted
//	elevated  all is accepted; new records stay on disk, auxiliaries give way
//	high      priority low is refused, lists are refused, batch streams slowed
//	critical  only priority critical is accepted; at a hard limit nothing
//
// Each signal is a fraction of its own limit and climbs its own rungs; the level
// is the highest of them. A signal leaves a rung only when it has fallen clearly
// below it, so that a value that trembles at a rung does not make the appliance
// tremble.
//
// Not every signal may climb to the top. Memory and disk can: there is nothing
// behind them. A full window, a backlog that ages and a slow store stop at
// elevated, for the log on disk takes what the window does not, and it is the log
// that an outage of the store is for. Connections stop at high: the listener
// itself refuses what is over their number, and those who are in should be
// served.
//
// What gives way at elevated: compaction of the log and the count of its live keys
// wait (unless it is space that is short), and the accounts' feeds gather what
// they write. At high no feed is opened, those that are open get nothing but word,
// afterwards, that they missed something, and the operators' feed slows down.
package pressure

import "fmt"

// Level is a rung.
type Level uint8

// The levels. The numbers are those of forebay_pressure_level.
const (
	Normal Level = iota
	Elevated
	High
	Critical
)

var levelNames = [...]string{Normal: "normal", Elevated: "elevated", High: "high", Critical: "critical"}

// String returns the level's name in answers, headers and metrics.
func (l Level) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return fmt.Sprintf("level(%d)", uint8(l))
}

// Signal is one thing that is measured.
type Signal uint8

// The signals.
const (
	Window      Signal = iota // backlog against buffer.capacity
	Log                       // size of the log against buffer.max_disk_bytes
	Disk                      // buffer.min_free_disk_bytes against what is free
	Memory                    // of the process against memory.limit
	Age                       // of the oldest message that waits
	Store                     // time of the last batch
	Connections               // open ones against http.max_connections
	signals                   // how many there are
)

var signalNames = [signals]string{"window", "log", "disk", "memory", "age", "store", "connections"}

// String returns the signal's name in answers and metrics.
func (s Signal) String() string {
	if s < signals {
		return signalNames[s]
	}
	return fmt.Sprintf("signal(%d)", uint8(s))
}

// tops are the highest rungs of the signals; see the package comment.
var tops = [signals]Level{Window: Elevated, Log: Critical, Disk: Critical, Memory: Critical, Age: Elevated, Store: Elevated, Connections: High}

// Rungs are the values from which a signal means a level, ascending.
type Rungs struct{ Elevated, High, Critical float64 }

// defaultRungs are those of DESIGN's table.
var defaultRungs = Rungs{0.70, 0.85, 0.95}

// relief is how far, as a share of a rung, a value must fall below it.
const relief = 1.0 / 16

// windowRelief is the relief of the log's own backpressure, so that the two are
// on and off together.
const windowRelief = 1.0 / 8

func (r Rungs) of(l Level) float64 { return [...]float64{0, r.Elevated, r.High, r.Critical}[l] }

// step returns the level of a signal that was at level before and has now the
// given value.
func step(before Level, value float64, r Rungs, top Level, relief float64) Level {
	now := Normal
	for l := Elevated; l <= top; l++ {
		if value >= r.of(l) || l <= before && value > r.of(l)*(1-relief) {
			now = l
		}
	}
	return now
}

// Reading is one signal as it was measured.
type Reading struct {
	Value  float64 // fraction of the limit
	Full   bool    // the limit is reached: nothing more may be taken in
	Detail string  // the figures, for people
}

// Readings are all signals of one moment.
type Readings [signals]Reading

// Standing is where all signals stand.
type Standing struct {
	Level  Level
	Levels [signals]Level
	// Full: memory is at its limit. Nothing more is accepted, whatever its
	// priority. (The log says itself when the disk is.)
	Full bool
}

// Settings are what a configuration changes of the ladder.
type Settings struct {
	Window float64 // from which the window is elevated: its threshold as a fraction of its capacity
	Memory Rungs
}

// next climbs or descends all signals.
func (s Settings) next(before Standing, r *Readings) Standing {
	var now Standing
	for signal := range signals {
		rungs, ease := defaultRungs, relief
		switch signal {
		case Window:
			rungs, ease = Rungs{s.Window, s.Window, s.Window}, windowRelief
		case Memory:
			rungs = s.Memory
		}
		now.Levels[signal] = step(before.Levels[signal], r[signal].Value, rungs, tops[signal], ease)
		now.Level = max(now.Level, now.Levels[signal])
	}
	now.Full = r[Memory].Full
	return now
}
