package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// lookup returns the value of a variable, the last one winning as in a shell.
func lookup(environ []string, name string) string {
	for _, entry := range slices.Backward(environ) {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// VariableName is the environment variable that sets a key:
// FOREBAY_BUFFER_CAPACITY for buffer.capacity.
func VariableName(key string) string {
	return "FOREBAY_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// Variables of ours that are not keys.
var otherVariables = []string{"FOREBAY_CONFIG", "FOREBAY_KEY", "FOREBAY_URL"}

// environment lays the variables over the configuration. An empty one counts
// as not set: that is how compose files pass on what they do not have.
//
// A variable that names no key is a problem if it is near enough to be meant as
// one. Others are none of our business: Kubernetes, for one, sets FOREBAY_PORT
// and its kin for a service of that name.
func (l *loader) environment(environ []string) {
	known := map[string]Leaf{}
	l.tiers(environ)
	for _, leaf := range leaves(&l.cfg) {
		known[VariableName(leaf.Key)] = leaf
	}
	names := slices.Collect(maps.Keys(known))
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, "FOREBAY_") || value == "" || value != lookup(environ, name) || slices.Contains(otherVariables, name) {
			continue
		}
		leaf, ok := known[name]
		switch {
		case name == tiersVariable, ok && strings.HasPrefix(name, tiersVariable+"_"):
			// done above
		case ok:
			l.variable(name, value, leaf)
		case strings.HasPrefix(name, tiersVariable+"_"):
			l.problems.add(name, "", "sets nothing; write %s_NAME_REQUESTS_PER_MINUTE, _BURST, _CONCURRENT or _MODE for a tier that exists, or add the tier in a file", tiersVariable)
		default:
			if near := nearest(name, names); near != "" && (distance(name, near) <= 2 || hasSection(name)) {
				l.problems.add(name, "", "unknown variable; did you mean %s?", near)
			} else if hasSection(name) {
				l.problems.add(name, "", "unknown variable; it begins like a section of the configuration, which has no such key")
			}
		}
	}
}

// hasSection reports whether the variable begins with a section's name.
func hasSection(name string) bool {
	t := reflect.TypeFor[Config]()
	return slices.ContainsFunc(fieldsOf(t), func(f field) bool {
		return t.Field(f.index).Type.Kind() == reflect.Struct && strings.HasPrefix(name, VariableName(f.key)+"_")
	})
}

const tiersVariable = "FOREBAY_RATE_LIMITING_TIERS"

// tiers takes the whole map in YAML's flow form, and single values of tiers
// that exist: the elements of a map cannot be set in place.
func (l *loader) tiers(environ []string) {
	if value := lookup(environ, tiersVariable); value != "" {
		l.flow(tiersVariable, value, "rate_limiting.tiers", reflect.ValueOf(&l.cfg.RateLimiting.Tiers).Elem())
	}
	for name, tier := range l.cfg.RateLimiting.Tiers {
		v := reflect.ValueOf(&tier).Elem()
		changed := false
		for _, leaf := range appendLeaves(nil, "rate_limiting.tiers."+name, v) {
			if value := lookup(environ, VariableName(leaf.Key)); value != "" {
				l.variable(VariableName(leaf.Key), value, leaf)
				changed = true
			}
		}
		if changed {
			copied := maps.Clone(l.cfg.RateLimiting.Tiers)
			copied[name] = tier
			l.cfg.RateLimiting.Tiers = copied
		}
	}
}

func (l *loader) variable(name, value string, leaf Leaf) {
	l.sources.where[leaf.Key] = name
	if kind := leaf.value.Kind(); kind == reflect.Map || kind == reflect.Slice {
		l.flow(name, value, leaf.Key, leaf.value)
		return
	}
	if message := setScalar(leaf.value, value, leaf.auto); message != "" {
		l.problems.add(name, leaf.Key, "%s", message)
	}
}

// flow reads a list or a map as YAML writes them in one line: [a, b], {1: a}.
func (l *loader) flow(name, value, key string, v reflect.Value) {
	var root yaml.Node
	if err := yaml.Load([]byte(value), &root); err != nil || len(root.Content) == 0 {
		l.problems.add(name, key, "cannot be read; write a list as [a, b] and a map as {name: value}")
		return
	}
	d := decoder{file: name, where: map[string]string{}}
	d.value(root.Content[0], v, key, false)
	for _, p := range d.problems {
		p.Where = name // a line number means nothing here
		l.problems = append(l.problems, p)
	}
	l.sources.where[key] = name
}
