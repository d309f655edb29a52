package httpapi

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"forebay/wal/message"
)

// TestAttemptsAreNumbered: a throttled attempt is kept with the number of the one
// before it, and shown with its own.
func TestAttemptsAreNumbered(t *testing.T) {
	for name, test := range map[string]struct{ kept, want []int }{
		"none":            {nil, nil},
		"throttled first": {[]int{0, 0, 1}, []int{1, 2, 3}},
		"throttled later": {[]int{1, 1, 2, 2}, []int{1, 2, 3, 4}},
		"the last ones":   {[]int{7, 7, 8}, []int{7, 8, 9}},
	} {
		var list []message.Attempt
		for _, n := range test.kept {
			list = append(list, message.Attempt{N: n})
		}
		var got []int
		for _, v := range attemptsOf(list) {
			got = append(got, v.N)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: want (-), got (+):\n%s", name, diff)
		}
	}
}
