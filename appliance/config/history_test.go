package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestHistory(t *testing.T) {
	dir := t.TempDir()
	h, unreadable, err := OpenHistory(dir)
	if err != nil || len(unreadable) != 0 || h.Next() != 1 {
		t.Fatalf("a new history: %v, %v, next %d", err, unreadable, h.Next())
	}
	for n := range historyLimit + 5 {
		v := Version{Version: h.Next(), At: time.Unix(int64(n), 0).UTC(), Who: "w", Source: SourceFile, Outcome: OutcomeProbation, Changed: []Change{{"node", "restart", "1", "2"}}, Text: "node: 1\n"}
		do(t, h.Put(v))
	}
	v, err := h.Get(100)
	if err != nil {
		t.Fatal(err)
	}
	v.Outcome, v.Reason = OutcomeRolledBack, "it was worse"
	do(t, h.Put(v))

	// What a crash and a disk may leave.
	put(t, filepath.Join(dir, ".new-123"), "half")
	put(t, filepath.Join(dir, "00000150.json"), `{"version":150,`)
	put(t, filepath.Join(dir, "00000999.json"), `{"version":4}`)
	again, unreadable, err := OpenHistory(dir)
	if err != nil || len(unreadable) != 2 {
		t.Fatalf("opened again: %v, %v", err, unreadable)
	}
	if again.Next() != 1000 {
		t.Errorf("next is %d: a number that was used may be used again", again.Next())
	}
	if _, err := os.Stat(filepath.Join(dir, ".new-123")); err == nil {
		t.Error("what a crash left is still there")
	}
	got, err := again.Get(100)
	if diff := cmp.Diff(v, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	list := again.List()
	if len(list) != historyLimit-1 || list[0].Version != historyLimit+5 || !slices.IsSortedFunc(list, func(a, b Version) int { return int(b.Version) - int(a.Version) }) {
		t.Errorf("%d versions, the first is %d", len(list), list[0].Version)
	}
	if _, err := again.Get(1); !errors.Is(err, ErrNoVersion) {
		t.Errorf("a version that made room: %v", err)
	}
}

// What a version keeps is the whole configuration, but for its secrets.
func TestTextAndParse(t *testing.T) {
	dir := tree(t, map[string]string{"token": "hunter2"})
	c, sources, err := loadText(t, "node: 3\ndatabase: {url: 'postgres://u:hunter2@h/d'}\nhttp: {admin_token_file: "+filepath.Join(dir, "token")+"}\n"+
		"rate_limiting: {tiers: {gold: {requests_per_minute: 1, burst: 2, concurrent: 3}}}")
	if err != nil {
		t.Fatal(err)
	}
	do(t, c.ReadSecrets(sources))
	text := c.Text()
	if strings.Contains(text, "hunter2") {
		t.Errorf("a secret in:\n%s", text)
	}
	again, sources, err := Parse(text, "version 1", c)
	if err != nil {
		t.Fatal(err)
	}
	do(t, again.ReadSecrets(sources))
	if diff := cmp.Diff(c, again); diff != "" {
		t.Error(diff)
	}
}

func TestDiffAndMerge(t *testing.T) {
	from := Default()
	to := from
	to.Node, to.Buffer.BatchSize, to.HTTP.AdminTokenFile, to.HTTP.AdminToken = 2, 5, "/t", "hunter2"
	to.RateLimiting.Tiers = map[string]Tier{"basic": {100, 21, 10, "enforce"}, "gold": {1, 1, 1, "shadow"}}
	var keys []string
	for _, c := range Diff(from, to) {
		keys = append(keys, c.Key)
		if strings.Contains(c.Old+c.New, "hunter2") {
			t.Errorf("a secret: %+v", c)
		}
	}
	for _, want := range []string{"node", "buffer.batch_size", "http.admin_token_file", "rate_limiting.tiers.basic.burst",
		"rate_limiting.tiers.premium.burst", "rate_limiting.tiers.gold.mode"} {
		if !slices.Contains(keys, want) {
			t.Errorf("%s is not among %q", want, keys)
		}
	}
	if d := Diff(to, to); len(d) != 0 {
		t.Errorf("against itself: %+v", d)
	}
	merged := Merge(from, to, func(key string) bool { return key != "node" && !strings.HasPrefix(key, "rate_limiting.tiers") })
	if merged.Node != from.Node || merged.Buffer.BatchSize != 5 || merged.HTTP.AdminToken != "hunter2" || len(merged.RateLimiting.Tiers) != 3 {
		t.Errorf("merged: %+v", merged)
	}
	if diff := cmp.Diff(to, Merge(from, to, func(string) bool { return true })); diff != "" {
		t.Error(diff)
	}
	// A file whose content alone has changed.
	rotated := to
	rotated.HTTP.AdminToken = "hunter3"
	if d := Diff(to, rotated); len(d) != 1 || d[0].Key != "http.admin_token_file" || !strings.Contains(d[0].New, "(changed)") {
		t.Errorf("a rotated secret: %+v", d)
	}
}

// TestKeepSecrets: what files of the same name hold is kept, another file is not,
// and the admin token always is.
func TestKeepSecrets(t *testing.T) {
	base, now := defaults(), defaults()
	base.HTTP.AdminTokenFile, base.HTTP.AdminToken = "/old", "leaked"
	now.HTTP.AdminTokenFile, now.HTTP.AdminToken = "/new", "fresh"
	base.Channels.Email.PasswordFile, base.Channels.Email.Password = "/p", "old"
	now.Channels.Email.PasswordFile, now.Channels.Email.Password = "/p", "new"
	base.Channels.WhatsApp.AppSecretFile, base.Channels.WhatsApp.AppSecret = "/a", "old"
	now.Channels.WhatsApp.AppSecretFile, now.Channels.WhatsApp.AppSecret = "/b", "new"
	now.Buffer.BatchSize = 7
	got := KeepSecrets(base, now)
	if got.HTTP.AdminTokenFile != "/new" || got.HTTP.AdminToken.Reveal() != "fresh" {
		t.Errorf("admin token %q of %s", got.HTTP.AdminToken.Reveal(), got.HTTP.AdminTokenFile)
	}
	if got.Channels.Email.Password.Reveal() != "new" {
		t.Errorf("password %q", got.Channels.Email.Password.Reveal())
	}
	if w := got.Channels.WhatsApp; w.AppSecretFile != "/a" || w.AppSecret.Reveal() != "old" {
		t.Errorf("app secret %q of %s", w.AppSecret.Reveal(), w.AppSecretFile)
	}
	if got.Buffer.BatchSize != base.Buffer.BatchSize {
		t.Errorf("batch size %d", got.Buffer.BatchSize)
	}
}
