package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// environmentOf is the environment whose overlay counts: that of the variable,
// else that of the files.
func environmentOf(c Config, environ []string) string {
	if v := lookup(environ, environmentVariable); v != "" {
		return v
	}
	return c.Environment
}

const environmentVariable = "FOREBAY_ENVIRONMENT"

// overlayPath is where the overlay of an environment is.
func overlayPath(dir, environment string) string {
	return filepath.Join(dir, "forebay."+environment+".yaml")
}

// overlay lays the file of the environment over the others, where there is one.
//
// One that is missing may be a slip of the keyboard, and what then starts is a
// test machine with the production database. So it is a problem where the
// directory has overlays and not this one, and a warning (see Warnings) where it
// has none and the name is only a name. The default environment needs none: its
// settings are those of the file.
func (l *loader) overlay(path string, environ []string) error {
	dir := filepath.Dir(path)
	env := environmentOf(l.cfg, environ)
	if !environmentName(env) {
		return nil // Validate says so; it must not become a path
	}
	err := l.file(overlayPath(dir, env))
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if env == defaults().Environment {
		return nil
	}
	others, err := overlays(path)
	if err != nil {
		return err
	}
	l.sources.noOverlay = overlayPath(dir, env)
	if len(others) > 0 {
		where := l.sources.where["environment"]
		if lookup(environ, environmentVariable) != "" {
			where = environmentVariable
		}
		l.problems.add(where, "environment", "%q has no %s, and there is %s; write the name of one, or make an empty file of that name",
			env, l.sources.noOverlay, strings.Join(others, ", "))
	}
	return nil
}

// overlayName is that of an overlay of some environment, or of what was meant as
// one: .yml is not read.
var overlayName = regexp.MustCompile(`^forebay\.[a-z0-9_-]{1,32}\.ya?ml$`)

// overlays names the overlays beside the file, in order. The file itself is none,
// whatever its name.
func overlays(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	var names []string
	for _, e := range entries {
		if overlayName.MatchString(e.Name()) && e.Name() != filepath.Base(path) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}
