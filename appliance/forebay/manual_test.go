package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// environment is what gives one command variables of its own.
var environment = regexp.MustCompile(`^env (?:[A-Z_]+=\S* )+`)

// commandsOf returns the lines of a page's shell blocks that call forebay, and
// what it names in running text, where arguments may be left out.
func commandsOf(page string) (lines, named []string) {
	inShell := false
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if fence, ok := strings.CutPrefix(line, "```"); ok {
			inShell = !inShell && strings.HasPrefix(fence, "sh")
			continue
		}
		if !inShell {
			for _, m := range regexp.MustCompile("`(forebay [^`]+)`").FindAllStringSubmatch(line, -1) {
				named = append(named, m[1])
			}
			continue
		}
		line = strings.TrimPrefix(line, "sudo ")
		line = strings.TrimPrefix(line, "-u forebay ")
		line = environment.ReplaceAllString(line, "")
		if strings.HasPrefix(line, "forebay ") {
			lines = append(lines, line)
		}
	}
	return lines, named
}

// TestTheManualsCommandsExist holds each command of the manual and the README
// against the program: the command is there, takes these flags and as many
// arguments.
func TestTheManualsCommandsExist(t *testing.T) {
	pages, err := filepath.Glob("../../packaging/doc/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no manual: %v", err)
	}
	checked := 0
	for _, path := range append(pages, "../../README.md") {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines, named := commandsOf(string(content))
		for i, line := range append(lines, named...) {
			if err := parseOnly(line, i < len(lines)); err != nil {
				t.Errorf("%s: %s: %v", filepath.Base(path), line, err)
			}
			checked++
		}
	}
	if checked < 20 {
		t.Fatalf("%d commands found: the test no longer finds them", checked)
	}
}

// TestTheAdvicesCommandsExist holds each command that an alert, an error or the
// page tells an operator to run against the program, with all of its arguments.
func TestTheAdvicesCommandsExist(t *testing.T) {
	checked := 0
	check := func(path, text string) {
		for _, m := range regexp.MustCompile("`(forebay [^`]+)`").FindAllStringSubmatch(text, -1) {
			if err := parseOnly(m[1], true); err != nil {
				t.Errorf("%s: %s: %v", path, m[1], err)
			}
			checked++
		}
	}
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil || entry.IsDir() || strings.HasSuffix(path, "_test.go"):
			return err
		case strings.HasSuffix(path, ".go"):
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					check(path, literal.Value)
				}
				return true
			})
		case filepath.Ext(path) == ".js":
			content, err := os.ReadFile(path)
			check(path, string(content))
			return err
		}
		return nil
	})
	if err != nil || checked < 20 {
		t.Fatalf("%d commands found: the test no longer finds them (%v)", checked, err)
	}
}

// parseOnly does what the program does with a command line until the command
// would run; whole: with all of its arguments.
func parseOnly(line string, whole bool) error {
	line, _, _ = strings.Cut(line, " #")
	line, _, _ = strings.Cut(line, " > ")
	words := regexp.MustCompile(`"[^"]*"|\S+`).FindAllString(line, -1)[1:]
	cmd, args, err := (&app{}).root().Find(words)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(args); err != nil {
		return err
	}
	args = cmd.Flags().Args()
	switch {
	case cmd.HasSubCommands() && len(args) > 0 && args[0] != "…":
		return usagef("no command %s of %s", args[0], cmd.CommandPath())
	case cmd.HasSubCommands() && whole:
		return usagef("which command of %s?", cmd.CommandPath())
	case whole && cmd.Args != nil:
		return cmd.Args(cmd, args)
	}
	return nil
}

// TestTheManualsTestCanFail is the control.
func TestTheManualsTestCanFail(t *testing.T) {
	for _, line := range []string{"forebay acount list", "forebay config diff", "forebay send --prioritty high x", "forebay key revok x"} {
		if parseOnly(line, true) == nil {
			t.Errorf("%s: no error", line)
		}
	}
}

// TestTheManualsCertificates: the files that the manual puts into the
// configuration of a node are those that `cluster certs` writes.
func TestTheManualsCertificates(t *testing.T) {
	page, err := os.ReadFile("../../packaging/doc/deployment.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if o := run(t, dir, nil, "cluster", "certs", "--dir", "certs", "1"); o.code != 0 {
		t.Fatalf("cluster certs: %+v", o)
	}
	named := regexp.MustCompile(`(?:/etc/forebay/cluster|certs)/([a-z0-9-]+\.[a-z]+)`).FindAllStringSubmatch(string(page), -1)
	for _, m := range named {
		if _, err := os.Stat(filepath.Join(dir, "certs", m[1])); err != nil {
			t.Errorf("the manual names %s, which is not made", m[0])
		}
	}
	if len(named) < 6 {
		t.Errorf("%d files found in the manual: the test no longer finds them", len(named))
	}
}
