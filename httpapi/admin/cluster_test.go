package admin

import (
	"errors"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

func TestClusterRoutes(t *testing.T) {
	w := newWorld(t)
	_, c := socket(t, w)
	ctx := t.Context()
	for name, ask := range map[string]func() error{
		"add": func() error {
			_, err := c.AddMember(ctx, AddMember{Node: 4, Address: "a:1", NonVoter: true})
			return err
		},
		"remove":    func() error { _, err := c.RemoveMember(ctx, "4"); return err },
		"transfer":  func() error { _, err := c.Transfer(ctx, 2); return err },
		"no number": func() error { _, err := c.RemoveMember(ctx, "four"); return err },
	} {
		w.cluster = members{}
		err := ask()
		want := map[string][]string{"add": {"add 4 a:1 true"}, "remove": {"remove 4"}, "transfer": {"transfer 2"}}[name]
		if diff := gocmp.Diff(want, w.cluster.asked); diff != "" || (err == nil) != (want != nil) {
			t.Errorf("%s: %v; asked (-want +got):\n%s", name, err, diff)
		}
		w.cluster = members{err: Refuse(CodeInvalid, "so it is")}
		if p, ok := errors.AsType[*Problem](ask()); !ok || want != nil && p.Detail != "so it is" {
			t.Errorf("%s, refused: got %v", name, p)
		}
	}
}
