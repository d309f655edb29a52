package config

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

const referencePath = "../../packaging/doc/configuration.md"

var update = flag.Bool("update", false, "write "+referencePath)

// The reference of the manual is what the schema and the sample say. After a
// change of either: go test ./appliance/config -run TestReference -update
func TestReference(t *testing.T) {
	sample, err := os.ReadFile(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	want := reference(string(sample))
	if *update {
		if err := os.WriteFile(referencePath, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(referencePath)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the schema and the sample say; run: go test ./appliance/config -run TestReference -update", referencePath)
	}
}

// reference is the configuration reference of the manual, as Markdown.
func reference(sample string) string {
	about := sampleComments(sample)
	var b strings.Builder
	b.WriteString(referenceHead)
	section := ""
	for _, l := range referenceLeaves() {
		name, _, nested := strings.Cut(l.Key, ".")
		if !nested {
			name = "top level"
		}
		if name != section {
			section = name
			fmt.Fprintf(&b, "\n## %s\n\n| key | default | changes | |\n|---|---|---|---|\n", section)
		}
		value := l.Text()
		if l.auto {
			value = "auto"
		}
		if value == "" {
			value = `""`
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", l.Key, value, l.Change, strings.ReplaceAll(about[l.Key], "|", `\|`))
	}
	return b.String()
}

const referenceHead = `# Configuration reference

Made from the schema and the sample by a test of appliance/config; do not edit it.

What it takes to change a key: *live*, it changes while the appliance runs, by a
changed file or ` + "`forebay config reload`" + `; *cluster*, the same, by agreement of all
nodes; *restart*, it waits for the next start, and the answer to a reload says so.

Each key can be set by a variable: FOREBAY_ and the key in capitals, with _ for
the dots, as FOREBAY_BUFFER_CAPACITY for ` + "`buffer.capacity`" + `. Durations: 100ms, 30s,
24h, 90d, or hh:mm:ss.fff. Sizes: bytes, or a whole number of KiB, MiB, GiB, TiB.
`

func referenceLeaves() []Leaf {
	c := defaults()
	return leaves(&c)
}

// sampleComments are the words behind each key of the sample.
func sampleComments(sample string) map[string]string {
	comments := map[string]string{}
	var path []string
	for line := range strings.Lines(sample) {
		text, comment, _ := strings.Cut(strings.TrimRight(line, "\n"), "#")
		key, _, found := strings.Cut(strings.TrimSpace(text), ":")
		if !found || key == "" {
			continue
		}
		depth := (len(text) - len(strings.TrimLeft(text, " "))) / 2
		path = append(path[:min(depth, len(path))], key)
		_, words, _ := strings.Cut(comment, "]")
		comments[strings.Join(path, ".")] = strings.TrimSpace(words)
	}
	return comments
}
