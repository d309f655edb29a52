package account

import (
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestValidate(t *testing.T) {
	text := func(s string) *string { return &s }
	plan := basic("basic")[0]
	edit := func(f func(*Plan)) SetPlans {
		p := plan
		f(&p)
		return SetPlans{Plans: []Plan{p}}
	}
	for name, test := range map[string]struct {
		cmd  Command
		want []string // fields
	}{
		"account":           {CreateAccount{ID: "a-1._x", Tier: "basic", Name: "Ä b", CallbackURL: "https://h/p?q=1"}, nil},
		"empty account":     {CreateAccount{}, []string{"id", "tier"}},
		"upper case":        {CreateAccount{ID: "Acme", Tier: "basic"}, []string{"id"}},
		"leading dot":       {CreateAccount{ID: ".a", Tier: "basic"}, []string{"id"}},
		"slash":             {CreateAccount{ID: "a/b", Tier: "basic"}, []string{"id"}},
		"longest id":        {CreateAccount{ID: strings.Repeat("a", MaxID), Tier: "basic"}, nil},
		"long id":           {CreateAccount{ID: strings.Repeat("a", MaxID+1), Tier: "basic"}, []string{"id"}},
		"all broken":        {CreateAccount{ID: "-", Tier: "?", Name: "a\nb", CallbackURL: "ftp://h"}, []string{"id", "tier", "name", "callback_url"}},
		"bad UTF-8":         {UpdateAccount{ID: "a", Name: text("\xff")}, []string{"name"}},
		"long name":         {UpdateAccount{ID: "a", Name: text(strings.Repeat("é", MaxName+1))}, []string{"name"}},
		"no callback":       {UpdateAccount{ID: "a", CallbackURL: text("")}, nil},
		"plain callback":    {UpdateAccount{ID: "a", CallbackURL: text("http://h/")}, nil}, // the proposer decides
		"callback password": {UpdateAccount{ID: "a", CallbackURL: text("https://u:p@h/")}, []string{"callback_url"}},
		"callback no host":  {UpdateAccount{ID: "a", CallbackURL: text("https:///x")}, []string{"callback_url"}},
		"callback fragment": {UpdateAccount{ID: "a", CallbackURL: text("https://h/#x")}, []string{"callback_url"}},
		"key id":            {CreateKey{ID: "KEY"}, []string{"id"}},
		"key label":         {CreateKey{ID: keyID(1), Label: "\x00"}, []string{"label"}},
		"plans":             {SetPlans{Plans: basic("basic", "gold")}, nil},
		"plan twice":        {SetPlans{Plans: basic("basic", "basic")}, []string{"plans/basic"}},
		"plan of nothing":   {edit(func(p *Plan) { p.Burst = 0 }), []string{"plans/basic/burst"}},
		"plan mode":         {edit(func(p *Plan) { p.Mode = "maybe" }), []string{"plans/basic/mode"}},
		"plan weight":       {edit(func(p *Plan) { p.Weight = MaxWeight + 1 }), []string{"plans/basic/weight"}},
		"plan channel":      {edit(func(p *Plan) { p.Channels = []string{"E-Mail"} }), []string{"plans/basic/channels"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			if err := test.cmd.Validate(); err != nil {
				if err.Code != CodeInvalid {
					t.Errorf("got code %s, want %s", err.Code, CodeInvalid)
				}
				for _, f := range err.Fields {
					got = append(got, f.Field)
				}
			}
			if diff := gocmp.Diff(test.want, got); diff != "" {
				t.Errorf("broken fields (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeRefusesWhatItDoesNotKnow(t *testing.T) {
	for name, test := range map[string]struct {
		kind Kind
		body string
	}{
		"kind":      {KindForgetEndpoint + 1, `{}`},
		"no kind":   {0, `{}`},
		"field":     {KindDeleteAccount, `{"id":"a","soft":true}`},
		"duplicate": {KindDeleteAccount, `{"id":"a","id":"b"}`},
		"trailing":  {KindDeleteAccount, `{"id":"a"}{}`},
	} {
		if _, err := Decode(test.kind, []byte(test.body)); err == nil {
			t.Errorf("%s: decoded", name)
		}
	}
}

func TestKeyText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		random := [RandomBytes]byte(rapid.SliceOfN(rapid.Byte(), RandomBytes, RandomBytes).Draw(t, "random"))
		test := rapid.Bool().Draw(t, "test")
		id, hash, text := MintKey(random, test)
		gotID, secret, gotTest, ok := ParseKey(text)
		if !ok || gotID != id || gotTest != test || HashSecret(secret) != hash || !validKeyID(id) {
			t.Fatalf("minted %q does not parse to what it was made of", text)
		}
		if strings.Count(text, "_") != 3 {
			t.Fatalf("%q does not come apart at its underscores", text)
		}
		n := rapid.IntRange(0, len(text)-1).Draw(t, "cut")
		if _, _, _, ok := ParseKey(text[:n]); ok {
			t.Fatalf("%q parses", text[:n])
		}
	})
}

func TestParseKeyRefuses(t *testing.T) {
	_, _, text := MintKey([RandomBytes]byte{}, false)
	for _, bad := range []string{"", text + "a", "fb_prod_" + text[8:], strings.ToUpper(text), strings.Repeat("_", len(text))} {
		if _, _, _, ok := ParseKey(bad); ok {
			t.Errorf("%q parses", bad)
		}
	}
}

func TestNormalKeepsNoMemory(t *testing.T) {
	channels := []string{"webhook", "email", "email"}
	p := Plan{Name: "basic", Channels: channels}.Normal()
	channels[0] = "changed"
	if !slices.Equal(p.Channels, []string{"email", "webhook"}) || p.Mode != ModeEnforce || p.Weight != 1 {
		t.Errorf("got %+v", p)
	}
	if p.Allows("store") || !p.Allows("email") || !(&Plan{}).Allows("store") {
		t.Error("Allows is not what the channels say")
	}
}
