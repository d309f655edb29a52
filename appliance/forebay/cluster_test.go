package main

import (
	"strings"
	"testing"
)

// What the commands for the group ask, and what they print.
func TestClusterCommands(t *testing.T) {
	f := newFakeAdmin(t, map[string]string{"GET /cluster": clusterJSON, "POST /cluster/members": clusterJSON,
		"DELETE /cluster/members/4": clusterJSON, "POST /cluster/transfer": clusterJSON})
	for _, tc := range []struct{ args, asked string }{
		{"cluster status", "GET /cluster"},
		{"cluster add 4 10.0.0.4:7000", `POST /cluster/members {"node":4,"address":"10.0.0.4:7000"}`},
		{"cluster add 4 10.0.0.4:7000 --nonvoter", `POST /cluster/members {"node":4,"address":"10.0.0.4:7000","nonvoter":true}`},
		{"cluster remove 4", "DELETE /cluster/members/4"},
		{"cluster transfer --to 1", `POST /cluster/transfer {"node":1}`},
		{"cluster transfer", "POST /cluster/transfer {}"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			args := strings.Fields(tc.args)
			o := run(t, f.dir, nil, args...)
			if o.code != 0 || o.stderr != "" {
				t.Fatalf("got %+v", o)
			}
			if got := f.last(t); got != tc.asked {
				t.Errorf("asked %q, want %q", got, tc.asked)
			}
			var lines []string
			for line := range strings.Lines(o.stdout) {
				lines = append(lines, strings.Join(strings.Fields(line), " "))
			}
			want := []string{"leader 2", "term 7", "", "NODE ADDRESS ROLE REACHABLE LAG",
				"1 10.0.0.1:7000 voter NO 12", "2 10.0.0.2:7000 leader yes 0", "4 10.0.0.4:7000 nonvoter - -"}
			if got := strings.Join(lines, "\n"); got != strings.Join(want, "\n") {
				t.Errorf("printed:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
			}
			isJSON(t, run(t, f.dir, nil, append(args, "--output", "json")...))
		})
	}
	for _, args := range []string{"cluster remove x", "cluster remove 0", "cluster add 65536 10.0.0.4:7000", "cluster add 4", "cluster transfer --to x", "cluster status 1"} {
		if o := run(t, f.dir, nil, strings.Fields(args)...); o.code != 2 || strings.Count(o.stderr, "\n") != 1 {
			t.Errorf("%s: got %+v, want 2 and one line", args, o)
		}
	}
}
