package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// field is one key of a section, as its struct's tags say.
type field struct {
	key    string
	index  int
	auto   bool   // "auto" is a value: left at zero here, filled in by derive
	change string // live, cluster or restart; empty for a section
}

func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		if key := tag.Get("yaml"); key != "-" {
			fields = append(fields, field{key: key, index: i, auto: tag.Get("auto") != "", change: tag.Get("change")})
		}
	}
	return fields
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for _, f := range fieldsOf(t) {
		keys = append(keys, f.key)
	}
	return keys
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// Leaf is one value of a configuration.
type Leaf struct {
	Key    string // such as rate_limiting.tiers.basic.burst
	Change string // what it takes to change it: live, cluster or restart
	value  reflect.Value
	auto   bool
}

// Text is the value as it would be written, with secrets replaced.
func (l Leaf) Text() string { return text(l.value) }

// leaves walks over every value of c in the order of the schema, maps by key. A
// list, and a map of plain values, is one leaf. The values can be set.
func leaves(c *Config) []Leaf { return appendLeaves(nil, "", reflect.ValueOf(c).Elem()) }

func appendLeaves(dst []Leaf, path string, v reflect.Value) []Leaf {
	for _, f := range fieldsOf(v.Type()) {
		key, fv := join(path, f.key), v.Field(f.index)
		switch {
		case fv.Kind() == reflect.Struct:
			dst = appendLeaves(dst, key, fv)
		case isSectionMap(fv.Type()):
			for _, name := range sortedKeys(fv) {
				// A map's element cannot be set in place; show a copy.
				element := reflect.New(fv.Type().Elem()).Elem()
				element.Set(fv.MapIndex(reflect.ValueOf(name)))
				dst = appendLeaves(dst, join(key, name), element)
			}
		default:
			dst = append(dst, Leaf{Key: key, Change: f.change, value: fv, auto: f.auto})
		}
	}
	return dst
}

// isSectionMap: a map from names to sections, such as the tiers.
func isSectionMap(t reflect.Type) bool {
	return t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct
}

func sortedKeys(m reflect.Value) []string {
	var names []string
	for _, k := range m.MapKeys() {
		names = append(names, k.String())
	}
	slices.Sort(names)
	return names
}

// setText parses text into v. Its error says what is wrong and how to write it.
func setText(v reflect.Value, text string) error {
	switch v.Interface().(type) {
	case time.Duration:
		d, err := ParseDuration(text)
		v.SetInt(int64(d))
		return err
	case Size:
		s, err := ParseSize(text)
		v.SetInt(int64(s))
		return err
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("neither true nor false")
		}
		v.SetBool(text == "true")
	case reflect.Int, reflect.Uint16:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || strings.HasPrefix(text, "+") {
			return fmt.Errorf("not a whole number; write digits only, for example 1000")
		}
		if v.Kind() == reflect.Uint16 {
			if n < 0 || n > 65535 {
				return fmt.Errorf("not between 0 and 65535")
			}
			v.SetUint(uint64(n))
			return nil
		}
		v.SetInt(n)
	case reflect.Float64:
		x, err := strconv.ParseFloat(text, 64)
		if err != nil || strings.Trim(text, "0123456789.") != "" {
			return fmt.Errorf("not a number; write for example 0.85")
		}
		v.SetFloat(x)
	default:
		panic("config: the schema has a kind without a parser: " + v.Type().String())
	}
	return nil
}

// text is the inverse of setText, and the flow form of lists and maps.
func text(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return FormatDuration(x)
	case fmt.Stringer: // Size, Secret, DSN
		return x.String()
	}
	switch v.Kind() {
	case reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = quote(v.Index(i).String())
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case reflect.Map:
		var parts []string
		for _, k := range slices.SortedFunc(slices.Values(v.MapKeys()), func(a, b reflect.Value) int { return int(a.Uint()) - int(b.Uint()) }) {
			parts = append(parts, fmt.Sprintf("%d: %s", k.Uint(), quote(v.MapIndex(k).String())))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case reflect.Float64:
		return strconv.FormatFloat(v.Float(), 'f', -1, 64)
	}
	return fmt.Sprint(v.Interface())
}
