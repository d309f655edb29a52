package appliance_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The rules of the house that a machine can hold.

// goPackage is what the policies need of `go list -json`.
type goPackage struct {
	ImportPath   string
	Dir          string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
}

func goList(t *testing.T, args ...string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,GoFiles,TestGoFiles,XTestGoFiles,Imports"}, args...)...)
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var packages []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("read what go list says: %v", err)
		}
		packages = append(packages, p)
	}
}

// room is the top-level folder of one of our packages; "": not ours.
func room(path string) (room, inside string) {
	rest, ours := strings.CutPrefix(path, "forebay/")
	if !ours {
		return "", ""
	}
	room, inside, _ = strings.Cut(rest, "/")
	return room, inside
}

// mayImport is the direction of imports: rooms do not know each other, all know
// the vocabulary, and only the composition root knows all. What is pure knows
// nothing of ours.
func mayImport(from, to string) bool {
	fromRoom, fromInside := room(from)
	toRoom, _ := room(to)
	pure := []string{"forebay/wal/message", "forebay/raftstate/account", "forebay/raftstate/limiter", "forebay/raftstate/breaker"}
	switch {
	case toRoom == "":
		return true
	case slices.Contains(pure, from):
		return from != "forebay/wal/message" && to == "forebay/wal/message"
	case fromRoom == "appliance" && fromInside == "config":
		return toRoom != "appliance" || strings.HasPrefix(to, "forebay/appliance/config")
	case fromRoom == "appliance":
		return true
	case to == "forebay/wal/message", to == "forebay/wal/witness": // every room that syncs needs the latter
		return true
	case fromRoom != toRoom:
		return false
	case fromRoom == "sink" && fromInside != "": // a store or channel: of its room only what is above it
		return to == "forebay/sink" || fromInside == "sinktest"
	case fromRoom == "httpapi" && fromInside == "":
		return to != "forebay/httpapi/admin"
	}
	return true
}

func TestPolicyImports(t *testing.T) {
	t.Parallel()
	for _, p := range goList(t, "./...") {
		for _, to := range p.Imports {
			if !mayImport(p.ImportPath, to) {
				t.Errorf("%s imports %s", p.ImportPath, to)
			}
		}
	}
}

// TestPolicyBinaryHasNoTestCode: what is made for tests stays out of what runs.
// (hashicorp/raft itself imports testing; ours must not.)
func TestPolicyBinaryHasNoTestCode(t *testing.T) {
	t.Parallel()
	for _, p := range goList(t, "-deps", "./appliance/forebay") {
		if ours, _ := room(p.ImportPath); ours == "" {
			continue
		}
		if strings.HasSuffix(p.ImportPath, "test") && p.ImportPath != "forebay/appliance/loadtest" {
			t.Errorf("the forebay command contains %s", p.ImportPath)
		}
		if slices.Contains(p.Imports, "testing") {
			t.Errorf("%s, which is in the forebay command, imports testing", p.ImportPath)
		}
	}
}

// TestPolicyPackageComments: one in each package, and in one file only.
func TestPolicyPackageComments(t *testing.T) {
	t.Parallel()
	for _, p := range goList(t, "./...") {
		var files []string
		for _, name := range p.GoFiles {
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if parsed.Doc != nil {
				files = append(files, name)
			}
		}
		if len(p.GoFiles) > 0 && len(files) != 1 {
			t.Errorf("%s: package comments in %q, want one", p.ImportPath, files)
		}
	}
}

// sources calls visit with each file of the repository that people write.
func sources(t *testing.T, visit func(path string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel("..", path)
		if d.IsDir() {
			if slices.Contains([]string{".git", "bin", "data", "dist"}, name) || d.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || !slices.Contains([]string{".go", ".md", ".sql", ".yaml", ".yml", ".mod", ".html", ".css", ".js", ""}, filepath.Ext(path)) {
			return nil
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			visit(name, text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

const maxLines = 450

func TestPolicyFiles(t *testing.T) {
	t.Parallel()
	// Put together, so that this file does not have what it looks for.
	sleep, leftovers := "time."+"Sleep(", []string{"TO" + "DO", "FIX" + "ME", "XX" + "X"}
	outside := []string{"/" + "work/", "share" + "d/"}
	sources(t, func(path string, text []byte) {
		if strings.HasSuffix(path, ".go") {
			if lines := bytes.Count(text, []byte("\n")); lines > maxLines && !strings.HasSuffix(path, "_test.go") {
				t.Errorf("%s has %d lines: look for the second duty; more than %d is too many", path, lines, maxLines)
			}
			for _, word := range leftovers {
				if bytes.Contains(text, []byte(word)) {
					t.Errorf("%s has a %s", path, word)
				}
			}
			// In a synctest bubble a sleep costs nothing and is exact.
			if strings.HasSuffix(path, "_test.go") && bytes.Contains(text, []byte(sleep)) && !bytes.Contains(text, []byte("testing/synctest")) {
				t.Errorf("%s sleeps: wait for what happens, or use testing/synctest", path)
			}
		}
		for _, name := range outside {
			if bytes.Contains(text, []byte(name)) {
				t.Errorf("%s names %s, which nobody else has", path, name)
			}
		}
	})
}

// TestPolicyFloorPlan: the top level is fixed.
func TestPolicyFloorPlan(t *testing.T) {
	t.Parallel()
	plan := []string{"appliance", "wal", "raftstate", "httpapi", "sink", "web", "packaging", "go.mod", "go.sum", "Makefile", "README.md", "LICENSE"}
	cmd := exec.Command("git", "ls-files")
	cmd.Dir = ".."
	out, err := cmd.Output()
	var names []string
	if err == nil {
		names = strings.Fields(string(out))
	} else { // not a checkout: what is there, then
		entries, err := os.ReadDir("..")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		plan = append(plan, "bin", "data", "dist")
	}
	for _, name := range names {
		top, _, _ := strings.Cut(name, "/")
		if !strings.HasPrefix(top, ".") && !slices.Contains(plan, top) {
			t.Errorf("%s is not on the floor plan", top)
		}
	}
}
