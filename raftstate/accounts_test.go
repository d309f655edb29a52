package raftstate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"forebay/raftstate/account"
)

func TestAccountsAndKeys(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	ctx := t.Context()
	text := w.populate(t, 2)[1]

	p, err := w.Authenticate(text)
	if err != nil {
		t.Fatalf("authenticate: %v", err)
	}
	if p.Account != "acct-1" || p.Plan.Name != "basic" || !p.Test || p.Suspended || p.CallbackURL != "" {
		t.Errorf("got principal %+v", p)
	}

	tier, url, suspended := "premium", "https://example.org/hook", true
	view, err := w.UpdateAccount(ctx, account.UpdateAccount{ID: "acct-1", Tier: &tier, CallbackURL: &url, Suspended: &suspended})
	if err != nil || view.Keys != 1 || view.Tier != tier {
		t.Errorf("update: got %+v, %v", view, err)
	}
	if p, err = w.Authenticate(text); err != nil || p.Plan.Name != tier || !p.Suspended || p.CallbackURL != url {
		t.Errorf("after the update: got %+v, %v", p, err)
	}

	changed := plans("basic", "premium")
	changed[1].Burst = 77
	if _, err := w.SetPlans(ctx, changed); err != nil {
		t.Errorf("set plans: %v", err)
	}
	if p, _ = w.Authenticate(text); p.Plan.Burst != 77 {
		t.Errorf("after new plans: got burst %d, want 77", p.Plan.Burst)
	}

	if _, err := w.RevokeKey(ctx, "acct-0", p.Key); code(err) != account.CodeNotFound {
		t.Errorf("revoke by another account: got %v", err)
	}
	key, err := w.RevokeKey(ctx, "", p.Key)
	if err != nil || key.InForce() {
		t.Errorf("revoke: got %+v, %v", key, err)
	}
	if _, err := w.Authenticate(text); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("authenticate with a revoked key: got %v, want ErrUnknownKey", err)
	}
	if keys, err := w.Keys("acct-1"); err != nil || len(keys) != 1 || keys[0].InForce() {
		t.Errorf("keys: got %+v, %v", keys, err)
	}
}

func TestDeletedAccountCannotAuthenticate(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	text := w.populate(t, 1)[0]
	if err := w.DeleteAccount(t.Context(), "acct-0"); err != nil {
		t.Fatalf("delete: %v", err)
	}
	if _, err := w.Authenticate(text); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("got %v, want ErrUnknownKey", err)
	}
	// Made again, it is another account: the old key stays dead.
	if _, err := w.CreateAccount(t.Context(), account.CreateAccount{ID: "acct-0", Tier: "basic"}); err != nil {
		t.Fatalf("create again: %v", err)
	}
	if _, err := w.Authenticate(text); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("got %v, want ErrUnknownKey", err)
	}
}

func TestRefusalsAreCodes(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	w.populate(t, 1)
	ctx := t.Context()
	gold := "gold"
	for name, test := range map[string]struct {
		do   func() error
		want account.Code
	}{
		"exists": {func() error {
			_, err := w.CreateAccount(ctx, account.CreateAccount{ID: "acct-0", Tier: "basic"})
			return err
		}, account.CodeExists},
		"unknown tier": {func() error { _, err := w.CreateAccount(ctx, account.CreateAccount{ID: "b", Tier: "gold"}); return err }, account.CodeUnknownTier},
		"invalid":      {func() error { _, err := w.CreateAccount(ctx, account.CreateAccount{ID: "B", Tier: "gold"}); return err }, account.CodeInvalid},
		"update none":  {func() error { _, err := w.UpdateAccount(ctx, account.UpdateAccount{ID: "none"}); return err }, account.CodeNotFound},
		"update tier": {func() error {
			_, err := w.UpdateAccount(ctx, account.UpdateAccount{ID: "acct-0", Tier: &gold})
			return err
		}, account.CodeUnknownTier},
		"delete none":  {func() error { return w.DeleteAccount(ctx, "none") }, account.CodeNotFound},
		"key of none":  {func() error { _, _, err := w.CreateKey(ctx, "none", "", false); return err }, account.CodeNotFound},
		"show none":    {func() error { _, err := w.Account("none"); return err }, account.CodeNotFound},
		"keys of none": {func() error { _, err := w.Keys("none"); return err }, account.CodeNotFound},
	} {
		if got := code(test.do()); got != test.want {
			t.Errorf("%s: got code %q, want %q", name, got, test.want)
		}
	}
}

