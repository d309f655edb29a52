package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v4"
)

// Sources says where a configuration comes from.
type Sources struct {
	// Files are those that were read, in order.
	Files []string
	where map[string]string
	// noOverlay is the file that the environment names and that is not there.
	noOverlay string
}

// Of says what set the key: file:line, an environment variable, or "default".
func (s Sources) Of(key string) string {
	if at := s.where[key]; at != "" {
		return at
	}
	return "default"
}

// Where says what set the key, as Of does; empty: nothing did.
func (s Sources) Where(key string) string { return s.where[key] }

// Path returns the configuration file to read: named (from --config), else
// FOREBAY_CONFIG, else DefaultPath.
func Path(named string, environ []string) string {
	if named != "" {
		return named
	}
	if v := lookup(environ, "FOREBAY_CONFIG"); v != "" {
		return v
	}
	return DefaultPath
}

// Load puts a configuration together from the file at path, what stands beside
// it, and environ (as os.Environ gives it), and validates it. The error is a
// Problems, or says that a file cannot be read. Secrets are not read yet: see
// ReadSecrets.
func Load(path string, environ []string) (Config, Sources, error) {
	return load(defaults(), path, environ, AvailableMemory())
}

// LoadDev is Load for `serve --dev`: no file, Dev's values for defaults, and
// environ over them.
func LoadDev(dir string, environ []string) (Config, Sources, error) {
	return load(devDefaults(dir), "", environ, AvailableMemory())
}

// SocketDespite is the admin socket that a configuration names, whatever else is
// wrong with it: an appliance runs on while its file is broken, and its operator
// must reach it just then.
func SocketDespite(path string, environ []string) string {
	l := loader{cfg: defaults(), sources: Sources{where: map[string]string{}}}
	_, _, _ = l.load(path, environ, AvailableMemory()) // what could be read is in l.cfg
	return l.cfg.AdminSocket()
}

func load(base Config, path string, environ []string, available Size) (Config, Sources, error) {
	l := loader{cfg: base, sources: Sources{where: map[string]string{}}}
	return l.load(path, environ, available)
}

func (l *loader) load(path string, environ []string, available Size) (Config, Sources, error) {
	switch {
	case path == "" && l.text != nil:
		l.document("configuration", []byte(*l.text))
	case path != "":
		if err := l.files(path, environ); err != nil {
			return Config{}, Sources{}, err
		}
	}
	l.environment(environ)
	return l.finish(available)
}

// finish checks what all layers together say.
func (l *loader) finish(available Size) (Config, Sources, error) {
	if len(l.problems) == 0 {
		// Rules over several keys make no sense over values that are not there.
		l.cfg = l.cfg.derived(available)
		var found Problems
		if errors.As(l.cfg.Validate(), &found) {
			l.problems = append(l.problems, found.locate(l.sources)...)
		}
	}
	if err := l.problems.err(); err != nil {
		return Config{}, Sources{}, err
	}
	return l.cfg, l.sources, nil
}

// loader collects layers.
type loader struct {
	cfg      Config
	sources  Sources
	problems Problems
	text     *string // in place of the file itself; nil: it is read
}

func (l *loader) files(path string, environ []string) error {
	if l.text != nil {
		l.document(path, []byte(*l.text))
	} else if err := l.file(path); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	names, err := dropIns(filepath.Join(dir, "conf.d"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := l.file(name); err != nil {
			return err
		}
	}
	return l.overlay(path, environ)
}

// dropIns lists dir/*.yaml by name. There need not be such a directory.
func dropIns(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	var names []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".yaml" && e.Name()[0] != '.' {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(names)
	return names, nil
}

// maxFile bounds what is read as configuration.
const maxFile = 1 << 20

func (l *loader) file(name string) error {
	info, err := os.Stat(name)
	if err == nil && info.Size() > maxFile {
		err = fmt.Errorf("%s has %d bytes; a configuration has less than 1 MiB", name, info.Size())
	}
	var content []byte
	if err == nil {
		content, err = os.ReadFile(name)
	}
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	l.sources.Files = append(l.sources.Files, name)
	l.document(name, content)
	return nil
}

// document lays one YAML document over the configuration. A file of comments
// leaves everything as it is.
func (l *loader) document(name string, content []byte) {
	documents, err := yaml.NewLoader(bytes.NewReader(content))
	if err != nil {
		l.syntax(name, err)
		return
	}
	var root, second yaml.Node
	if err := documents.Load(&root); err != nil {
		if !errors.Is(err, io.EOF) {
			l.syntax(name, err)
		}
		return
	}
	if err := documents.Load(&second); err == nil {
		l.problems.add(fmt.Sprintf("%s:%d", name, second.Line), "", "holds a second YAML document; keep one and remove the --- between them")
	} else if !errors.Is(err, io.EOF) {
		l.syntax(name, err)
	}
	d := decoder{file: name, where: map[string]string{}}
	if len(root.Content) > 0 {
		d.value(root.Content[0], reflect.ValueOf(&l.cfg).Elem(), "", false)
	}
	l.problems = append(l.problems, d.problems...)
	maps.Copy(l.sources.where, d.where)
}

// syntax reports what the YAML parser says.
func (l *loader) syntax(name string, err error) {
	var one *yaml.LoadError
	var several *yaml.LoadErrors
	if errors.As(err, &several) && len(several.Errors) > 0 {
		one = several.Errors[0]
	}
	if one != nil || errors.As(err, &one) {
		l.problems.add(fmt.Sprintf("%s:%d", name, max(one.Mark.Line, 1)), "", "not YAML: %s; check indentation and quotes", one.Message)
		return
	}
	l.problems.add(name+":1", "", "not YAML: %v", err)
}
