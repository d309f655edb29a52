package appliance_test

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestPolicyCriteria: the manual's table has a row for each criterion, and the
// tests that it names exist.
func TestPolicyCriteria(t *testing.T) {
	t.Parallel()
	var declared bytes.Buffer
	sources(t, func(path string, text []byte) {
		if strings.HasSuffix(path, "_test.go") {
			declared.Write(text)
		}
	})
	table, err := os.ReadFile("../packaging/doc/criteria.md")
	must(t, "read the criteria", err)
	rows := regexp.MustCompile(`(?m)^\| (\d+\.\d) \|.*$`).FindAllStringSubmatch(string(table), -1)
	seen := map[string]bool{}
	for _, row := range rows {
		seen[row[1]] = true
		names := regexp.MustCompile("`((?:Test|Benchmark)[A-Za-z0-9_]+)`").FindAllStringSubmatch(row[0], -1)
		if len(names) == 0 {
			t.Errorf("criterion %s names no test", row[1])
		}
		for _, name := range names {
			if !bytes.Contains(declared.Bytes(), []byte("func "+name[1]+"(")) {
				t.Errorf("criterion %s names %s, which there is not", row[1], name[1])
			}
		}
	}
	if len(seen) != 50 {
		t.Errorf("%d criteria, want 50", len(seen))
	}
}
