package appliancetest

import (
	"strings"
	"testing"
	"time"
)

// TestTakingsFindOneTooMany: the checker of limits over HTTP is exact where the
// answers are, and accuses nobody where they leave room.
func TestTakingsFindOneTooMany(t *testing.T) {
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	for name, test := range map[string]struct {
		taken [][2]int // asked, answered
		want  string   // in the error; empty: none
	}{
		"the plan":                     {[][2]int{{0, 1}, {2, 3}, {990, 995}, {1003, 1004}}, ""},
		"one too many in a window":     {[][2]int{{0, 1}, {300, 301}, {600, 601}, {900, 901}}, "4 accepted within"},
		"over the edge of a fixed one": {[][2]int{{700, 701}, {950, 951}, {1250, 1251}, {1600, 1601}}, "4 accepted within"},
		"perhaps before the window":    {[][2]int{{0, 999}, {1100, 1101}, {1400, 1401}, {1700, 1701}}, ""},
		"too many at once":             {[][2]int{{0, 5}, {0, 6}, {1, 7}}, "the burst is 2"},
	} {
		t.Run(name, func(t *testing.T) {
			k := NewTakings()
			for _, one := range test.taken {
				k.taken = append(k.taken, Taking{1, at(one[0]), at(one[1])})
			}
			err := k.Check(time.Second, 3, 2)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
