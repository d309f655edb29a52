package account

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func basic(names ...string) []Plan {
	var plans []Plan
	for _, n := range names {
		plans = append(plans, Plan{Name: n, RequestsPerMinute: 100, Burst: 20, Concurrent: 10}.Normal())
	}
	return plans
}

func at(n int) time.Time { return time.UnixMilli(1_700_000_000_000 + int64(n)).UTC() }

func keyID(n int) string { return fmt.Sprintf("key%c%c%s", 'a'+n/26, 'a'+n%26, "aaaaaaa") }

func encode(t interface{ Fatalf(string, ...any) }, s *State) []byte {
	var b bytes.Buffer
	if err := s.Snapshot().Encode(jsontext.NewEncoder(&b)); err != nil {
		t.Fatalf("encode: %v", err)
	}
	return b.Bytes()
}

// model says the same as State with nothing but lists.
type model struct {
	plans     []Plan
	accounts  []Account
	keys      []Key
	secrets   map[string]WebhookSecret
	endpoints map[[2]string]Endpoint
}

func (m *model) hasPlan(name string) bool {
	return slices.ContainsFunc(m.plans, func(p Plan) bool { return p.Name == name })
}

func (m *model) account(id string) int {
	return slices.IndexFunc(m.accounts, func(a Account) bool { return a.ID == id })
}

func (m *model) apply(cmd Command) Code {
	switch c := cmd.(type) {
	case SetPlans:
		next := slices.Clone(c.Plans)
		for _, p := range m.plans {
			inUse := slices.ContainsFunc(m.accounts, func(a Account) bool { return a.Tier == p.Name })
			listed := slices.ContainsFunc(next, func(q Plan) bool { return q.Name == p.Name })
			if inUse && !listed {
				next = append(next, p)
			}
		}
		m.plans = next
	case CreateAccount:
		if m.account(c.ID) >= 0 {
			return CodeExists
		}
		if !m.hasPlan(c.Tier) {
			return CodeUnknownTier
		}
		m.accounts = append(m.accounts, Account{ID: c.ID, Tier: c.Tier, Name: c.Name, CallbackURL: c.CallbackURL, CreatedAt: c.At})
	case UpdateAccount:
		i := m.account(c.ID)
		if i < 0 {
			return CodeNotFound
		}
		if c.Tier != nil && !m.hasPlan(*c.Tier) {
			return CodeUnknownTier
		}
		a := &m.accounts[i]
		set(&a.Tier, c.Tier)
		set(&a.Name, c.Name)
		set(&a.CallbackURL, c.CallbackURL)
		set(&a.Suspended, c.Suspended)
	case DeleteAccount:
		i := m.account(c.ID)
		if i < 0 {
			return CodeNotFound
		}
		m.accounts = slices.Delete(m.accounts, i, i+1)
		m.keys = slices.DeleteFunc(m.keys, func(k Key) bool { return k.Account == c.ID })
		delete(m.secrets, c.ID)
		maps.DeleteFunc(m.endpoints, func(k [2]string, _ Endpoint) bool { return k[0] == c.ID })
	case CreateKey:
		if m.account(c.Account) < 0 {
			return CodeNotFound
		}
		if slices.ContainsFunc(m.keys, func(k Key) bool { return k.ID == c.ID }) {
			return CodeExists
		}
		m.keys = append(m.keys, Key{ID: c.ID, Account: c.Account, Hash: c.Hash, Label: c.Label, Test: c.Test, CreatedAt: c.At})
	case RevokeKey:
		i := slices.IndexFunc(m.keys, func(k Key) bool { return k.ID == c.ID })
		if i < 0 || c.Account != "" && m.keys[i].Account != c.Account {
			return CodeNotFound
		}
		if m.keys[i].RevokedAt.IsZero() {
			m.keys[i].RevokedAt = c.At
		}
	case RotateWebhookSecret:
		if m.account(c.Account) < 0 {
			return CodeNotFound
		}
		if w, ok := m.secrets[c.Account]; !ok {
			m.secrets[c.Account] = WebhookSecret{Account: c.Account, Current: c.Secret, RotatedAt: c.At}
		} else if !c.First && w.Current != c.Secret {
			m.secrets[c.Account] = WebhookSecret{c.Account, c.Secret, w.Current, c.At, c.At.Add(24 * time.Hour)}
		}
	case KeepEndpoint:
		e := c.Endpoint
		if m.account(e.Account) < 0 {
			return CodeNotFound
		}
		key := [2]string{e.Account, e.ID}
		if have, ok := m.endpoints[key]; ok {
			e.Warned = max(e.Warned, have.Warned)
			if have.Since.Before(e.Since) {
				e.Since = have.Since
			}
		}
		m.endpoints[key] = e
	case ForgetEndpoint:
		if _, ok := m.endpoints[[2]string{c.Account, c.ID}]; !ok {
			return CodeNotFound
		}
		delete(m.endpoints, [2]string{c.Account, c.ID})
	}
	return ""
}

func set[T any](field *T, value *T) {
	if value != nil {
		*field = *value
	}
}

