package config

import (
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// Digest tells contents of one file apart. The zero Digest is that of a file that
// cannot be read.
type Digest [sha256.Size]byte

// Fingerprint tells states of files apart by what they hold, not by their times:
// a file that is written anew with the same content has not changed.
func Fingerprint(files []string) map[string]Digest {
	digests := make(map[string]Digest, len(files))
	for _, name := range files {
		digests[name] = digestOf(name)
	}
	return digests
}

func digestOf(name string) (d Digest) {
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() { // to open a pipe would block
		return d
	}
	f, err := os.Open(name)
	if err != nil {
		return d
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, maxFile)); err != nil {
		return d
	}
	return Digest(h.Sum(nil))
}

// Inputs names every file that a Load of path with environ reads or would read
// if it came to be, and those that hold what c, the configuration loaded last,
// names. The directories that these are in are what has to be watched.
func Inputs(path string, environ []string, c Config) []string {
	files := []string{path}
	dir := filepath.Dir(path)
	if names, err := dropIns(filepath.Join(dir, "conf.d")); err == nil {
		files = append(files, names...)
	}
	if env := environmentOf(c, environ); environmentName(env) {
		files = append(files, overlayPath(dir, env))
	}
	files = append(files, c.SecretFiles()...)
	slices.Sort(files)
	return slices.Compact(files)
}

// Directories are those that the files are in, and conf.d beside path, which may
// come to be.
func Directories(path string, files []string) []string {
	dirs := []string{filepath.Dir(path), filepath.Join(filepath.Dir(path), "conf.d")}
	for _, f := range files {
		dirs = append(dirs, filepath.Dir(f))
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// Files is where a configuration comes from.
type Files struct {
	Path    string   // the configuration file; empty: there is none, and nothing to reload
	Environ []string // as os.Environ gives it
}

// Load reads the configuration and its secrets anew.
func (f Files) Load() (Config, Sources, error) {
	c, sources, err := Load(f.Path, f.Environ)
	if err == nil {
		err = c.ReadSecrets(sources)
	}
	return c, sources, err
}

// LoadText is Load with text in place of what the configuration file holds, and
// without the secrets.
func (f Files) LoadText(text string) (Config, Sources, error) {
	l := loader{cfg: defaults(), sources: Sources{where: map[string]string{}}, text: &text}
	return l.load(f.Path, f.Environ, AvailableMemory())
}

// Inputs are the files that count: see Inputs.
func (f Files) Inputs(c Config) []string { return Inputs(f.Path, f.Environ, c) }

// Directories are those to watch.
func (f Files) Directories(c Config) []string { return Directories(f.Path, f.Inputs(c)) }
