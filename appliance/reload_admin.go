package appliance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"forebay/appliance/config"
	"forebay/httpapi/admin"
	"forebay/raftstate/account"
)

// current is the configuration that runs, as far as it can change while it does.
func (a *Appliance) current() config.Config { return a.reloads.state.Load().effective }

// sample is how well the appliance does, for the probation of a change.
func (a *Appliance) sample() Sample {
	in := a.status().Intake
	return Sample{Rate: in.Rate + in.RefusedRate, ErrorRate: in.ErrorRate, P99: time.Duration(in.Latency.P99 * float64(time.Second))}
}

// groupDrift names the keys that belong to the whole group and that it holds
// otherwise than c says: plans, the window and how breakers judge. A plan that
// the group keeps though c has none of its name (accounts are on it) counts, too.
func (a *Appliance) groupDrift(c config.Config) []string {
	if a.group == nil || !a.group.Status().Ready {
		return nil
	}
	keys := tierDrift(plansOf(c.RateLimiting.Tiers), a.group.Plans())
	// A node that counts alone has a window of its own.
	if a.limits != nil && a.limits.local == nil && a.group.Window() != c.RateLimiting.Window.Truncate(time.Millisecond) {
		keys = append(keys, "rate_limiting.window")
	}
	want, held := c.CircuitBreaker, a.group.Breakers().Settings()
	for _, setting := range []struct {
		key  string
		same bool
	}{
		{"failure_threshold", want.FailureThreshold == held.Threshold},
		{"timeout", want.Timeout == held.Timeout},
		{"recovery_time", want.RecoveryTime == held.Recovery},
	} {
		if !setting.same {
			keys = append(keys, "circuit_breaker."+setting.key)
		}
	}
	return keys
}