func optional[T any](g *rapid.Generator[T]) *rapid.Generator[*T] {
	return rapid.Custom(func(t *rapid.T) *T {
		if !rapid.Bool().Draw(t, "set") {
			return nil
		}
		v := g.Draw(t, "value")
		return &v
	})
}

// commands draws from few names, so that commands meet.
func commands() *rapid.Generator[Command] {
	tiers := rapid.SampledFrom([]string{"basic", "premium", "gold"})
	ids := rapid.SampledFrom([]string{"a", "b.c", "d-1", "zz_9"})
	names := rapid.SampledFrom([]string{"", "Ångström & Söhne", "x"})
	urls := rapid.SampledFrom([]string{"", "https://example.org/hook"})
	keys := rapid.Custom(func(t *rapid.T) string { return keyID(rapid.IntRange(0, 30).Draw(t, "key")) })
	moment := rapid.Custom(func(t *rapid.T) time.Time { return at(rapid.IntRange(0, 1000).Draw(t, "at")) })
	return rapid.OneOf(
		rapid.Custom(func(t *rapid.T) Command {
			return SetPlans{Plans: basic(rapid.SliceOfNDistinct(tiers, 0, 3, rapid.ID[string]).Draw(t, "plans")...)}
		}),
		rapid.Custom(func(t *rapid.T) Command {
			return CreateAccount{ids.Draw(t, "id"), tiers.Draw(t, "tier"), names.Draw(t, "name"), urls.Draw(t, "url"), moment.Draw(t, "at")}
		}),
		rapid.Custom(func(t *rapid.T) Command {
			return UpdateAccount{ids.Draw(t, "id"), optional(tiers).Draw(t, "tier"), optional(names).Draw(t, "name"),
				optional(urls).Draw(t, "url"), optional(rapid.Bool()).Draw(t, "suspended")}
		}),
		rapid.Custom(func(t *rapid.T) Command { return DeleteAccount{ids.Draw(t, "id")} }),
		rapid.Custom(func(t *rapid.T) Command {
			return CreateKey{keys.Draw(t, "key"), ids.Draw(t, "id"), Hash{1, 2}, names.Draw(t, "label"), rapid.Bool().Draw(t, "test"), moment.Draw(t, "at")}
		}),
		rapid.Custom(func(t *rapid.T) Command {
			return RevokeKey{keys.Draw(t, "key"), rapid.OneOf(ids, rapid.Just("")).Draw(t, "id"), moment.Draw(t, "at")}
		}),
		rapid.Custom(func(t *rapid.T) Command {
			random := [WebhookSecretBytes]byte{rapid.Byte().Draw(t, "secret")}
			return RotateWebhookSecret{ids.Draw(t, "id"), MintWebhookSecret(random), rapid.Bool().Draw(t, "first"), moment.Draw(t, "at")}
		}),
		rapid.Custom(func(t *rapid.T) Command {
			return KeepEndpoint{Endpoint{Account: ids.Draw(t, "id"), ID: rapid.SampledFrom([]string{"e1", "e2"}).Draw(t, "endpoint"), Host: "h:443",
				Since: moment.Draw(t, "since"), Warned: rapid.SampledFrom([]int{0, 50, 90}).Draw(t, "warned")}}
		}),
		rapid.Custom(func(t *rapid.T) Command {
			return ForgetEndpoint{ids.Draw(t, "id"), rapid.SampledFrom([]string{"e1", "e2"}).Draw(t, "endpoint")}
		}),
	)
}

func TestStateAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, m := NewState(), &model{secrets: map[string]WebhookSecret{}, endpoints: map[[2]string]Endpoint{}}
		for _, cmd := range rapid.SliceOfN(commands(), 1, 60).Draw(t, "commands") {
			if err := cmd.Validate(); err != nil {
				t.Fatalf("validate %#v: %v", cmd, err)
			}
			before := encode(t, s)
			result := s.Apply(cmd)
			want := m.apply(cmd)
			var got Code
			if result.Err != nil {
				got = result.Err.Code
				if !bytes.Equal(encode(t, s), before) {
					t.Fatalf("%#v was refused and changed the state", cmd)
				}
			}
			if got != want {
				t.Fatalf("%#v: got code %q, want %q", cmd, got, want)
			}
			agree(t, s, m)
		}
	})
}

