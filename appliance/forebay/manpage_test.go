package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"forebay/appliance/config"
)

// TestManualPages: every command has a page with all of its options, the
// configuration one with all keys, and nothing in them is taken for a request that
// is none of man(7)'s.
func TestManualPages(t *testing.T) {
	dir := t.TempDir()
	a := &app{version: "v9", environ: []string{"SOURCE_DATE_EPOCH=86400"}}
	root := a.root()
	if err := a.writeManual(root, dir, "../../packaging/doc/configuration.md"); err != nil {
		t.Fatal(err)
	}
	page := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		}
		if !strings.Contains(string(text), `"1970-01-02"`) || !strings.Contains(string(text), "forebay v9") {
			t.Errorf("%s has not the date and the version of the build", name)
		}
		requests := regexp.MustCompile(`(?m)^[.'].*$`).FindAllString(string(text), -1)
		for _, r := range requests {
			if !regexp.MustCompile(`^\.(TH|SH|TP|PP|B|BR|I|IR|nf|fi|nh|ad l)( |$)`).MatchString(r) {
				t.Errorf("%s: %q is no request", name, r)
			}
		}
		return strings.ReplaceAll(string(text), `\-`, "-")
	}
	pages := 0
	var look func(*cobra.Command)
	look = func(c *cobra.Command) {
		text := page(strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1")
		pages++
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && !strings.Contains(text, `\fB--`+f.Name+`\fR`) {
				t.Errorf("the page of %s does not have --%s", c.CommandPath(), f.Name)
			}
		})
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				look(sub)
			}
		}
	}
	look(root)
	if pages < 40 {
		t.Errorf("%d pages", pages)
	}
	text := page("forebay.yaml.5")
	for _, l := range config.Dev("data").Leaves() {
		if !strings.Contains(text, "\n.B "+l.Key+"\n") && !strings.HasPrefix(l.Key, "rate_limiting.tiers.development.") {
			t.Errorf("the page of the configuration does not have %s", l.Key)
		}
	}
	if strings.Contains(text, "do not edit") || strings.Contains(text, "|") {
		t.Error("the page of the configuration has what is not for its readers")
	}
}

func TestRoff(t *testing.T) {
	for text, want := range map[string]string{
		"plain":           "plain",
		"--flag":          `\-\-flag`,
		".hidden":         `\&.hidden`,
		"a\n'quoted'":     "a\n\\&'quoted'",
		`back\slash`:      `back\eslash`,
		"run `serve` now": `run \fBserve\fR now`,
		"*live*, as 2*3":  `\fIlive\fR, as 2*3`,
	} {
		if got := roff(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
