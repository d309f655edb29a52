package config

import (
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"
)

// decoder lays one YAML document over a configuration. It goes on after a
// problem, so that all of them are found at once. The schema, not the document,
// decides how deep it goes: an alias that contains itself, or a small file that
// expands to a huge one, costs nothing.
type decoder struct {
	file     string
	problems Problems
	where    map[string]string // key → file:line
}

func (d *decoder) at(n *yaml.Node) string { return fmt.Sprintf("%s:%d", d.file, n.Line) }

func (d *decoder) fail(n *yaml.Node, path, format string, args ...any) {
	d.problems.add(d.at(n), path, format, args...)
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// value decodes n into v, which has what the layers below set.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string, auto bool) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if isNull(n) {
		return
	}
	switch {
	case v.Kind() == reflect.Struct:
		d.section(n, v, path)
	case isSectionMap(v.Type()):
		d.sections(n, v, path)
	case v.Kind() == reflect.Slice:
		d.list(n, v, path)
	case v.Kind() == reflect.Map:
		d.numbered(n, v, path)
	default:
		d.scalar(n, v, path, auto)
	}
}

// pairs visits the keys of a mapping, refusing what is not one, and repeats.
func (d *decoder) pairs(n *yaml.Node, path, want string, visit func(key string, at, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "is %s; write %s", describe(n), want)
		return
	}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if k.Kind != yaml.ScalarNode {
			d.fail(k, path, "a key is %s; write a plain name", describe(k))
			continue
		}
		if line, seen := first[k.Value]; seen {
			d.fail(k, join(path, k.Value), "is there twice, first in line %d; keep one of them", line)
			continue
		}
		first[k.Value] = k.Line
		visit(k.Value, k, n.Content[i+1])
	}
}

func (d *decoder) section(n *yaml.Node, v reflect.Value, path string) {
	fields := fieldsOf(v.Type())
	d.pairs(n, path, "its keys, indented below it", func(key string, at, value *yaml.Node) {
		for _, f := range fields {
			if f.key == key {
				full := join(path, key)
				if !isNull(value) {
					d.where[full] = d.at(at)
				}
				d.value(value, v.Field(f.index), full, f.auto)
				return
			}
		}
		d.fail(at, join(path, key), "unknown key; %s", suggestKey(path, key, v.Type()))
	})
}

// suggestKey names the nearest key of the section, else the place where a key
// of that name lives, else all the keys there are.
func suggestKey(path, key string, section reflect.Type) string {
	keys := keysOf(section)
	if near := nearest(key, keys); near != "" {
		return "did you mean " + join(path, near) + "?"
	}
	for _, l := range leaves(new(Default())) {
		if strings.HasSuffix(l.Key, "."+key) {
			return "did you mean " + l.Key + "?"
		}
	}
	return "known here: " + strings.Join(keys, ", ")
}

// sections decodes a map from names to sections. A name that a lower layer has
// keeps what is not mentioned.
func (d *decoder) sections(n *yaml.Node, v reflect.Value, path string) {
	// A map is shared by the copies of a configuration; write to a new one.
	merged := reflect.MakeMap(v.Type())
	for _, k := range v.MapKeys() {
		merged.SetMapIndex(k, v.MapIndex(k))
	}
	d.pairs(n, path, "names with their keys below them", func(key string, at, value *yaml.Node) {
		element := reflect.New(v.Type().Elem()).Elem()
		if old := merged.MapIndex(reflect.ValueOf(key)); old.IsValid() {
			element.Set(old)
		} else if t, ok := element.Addr().Interface().(*Tier); ok {
			t.Mode = "enforce"
		}
		d.where[join(path, key)] = d.at(at)
		d.value(value, element, join(path, key), false)
		merged.SetMapIndex(reflect.ValueOf(key), element)
	})
	v.Set(merged)
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, path, "is %s; write a list, for example [a, b]", describe(n))
		return
	}
	list := reflect.MakeSlice(v.Type(), 0, len(n.Content))
	for _, item := range n.Content {
		element := reflect.New(v.Type().Elem()).Elem()
		d.scalar(item, element, path, false)
		list = reflect.Append(list, element)
	}
	v.Set(list)
}

// numbered decodes a map from node numbers to addresses.
func (d *decoder) numbered(n *yaml.Node, v reflect.Value, path string) {
	m := reflect.MakeMap(v.Type())
	d.pairs(n, path, "numbers with their addresses, for example {1: \"10.0.0.1:7000\"}", func(key string, at, value *yaml.Node) {
		k, element := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		if err := setText(k, key); err != nil {
			d.fail(at, join(path, key), "the key is %v", err)
			return
		}
		d.scalar(value, element, join(path, key), false)
		m.SetMapIndex(k, element)
	})
	v.Set(m)
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string, auto bool) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.ScalarNode {
		d.fail(n, path, "is %s; write a single value", describe(n))
		return
	}
	if message := setScalar(v, n.Value, auto); message != "" {
		d.fail(n, path, "%s", message)
	}
}

// setScalar sets v and says what is wrong with the text, if anything is. A text
// that may be a secret is not repeated.
func setScalar(v reflect.Value, text string, auto bool) string {
	if auto && text == "auto" {
		v.SetZero()
		return ""
	}
	scratch := reflect.New(v.Type()).Elem()
	if err := setText(scratch, text); err != nil {
		if auto {
			return fmt.Sprintf("%s is %v, or auto", excerpt(text), err)
		}
		return fmt.Sprintf("%s is %v", excerpt(text), err)
	}
	if auto && scratch.IsZero() {
		return fmt.Sprintf("%s is too small; write more, or auto", excerpt(text))
	}
	v.Set(scratch)
	return ""
}

// excerpt quotes a value for a message of one line.
func excerpt(text string) string {
	if r := []rune(text); len(r) > 40 {
		text = string(r[:40]) + "…"
	}
	return fmt.Sprintf("%q", text)
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a group of keys"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	return "a single value"
}
