package config

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	Where   string `json:"where,omitempty"` // file:line, or the environment variable; empty: a default
	Key     string `json:"key,omitempty"`   // such as buffer.capacity; empty: the file as a whole
	Message string `json:"message"`         // what is wrong and what to do; holds no secret
}

// String is the problem in one line.
func (p Problem) String() string {
	var parts []string
	for _, part := range []string{p.Where, p.Key, p.Message} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ": ")
}

// Problems is the error of Load, Validate and ReadSecrets: everything that is
// wrong, not only the first.
type Problems []Problem

// Error lists the problems, a line each.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// err returns nil for an empty list, which as an error it would not be.
func (p Problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

func (p *Problems) add(where, key, format string, args ...any) {
	*p = append(*p, Problem{Where: where, Key: key, Message: fmt.Sprintf(format, args...)})
}

// locate fills in where the keys come from. A problem keeps its place if it has one.
func (p Problems) locate(s Sources) Problems {
	for i := range p {
		if p[i].Where == "" {
			p[i].Where = s.where[p[i].Key]
		}
	}
	return p
}

// nearest returns the candidate with the smallest edit distance to word, or ""
// if none is near enough to be a slip of the keyboard.
func nearest(word string, candidates []string) string {
	best, limit := "", max(2, len(word)/3)+1
	for _, c := range slices.Sorted(slices.Values(candidates)) {
		if d := distance(word, c); d < limit {
			best, limit = c, d
		}
	}
	return best
}

// distance is the number of letters to insert, remove, change or swap with
// their neighbour (optimal string alignment).
func distance(a, b string) int {
	if len(a) > 100 || len(b) > 100 {
		return 100 // a key that long is no slip; keep the work bounded
	}
	older, old, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range old {
		old[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(old[j]+1, row[j-1]+1, old[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], older[j-2]+1)
			}
		}
		older, old, row = old, row, older
	}
	return old[len(b)]
}
