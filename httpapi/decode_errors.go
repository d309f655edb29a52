package httpapi

import (
	"errors"
	"net/url"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// syntax turns an error of jsontext into a problem; nil stays nil.
func (d *decoder) syntax(err error) *Problem {
	if err == nil {
		return nil
	}
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return malformed("Not valid JSON in UTF-8 (RFC 8259) at byte " +
			strconv.FormatInt(syntactic.ByteOffset, 10) + ".")
	}
	if strings.TrimSpace(d.text) == "" {
		return malformed("The body is empty.")
	}
	return malformed("The JSON ends too early.")
}

// unknownField names what was probably meant.
func unknownField(at, name string, known []string) *Problem {
	const maxName = 64
	if len(name) > maxName {
		name = strings.ToValidUTF8(name[:maxName], "")
	}
	best, bestDistance := "", 4
	for _, k := range known {
		if d := editDistance(name, k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	detail := "is not a known field"
	if best != "" {
		detail += "; did you mean " + best + "?"
	}
	return malformedAt(at+"/"+escapePointer(name), detail)
}

// editDistance is the Levenshtein distance of two short strings.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

// escapePointer escapes one part of a JSON Pointer in a URI fragment, RFC 6901
// §3 and §6.
func escapePointer(name string) string {
	u := url.URL{Fragment: pointerEscapes.Replace(name)}
	return u.EscapedFragment()
}
