package admin

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

// The outcomes of a ConfigResult.
const (
	ConfigApplied   = "applied"   // what could change has changed
	ConfigUnchanged = "unchanged" // there was nothing that could
	ConfigRejected  = "rejected"  // it is not valid; nothing has changed
	ConfigFailed    = "failed"    // a step failed; what ran before runs again
)

// Configs is the configuration as an operator may see and change it. who is the
// caller. What the caller did wrong comes back as a *Problem.
type Configs interface {
	Config() RunningConfig
	ReloadConfig(ctx context.Context, who string) (ConfigResult, error)
	RollbackConfig(ctx context.Context, who string, version uint64) (ConfigResult, error)
	// CheckConfig says what a reload would do: of this text in place of the
	// configuration file, or, where it is nil, of the files as they are.
	CheckConfig(ctx context.Context, text *string) (ConfigResult, error)
	ConfigHistory(ctx context.Context) ([]ConfigVersion, error)
	ConfigVersion(ctx context.Context, version uint64) (ConfigVersion, error)
	DiffConfig(ctx context.Context, from, to uint64) (ConfigDiff, error)
}

// RunningConfig is the answer to GET /config.
type RunningConfig struct {
	Version   uint64         `json:"version"`
	LoadedAt  time.Time      `json:"loaded_at"`
	File      string         `json:"file,omitzero"`
	Drift     []string       `json:"drift"` // keys in which the files, or the group, say otherwise
	LastError string         `json:"last_error,omitzero"`
	Values    map[string]any `json:"values"` // what runs, secrets replaced
	YAML      string         `json:"yaml"`   // the same
}

// ConfigKey is one key that a change touches. Secrets are replaced.
type ConfigKey struct {
	Key    string `json:"key"`
	Old    string `json:"old"`
	New    string `json:"new"`
	Step   string `json:"step,omitzero"`   // that puts it in force
	Reason string `json:"reason,omitzero"` // why it could not
}

// ConfigProblem is one thing that is wrong with a configuration.
type ConfigProblem struct {
	Key    string `json:"key,omitzero"`
	Where  string `json:"where,omitzero"` // file:line, or the variable
	Reason string `json:"reason"`
}

// ConfigResult is the answer to a change, or to the question what it would do.
type ConfigResult struct {
	Outcome        string          `json:"outcome"`
	Version        uint64          `json:"version"` // that runs now
	Detail         string          `json:"detail,omitzero"`
	Applied        []ConfigKey     `json:"applied"`
	NeedsRestart   []ConfigKey     `json:"needs_restart"`
	Rejected       []ConfigProblem `json:"rejected"`
	Warnings       []string        `json:"warnings,omitempty"`       // what is allowed and probably not meant
	ProbationUntil time.Time       `json:"probation_until,omitzero"` // until then it is taken back by itself if the appliance does worse
}

// ConfigVersion is one entry of the history.
type ConfigVersion struct {
	Version uint64      `json:"version"`
	At      time.Time   `json:"at"`
	Who     string      `json:"who"`
	Source  string      `json:"source"`
	Of      uint64      `json:"of,omitzero"` // that a rollback went back to
	Outcome string      `json:"outcome"`
	Reason  string      `json:"reason,omitzero"`
	Running bool        `json:"running"`
	Changed []ConfigKey `json:"changed"`
	YAML    string      `json:"yaml,omitzero"` // left out in lists
}

// ConfigHistory is the answer to GET /config/history, newest first.
type ConfigHistory struct {
	Data []ConfigVersion `json:"data"`
}

// ConfigDiff is the answer to GET /config/diff.
type ConfigDiff struct {
	From    uint64      `json:"from"`
	To      uint64      `json:"to"`
	Changed []ConfigKey `json:"changed"`
}

// configRoutes are there where the appliance has a Configs.
func (h *Handler) configRoutes() []adminRoute {
	if h.cfg.Configs == nil {
		return nil
	}
	return []adminRoute{
		{http.MethodGet, "/config", h.showConfig},
		{http.MethodPost, "/config/reload", h.reloadConfig},
		{http.MethodPost, "/config/check", h.checkConfig},
		{http.MethodPost, "/config/rollback", h.rollbackConfig},
		{http.MethodGet, "/config/history", h.configHistory},
		{http.MethodGet, "/config/history/:version", h.configVersion},
		{http.MethodGet, "/config/diff", h.diffConfig},
	}
}

func (h *Handler) showConfig(x *exchange) error {
	return x.answer(http.StatusOK, h.cfg.Configs.Config())
}

// answerConfig gives a change that was refused a status that says so, and the
// whole answer all the same.
func (x *exchange) answerConfig(r ConfigResult, err error) error {
	if err != nil {
		return err
	}
	x.note("outcome", r.Outcome)
	x.note("version", r.Version)
	status := http.StatusOK
	switch r.Outcome {
	case ConfigRejected:
		status = http.StatusUnprocessableEntity
	case ConfigFailed:
		status = http.StatusConflict
	}
	return x.answer(status, r)
}

func (h *Handler) reloadConfig(x *exchange) error {
	return x.answerConfig(h.cfg.Configs.ReloadConfig(x.r.Context(), x.actor))
}

// CheckConfig is the body of POST /config/check. Without YAML it asks what a
// reload of the files, as they are, would do.
type CheckConfig struct {
	YAML *string `json:"yaml,omitzero"`
}

func (h *Handler) checkConfig(x *exchange) error {
	var body CheckConfig
	if x.r.ContentLength != 0 {
		if err := x.decode(&body); err != nil {
			return err
		}
	}
	return x.answerConfig(h.cfg.Configs.CheckConfig(x.r.Context(), body.YAML))
}

// RollbackConfig is the body of POST /config/rollback.
type RollbackConfig struct {
	Version uint64 `json:"version"`
}

func (h *Handler) rollbackConfig(x *exchange) error {
	var body RollbackConfig
	if err := x.decode(&body); err != nil {
		return err
	}
	x.note("to", body.Version)
	return x.answerConfig(h.cfg.Configs.RollbackConfig(x.r.Context(), x.actor, body.Version))
}

func (h *Handler) configHistory(x *exchange) error {
	list, err := h.cfg.Configs.ConfigHistory(x.r.Context())
	if err != nil {
		return err
	}
	return x.answer(http.StatusOK, ConfigHistory{Data: list})
}

func (h *Handler) configVersion(x *exchange) error {
	n, err := strconv.ParseUint(x.param("version"), 10, 64)
	if err != nil {
		return Refuse(CodeNotFound, "there is no such version; `forebay config history` lists them")
	}
	v, err := h.cfg.Configs.ConfigVersion(x.r.Context(), n)
	if err != nil {
		return err
	}
	return x.answer(http.StatusOK, v)
}

func (h *Handler) diffConfig(x *exchange) error {
	var numbers [2]uint64
	var broken []FieldProblem
	for i, name := range [...]string{"from", "to"} {
		n, err := strconv.ParseUint(x.r.URL.Query().Get(name), 10, 64)
		if err != nil {
			broken = append(broken, FieldProblem{Parameter: name, Detail: "must be the number of a version"})
		}
		numbers[i] = n
	}
	if len(broken) > 0 {
		return Refuse(CodeInvalid, "the query is not valid", broken...)
	}
	d, err := h.cfg.Configs.DiffConfig(x.r.Context(), numbers[0], numbers[1])
	if err != nil {
		return err
	}
	return x.answer(http.StatusOK, d)
}