func agree(t *rapid.T, s *State, m *model) {
	slices.SortFunc(m.plans, func(a, b Plan) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(m.accounts, func(a, b Account) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(m.keys, func(a, b Key) int { return cmp.Compare(a.ID, b.ID) })
	var keys []Key
	for _, a := range s.Accounts() {
		keys = append(keys, s.Keys(a.ID)...)
	}
	slices.SortFunc(keys, func(a, b Key) int { return cmp.Compare(a.ID, b.ID) })
	got := model{s.Plans(), s.Accounts(), keys, map[string]WebhookSecret{}, map[[2]string]Endpoint{}}
	for _, a := range s.Accounts() {
		if w, ok := s.WebhookSecret(a.ID); ok {
			got.secrets[a.ID] = w
		}
	}
	for _, e := range s.Endpoints("") {
		got.endpoints[[2]string{e.Account, e.ID}] = e
	}
	if diff := gocmp.Diff(trim(*m), trim(got), gocmp.AllowUnexported(model{})); diff != "" {
		t.Fatalf("state is not the model's (-model +state):\n%s", diff)
	}
}

// trim makes empty lists nil.
func trim(m model) model {
	return model{append([]Plan(nil), m.plans...), append([]Account(nil), m.accounts...), append([]Key(nil), m.keys...), m.secrets, m.endpoints}
}

func TestSnapshotIsTheState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(commands(), 0, 80).Draw(t, "commands")
		cut := rapid.IntRange(0, len(all)).Draw(t, "cut")
		once, resumed := NewState(), NewState()
		for i, cmd := range all {
			body, err := Encode(cmd)
			if err != nil {
				t.Fatalf("encode: %v", err)
			}
			decoded, err := Decode(cmd.Kind(), body)
			if err != nil {
				t.Fatalf("decode %s: %v", body, err)
			}
			if i == cut {
				if resumed, err = DecodeState(jsontext.NewDecoder(bytes.NewReader(encode(t, resumed)))); err != nil {
					t.Fatalf("decode snapshot: %v", err)
				}
			}
			a, b := once.Apply(cmd), resumed.Apply(decoded)
			if diff := gocmp.Diff(a, b); diff != "" {
				t.Fatalf("%#v after a snapshot came to another result:\n%s", cmd, diff)
			}
		}
		if got, want := encode(t, resumed), encode(t, once); !bytes.Equal(got, want) {
			t.Fatalf("snapshots differ:\n%s\n%s", got, want)
		}
	})
}

func TestSnapshotRefusesWhatItDoesNotKnow(t *testing.T) {
	s := NewState()
	s.Apply(SetPlans{Plans: basic("basic")})
	s.Apply(CreateAccount{ID: "a", Tier: "basic", At: at(1)})
	s.Apply(CreateKey{ID: keyID(1), Account: "a", At: at(2)})
	good := string(encode(t, s))
	for name, change := range map[string][2]string{
		"newer version":  {`"version":2`, `"version":3`},
		"unknown field":  {`"tier":"basic"`, `"tier":"basic","colour":"red"`},
		"orphaned key":   {`"account":"a"`, `"account":"b"`},
		"tier not there": {`"tier":"basic"`, `"tier":"gold"`},
		"too few":        {`"keys":1`, `"keys":2`},
	} {
		bad := bytes.Replace([]byte(good), []byte(change[0]), []byte(change[1]), 1)
		if string(bad) == good {
			t.Errorf("%s: test changes nothing", name)
		}
		if _, err := DecodeState(jsontext.NewDecoder(bytes.NewReader(bad))); err == nil {
			t.Errorf("%s: decoded", name)
		}
	}
}

func TestRevokedKeysAreForgottenOldestFirst(t *testing.T) {
	s := NewState()
	s.Apply(SetPlans{Plans: basic("basic")})
	s.Apply(CreateAccount{ID: "a", Tier: "basic", At: at(0)})
	for n := range MaxKeys + 2 {
		s.Apply(CreateKey{ID: keyID(n), Account: "a", At: at(n)})
		s.Apply(RevokeKey{ID: keyID(n), At: at(n)})
	}
	if got := len(s.Keys("a")); got != MaxKeys {
		t.Errorf("got %d remembered keys, want %d", got, MaxKeys)
	}
	for n, want := range map[int]bool{0: false, 1: false, 2: true, MaxKeys + 1: true} {
		if _, got := s.Key(keyID(n)); got != want {
			t.Errorf("key %d remembered: got %v, want %v", n, got, want)
		}
	}
}

func TestTooManyKeys(t *testing.T) {
	s := NewState()
	s.Apply(SetPlans{Plans: basic("basic")})
	s.Apply(CreateAccount{ID: "a", Tier: "basic", At: at(0)})
	for n := range MaxKeys {
		if r := s.Apply(CreateKey{ID: keyID(n), Account: "a"}); r.Err != nil {
			t.Fatalf("key %d: %v", n, r.Err)
		}
	}
	if r := s.Apply(CreateKey{ID: keyID(MaxKeys), Account: "a"}); r.Err == nil || r.Err.Code != CodeTooMany {
		t.Errorf("one key too many: got %v, want %s", r.Err, CodeTooMany)
	}
}

func TestSetPlansKeepsWhatIsInUse(t *testing.T) {
	s := NewState()
	s.Apply(SetPlans{Plans: basic("basic", "gold")})
	s.Apply(CreateAccount{ID: "a", Tier: "gold"})
	r := s.Apply(SetPlans{Plans: basic("basic")})
	if diff := gocmp.Diff([]string{"gold"}, r.Retained); diff != "" {
		t.Errorf("retained (-want +got):\n%s", diff)
	}
	if !s.HasPlans(basic("basic")) {
		t.Error("HasPlans is false though only a plan in use is beside them")
	}
	s.Apply(DeleteAccount{ID: "a"})
	if s.HasPlans(basic("basic")) {
		t.Error("HasPlans is true though a plan that nobody is on would go")
	}
}
