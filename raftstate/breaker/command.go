package breaker

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// Kind numbers a command in the replicated log; never renumber them. 48 to 63
// are this package's.
type Kind uint8

// The kinds.
const (
	KindReport    Kind = 48
	KindForce     Kind = 49
	KindConfigure Kind = 50
)

// Kinds names every kind, for metrics and errors.
var Kinds = map[Kind]string{KindReport: "breaker_report", KindForce: "breaker_force", KindConfigure: "breaker_settings"}

// Command is one of Report, Force and Configure.
type Command interface {
	Kind() Kind
	Validate() error
}

// Report is what a node has seen of several services since its last one.
type Report struct {
	Node  uint16 `json:"node"`
	Items []Item `json:"items"`
}

// Item is what a node has seen of one service.
type Item struct {
	Service    string `json:"service"`
	Generation uint64 `json:"generation"`         // of the breaker while the calls were made
	Failures   int    `json:"failures,omitzero"`  // in a row, up to now
	OK         bool   `json:"ok,omitzero"`        // a call has succeeded
	OKAgeMS    uint64 `json:"ok_age_ms,omitzero"` // how long ago
	Probe      Probe  `json:"probe,omitzero"`     // how the probe ended
	Ask        bool   `json:"ask,omitzero"`       // a call is waiting: may it be the probe?
	// Reason is what the last failure was, in at most MaxReason bytes.
	Reason string `json:"reason,omitzero"`
	// Early: the node knows by another way that the service answers, so that the
	// probe need not wait for the recovery time.
	Early bool `json:"early,omitzero"`
}

// Probe is how a probe ended.
type Probe string

// The ends of a probe.
const (
	ProbeSuccess Probe = "success"
	ProbeFailure Probe = "failure"
	ProbeUnused  Probe = "unused" // nothing was called
)

// Force puts a breaker under an operator's hand, or back into its own.
type Force struct {
	Service string    `json:"service"`
	To      Position  `json:"to"`
	Who     string    `json:"who"`
	At      time.Time `json:"at"` // the operator's clock, for people
}

// Position is what an operator wants of a breaker.
type Position string

// The positions.
const (
	ForcedOpen   Position = "open"
	ForcedClosed Position = "closed"
	Auto         Position = "auto" // by its own rules, starting closed
)

// Configure changes the settings of all breakers.
type Configure struct{ Settings Settings }

// MaxReason is how many bytes the reason of a failure may have.
const MaxReason = 160

// reasonOf keeps of a reason what may stand in the replicated state: one line,
// printable, short.
func reasonOf(text string) string {
	text = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text), "\uFFFD")
	if len(text) <= MaxReason {
		return text
	}
	return strings.ToValidUTF8(text[:MaxReason-len("…")], "") + "…"
}

// MaxName is how many bytes a service's name may have.
const MaxName = 300

// Kind implements Command.
func (Report) Kind() Kind { return KindReport }

// Kind implements Command.
func (Force) Kind() Kind { return KindForce }

// Kind implements Command.
func (Configure) Kind() Kind { return KindConfigure }

// Validate implements Command.
func (r Report) Validate() error {
	if r.Node == 0 {
		return errors.New("report without a node")
	}
	return nil
}

// Validate implements Command.
func (f Force) Validate() error {
	if !ValidName(f.Service) {
		return fmt.Errorf("service %q: no such name", f.Service)
	}
	if f.To != ForcedOpen && f.To != ForcedClosed && f.To != Auto {
		return fmt.Errorf("position %q: want open, closed or auto", f.To)
	}
	return nil
}

// Validate implements Command.
func (c Configure) Validate() error { return c.Settings.Validate() }

// ValidName reports whether a service may be called that: printable, no spaces,
// at most MaxName bytes.
func ValidName(name string) bool {
	return name != "" && len(name) <= MaxName && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\uFFFD' })
}

// MarshalJSON keeps durations as whole milliseconds.
func (c Configure) MarshalJSON() ([]byte, error) { return json.Marshal(c.Settings.json()) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (c *Configure) UnmarshalJSON(b []byte) error {
	var j settingsJSON
	err := json.Unmarshal(b, &j, json.RejectUnknownMembers(true))
	c.Settings = j.settings()
	return err
}

// Encode returns the body of cmd as it stands in the replicated log.
func Encode(cmd Command) ([]byte, error) { return json.Marshal(cmd) }

// Decode reads what Encode wrote. A kind or field that this program does not
// know is an error: a newer one wrote it.
func Decode(kind Kind, body []byte) (Command, error) {
	switch kind {
	case KindReport:
		return decode[Report](body)
	case KindForce:
		return decode[Force](body)
	case KindConfigure:
		return decode[Configure](body)
	}
	return nil, fmt.Errorf("unknown command kind %d", uint8(kind))
}

func decode[C Command](body []byte) (Command, error) {
	var c C
	if err := json.Unmarshal(body, &c, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("decode %s: %w", Kinds[c.Kind()], err)
	}
	return c, nil
}