func TestAuthenticateRefuses(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	texts := w.populate(t, 2)
	live, test := texts[0], texts[1]
	last := live[:len(live)-1] + map[bool]string{true: "b", false: "a"}[live[len(live)-1] == 'a']
	for name, text := range map[string]string{
		"empty":             "",
		"wrong secret":      last,
		"secret of another": live[:len("fb_live_")+13] + test[len("fb_live_")+13:],
		"live as test":      "fb_test_" + live[8:],
		"test as live":      "fb_live_" + test[8:],
		"unknown id":        "fb_live_aaaaaaaaaaaa_" + live[len("fb_live_")+13:],
		"long":              strings.Repeat(live, 1000),
	} {
		p, err := w.Authenticate(text)
		if !errors.Is(err, ErrUnknownKey) || p != (Principal{}) {
			t.Errorf("%s: got %+v, %v", name, p, err)
		}
	}
}

func TestSecretsAreNowhere(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir).wait(t)
	texts := w.populate(t, 3)
	dump := w.dump(t)
	if err := w.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, authErr := w.Authenticate(texts[0] + "x")
	w.stop()
	places := map[string]string{"dump": dump, "log": w.logs.String(), "error": authErr.Error()}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		places[path] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for place, content := range places {
		for _, text := range texts {
			if _, secret, _, _ := account.ParseKey(text); strings.Contains(content, secret) {
				t.Errorf("a secret is in %s", place)
			}
		}
	}
}

func TestConcurrentChangesAndReaders(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	text := w.populate(t, 1)[0]
	var all sync.WaitGroup
	for n := range 4 {
		all.Go(func() {
			for i := range 10 {
				id := fmt.Sprintf("n%d-%d", n, i)
				if _, err := w.CreateAccount(t.Context(), account.CreateAccount{ID: id, Tier: "basic"}); err != nil {
					t.Errorf("create: %v", err)
				}
				if _, _, err := w.CreateKey(t.Context(), id, "", false); err != nil {
					t.Errorf("create key: %v", err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	for reading := true; reading; {
		select {
		case <-done:
			reading = false
		default:
			if _, err := w.Authenticate(text); err != nil {
				t.Fatalf("authenticate: %v", err)
			}
			w.Accounts()
		}
	}
	if got := len(w.Accounts()); got != 41 {
		t.Errorf("got %d accounts, want 41", got)
	}
}

// BenchmarkAuthenticate has the bare hash beside it: what is above it is the
// look-up.
func BenchmarkAuthenticate(b *testing.B) {
	w := open(b, b.TempDir()).wait(b)
	texts := w.populate(b, 100)
	_, secret, _, _ := account.ParseKey(texts[0])
	b.Run("key=known", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := w.Authenticate(texts[i%len(texts)]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("key=unknown", func(b *testing.B) {
		b.ReportAllocs()
		unknown := "fb_live_aaaaaaaaaaaa_" + secret
		for b.Loop() {
			if _, err := w.Authenticate(unknown); err == nil {
				b.Fatal("known")
			}
		}
	})
	b.Run("key=hash_alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			account.HashSecret(secret)
		}
	})
}

func TestAuthenticateDoesNotAllocate(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	text := w.populate(t, 1)[0]
	for _, key := range []string{text, text[:20]} {
		if got := testing.AllocsPerRun(100, func() { w.Authenticate(key) }); got != 0 {
			t.Errorf("%d characters: got %v allocations, want 0", len(key), got)
		}
	}
}