// tierDrift names the plans that differ between what a file wants and what the
// group holds, each once.
func tierDrift(want, held []account.Plan) (keys []string) {
	byName := make(map[string]account.Plan, len(held))
	for _, p := range held {
		byName[p.Name] = p
	}
	for _, w := range want {
		p, there := byName[w.Name]
		delete(byName, w.Name)
		if !there || p.RequestsPerMinute != w.RequestsPerMinute || p.Burst != w.Burst || p.Concurrent != w.Concurrent || p.Mode != w.Mode {
			keys = append(keys, "rate_limiting.tiers."+w.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		keys = append(keys, "rate_limiting.tiers."+name)
	}
	return keys
}

// drift names the keys in which the files say otherwise than what runs here, or
// in the group.
func (r *reloads) drift() []string {
	s := r.state.Load()
	keys := []string{}
	for _, c := range config.Diff(s.effective, s.loaded) {
		keys = append(keys, c.Key)
	}
	for _, key := range r.group(s.loaded) {
		if !slices.ContainsFunc(keys, func(k string) bool { return k == key || strings.HasPrefix(k, key+".") }) {
			keys = append(keys, key)
		}
	}
	return keys
}

const recentVersions = 10

// recent is the end of the history, in short. The caller has the turn.
func (r *reloads) recent() []admin.ConfigChange {
	var list []admin.ConfigChange
	for _, v := range r.history.List() {
		if len(list) == recentVersions {
			break
		}
		c := admin.ConfigChange{Version: v.Version, At: v.At, Who: v.Who, Source: v.Source, Outcome: v.Outcome}
		for _, change := range v.Changed {
			c.Changed = append(c.Changed, change.Key)
		}
		list = append(list, c)
	}
	return list
}

func (a *Appliance) configStatus(s *admin.Status) {
	now := a.reloads.state.Load()
	s.Config = admin.ConfigStatus{Version: now.version, LoadedAt: now.at, Drift: a.reloads.drift(), LastError: now.lastError, History: now.recent}
}

// configs is the configuration as the operators' routes see it.
type configs Appliance

func (c *configs) Config() admin.RunningConfig {
	s := c.reloads.state.Load()
	return admin.RunningConfig{Version: s.version, LoadedAt: s.at.UTC(), File: c.reloads.files.Path, Drift: c.reloads.drift(),
		LastError: s.lastError, Values: s.effective.Tree(), YAML: s.effective.Text()}
}

func (c *configs) ReloadConfig(ctx context.Context, who string) (admin.ConfigResult, error) {
	return (*Appliance)(c).Reload(ctx, config.SourceAdmin, who)
}

func (c *configs) RollbackConfig(ctx context.Context, who string, version uint64) (admin.ConfigResult, error) {
	r := c.reloads
	if !r.enter(ctx) {
		return admin.ConfigResult{}, context.Cause(ctx)
	}
	defer r.leave()
	v, err := r.history.Get(version)
	if err != nil {
		return admin.ConfigResult{}, noVersion(err)
	}
	s := r.state.Load()
	next, sources, err := config.Parse(v.Text, fmt.Sprintf("version %d", version), s.effective)
	if err == nil {
		err = next.ReadSecrets(sources)
	}
	if err == nil {
		err = Check(next, sources)
	}
	if err != nil {
		return r.reject(who, config.SourceRollback, err), nil
	}
	result := r.change(ctx, next, s.loaded, config.Version{Source: config.SourceRollback, Who: who, Of: version})
	if result.Outcome == admin.ConfigApplied && len(r.drift()) > 0 {
		result.Detail = "the configuration file still says otherwise: change it too, for the next reload or start takes what it says"
	}
	return result, nil
}

func (c *configs) CheckConfig(ctx context.Context, text *string) (admin.ConfigResult, error) {
	r := c.reloads
	s := r.state.Load()
	var next config.Config
	var warnings []string
	var err error
	switch {
	case text != nil:
		var sources config.Sources
		if next, sources, err = r.files.LoadText(*text); err == nil {
			err = next.ReadSecrets(sources)
		}
		if err == nil {
			err = Check(next, sources)
		}
		warnings = config.Warnings(next, sources)
	case r.files.Path == "":
		return admin.ConfigResult{}, admin.Refuse(admin.CodeInvalid, "the appliance was started without a configuration file; send one to check")
	default:
		next, warnings, err = loadFiles(r.files)
	}
	result := admin.ConfigResult{Outcome: admin.ConfigUnchanged, Version: s.version, Detail: "nothing was changed: this is what a reload would do"}
	if err == nil {
		target := config.Merge(s.effective, next, func(key string) bool { return r.stepOf(key) != nil })
		err = target.Validate()
	}
	if err != nil {
		result.Outcome = admin.ConfigRejected
		result.Rejected = problemsOf(err)
		return result, nil
	}
	result.Applied, result.NeedsRestart = r.plan(s.effective, next)
	result.Warnings = warnings
	return result, nil
}

// plan says what a change from one configuration to another touches.
func (r *reloads) plan(from, to config.Config) (applied, needsRestart []admin.ConfigKey) {
	for _, c := range config.Diff(from, to) {
		change := admin.ConfigKey{Key: c.Key, Old: c.Old, New: c.New}
		if s := r.stepOf(c.Key); s != nil {
			change.Step = s.name
			applied = append(applied, change)
		} else {
			change.Reason = "is fixed until the next start"
			needsRestart = append(needsRestart, change)
		}
	}
	return applied, needsRestart
}

func problemsOf(err error) []admin.ConfigProblem {
	var problems config.Problems
	if !errors.As(err, &problems) {
		problems = config.Problems{{Message: err.Error()}}
	}
	list := make([]admin.ConfigProblem, len(problems))
	for i, p := range problems {
		list[i] = admin.ConfigProblem{Key: p.Key, Where: p.Where, Reason: p.Message}
	}
	return list
}

func (c *configs) ConfigHistory(ctx context.Context) ([]admin.ConfigVersion, error) {
	if !c.reloads.enter(ctx) {
		return nil, context.Cause(ctx)
	}
	defer c.reloads.leave()
	list := []admin.ConfigVersion{}
	for _, v := range c.reloads.history.List() {
		short := c.view(v)
		short.YAML = ""
		list = append(list, short)
	}
	return list, nil
}

func (c *configs) ConfigVersion(ctx context.Context, number uint64) (admin.ConfigVersion, error) {
	if !c.reloads.enter(ctx) {
		return admin.ConfigVersion{}, context.Cause(ctx)
	}
	defer c.reloads.leave()
	v, err := c.reloads.history.Get(number)
	return c.view(v), noVersion(err)
}

func (c *configs) view(v config.Version) admin.ConfigVersion {
	return admin.ConfigVersion{Version: v.Version, At: v.At, Who: v.Who, Source: v.Source, Of: v.Of, Outcome: v.Outcome, Reason: v.Reason,
		Running: v.Version == c.reloads.state.Load().version, Changed: keysChanged(v.Changed), YAML: v.Text}
}

func keysChanged(changes []config.Change) []admin.ConfigKey {
	keys := make([]admin.ConfigKey, len(changes))
	for i, c := range changes {
		keys[i] = admin.ConfigKey{Key: c.Key, Old: c.Old, New: c.New}
	}
	return keys
}

func (c *configs) DiffConfig(ctx context.Context, from, to uint64) (admin.ConfigDiff, error) {
	var parsed [2]config.Config
	for i, number := range [...]uint64{from, to} {
		v, err := c.ConfigVersion(ctx, number)
		if err != nil {
			return admin.ConfigDiff{}, err
		}
		// database.url is not in the text: the same for both, it does not differ.
		if parsed[i], _, err = config.Parse(v.YAML, fmt.Sprintf("version %d", number), c.cfg); err != nil {
			return admin.ConfigDiff{}, admin.Refuse(admin.CodeInvalid, fmt.Sprintf("version %d was written by another version of forebay and cannot be read by this one", number))
		}
	}
	return admin.ConfigDiff{From: from, To: to, Changed: keysChanged(config.Diff(parsed[0], parsed[1]))}, nil
}

func noVersion(err error) error {
	if errors.Is(err, config.ErrNoVersion) {
		return admin.Refuse(admin.CodeNotFound, "there is no such version; `forebay config history` lists them")
	}
	return err
}
