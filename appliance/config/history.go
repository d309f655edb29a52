package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The outcomes of a Version.
const (
	OutcomeProbation  = "probation"   // in force, and still watched
	OutcomeApplied    = "applied"     // took effect, and the appliance went on as well as before
	OutcomeFailed     = "failed"      // a step failed; what ran before it runs on
	OutcomeRolledBack = "rolled_back" // the appliance got worse by it; what ran before it runs again
)

// The sources of a Version.
const (
	SourceStart     = "start"     // the appliance started with it
	SourceFile      = "file"      // a file changed
	SourceSignal    = "sighup"    // the process was told by a signal
	SourceAdmin     = "admin"     // an operator asked for a reload
	SourceRollback  = "rollback"  // an operator went back to an earlier version
	SourceAutomatic = "automatic" // a version that made the appliance worse was taken back
)

// Version is one configuration that was put in force, or was tried.
type Version struct {
	Version uint64    `json:"version"`
	At      time.Time `json:"at"`
	Who     string    `json:"who"`
	Source  string    `json:"source"`
	Of      uint64    `json:"of,omitzero"` // the version that a rollback went back to
	Outcome string    `json:"outcome"`
	Reason  string    `json:"reason,omitzero"` // of an outcome that is not applied
	Changed []Change  `json:"changed"`         // against the version before, secrets replaced
	// Text is the whole configuration as YAML, without secrets: files that hold
	// them are named, and read anew when it is used again.
	Text string `json:"text"`
}

const (
	historyLimit = 200
	historyMode  = 0o600
	historyEnd   = ".json"
)

// ErrNoVersion: the history does not have that version.
var ErrNoVersion = errors.New("no such version of the configuration")

// History keeps versions in a directory, a file each. A version is in it, whole,
// when Put has returned, whatever happens to the process or the machine then; a
// crash before leaves the history as it was, and perhaps a file of another name.
// The oldest ones make room beyond 200. It is not safe for concurrent use.
type History struct {
	dir      string
	versions []Version // ascending
	highest  uint64    // number that was ever used
}

// OpenHistory opens the history in dir, or makes one. Files that cannot be read
// stay where they are: unreadable says which and why, and their numbers are not
// used again.
func OpenHistory(dir string) (h *History, unreadable []error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("open the configuration's history: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("open the configuration's history: %w", err)
	}
	h = &History{dir: dir}
	for _, e := range entries {
		digits, ours := strings.CutSuffix(e.Name(), historyEnd)
		number, err := strconv.ParseUint(digits, 10, 64)
		if !ours || err != nil {
			if strings.HasPrefix(e.Name(), ".new-") { // a crash left it
				_ = os.Remove(filepath.Join(dir, e.Name()))
			}
			continue
		}
		h.highest = max(h.highest, number)
		v, err := readVersion(filepath.Join(dir, e.Name()), number)
		if err != nil {
			unreadable = append(unreadable, err)
			continue
		}
		h.versions = append(h.versions, v)
	}
	slices.SortFunc(h.versions, func(a, b Version) int { return int(int64(a.Version) - int64(b.Version)) })
	return h, unreadable, nil
}

func readVersion(name string, number uint64) (v Version, err error) {
	content, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(content, &v)
	}
	if err == nil && v.Version != number {
		err = fmt.Errorf("it says that it is version %d", v.Version)
	}
	if err != nil {
		return v, fmt.Errorf("read a version of the configuration's history from %s: %w", name, err)
	}
	return v, nil
}

// List returns the versions, the newest first.
func (h *History) List() []Version {
	list := slices.Clone(h.versions)
	slices.Reverse(list)
	return list
}

// Get returns one version; ErrNoVersion.
func (h *History) Get(number uint64) (Version, error) {
	for _, v := range h.versions {
		if v.Version == number {
			return v, nil
		}
	}
	return Version{}, fmt.Errorf("%w: %d", ErrNoVersion, number)
}

// Next is the number of the next new version.
func (h *History) Next() uint64 { return h.highest + 1 }

// Put writes a version, new or with another outcome than it had.
func (h *History) Put(v Version) error {
	content, err := json.Marshal(v, jsontext.WithIndent("  "))
	if err != nil {
		return fmt.Errorf("write the configuration's history: %w", err)
	}
	if err := h.write(h.file(v.Version), append(content, '\n')); err != nil {
		return fmt.Errorf("write the configuration's history: %w", err)
	}
	h.highest = max(h.highest, v.Version)
	i, found := slices.BinarySearchFunc(h.versions, v.Version, func(a Version, n uint64) int { return int(int64(a.Version) - int64(n)) })
	if found {
		h.versions[i] = v
	} else {
		h.versions = slices.Insert(h.versions, i, v)
	}
	for len(h.versions) > historyLimit {
		if err := os.Remove(h.file(h.versions[0].Version)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("shorten the configuration's history: %w", err)
		}
		h.versions = h.versions[1:]
	}
	return nil
}

func (h *History) file(number uint64) string {
	return filepath.Join(h.dir, fmt.Sprintf("%08d%s", number, historyEnd))
}

// write puts a file in its place at once: it is there whole, or not at all.
func (h *History) write(name string, content []byte) (err error) {
	f, err := os.CreateTemp(h.dir, ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(historyMode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), name); err != nil {
		return err
	}
	d, err := os.Open(h.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Text is the configuration as History keeps it.
func (c Config) Text() string { return c.YAML(Sources{}) }

// Parse reads what Text wrote, over the defaults, and validates it. Secrets are
// not in it: what cannot be written (database.url) is taken from running.
func Parse(text, name string, running Config) (Config, Sources, error) {
	l := loader{cfg: defaults(), sources: Sources{where: map[string]string{}}}
	l.cfg.RateLimiting.Tiers = map[string]Tier{} // only those that are written
	l.document(name, []byte(text))
	if l.cfg.Database.URLFile == "" {
		l.cfg.Database.URL = running.Database.URL
	} else {
		l.cfg.Database.URL = "" // ReadSecrets reads it
	}
	return l.finish(AvailableMemory())
}
