package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Leaves lists every value of the configuration in the order of the schema.
func (c Config) Leaves() []Leaf { return leaves(&c) }

// YAML writes the whole configuration, secrets replaced, with a comment behind
// each value that is not a default: what set it.
func (c Config) YAML(s Sources) string {
	var b strings.Builder
	var open []string // sections that the last line was in
	for _, l := range leaves(&c) {
		parts := strings.Split(l.Key, ".")
		sections, key := parts[:len(parts)-1], parts[len(parts)-1]
		same := 0
		for same < len(open) && same < len(sections) && open[same] == sections[same] {
			same++
		}
		for i := same; i < len(sections); i++ {
			fmt.Fprintf(&b, "%s%s:\n", strings.Repeat("  ", i), sections[i])
		}
		open = sections
		value := l.Text()
		if l.value.Kind() == reflect.String {
			value = quote(value)
		}
		line := strings.Repeat("  ", len(sections)) + key + ": " + value
		if from := s.Of(l.Key); from != "default" {
			line += "  # " + from
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// Tree is the configuration as nested maps for JSON: numbers and truths as such,
// durations and sizes as text, secrets replaced.
func (c Config) Tree() map[string]any {
	tree := map[string]any{}
	for _, l := range leaves(&c) {
		node := tree
		parts := strings.Split(l.Key, ".")
		for _, section := range parts[:len(parts)-1] {
			next, ok := node[section].(map[string]any)
			if !ok {
				next = map[string]any{}
				node[section] = next
			}
			node = next
		}
		node[parts[len(parts)-1]] = plain(l.value)
	}
	return tree
}

func plain(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Bool, reflect.Int, reflect.Uint16, reflect.Float64, reflect.Slice:
		return v.Interface()
	case reflect.Map:
		m := map[string]string{}
		for _, k := range v.MapKeys() {
			m[strconv.FormatUint(k.Uint(), 10)] = v.MapIndex(k).String()
		}
		return m
	}
	return text(v)
}

// quote writes a string so that YAML reads back the same string: the escapes of
// Go are among those of YAML's double quotes.
func quote(s string) string { return strconv.Quote(s) }
