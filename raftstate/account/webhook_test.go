package account

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

func TestWebhookSecretIsRotated(t *testing.T) {
	s := NewState()
	s.Apply(SetPlans{Plans: basic("basic")})
	s.Apply(CreateAccount{ID: "a", Tier: "basic"})
	one, two := MintWebhookSecret([WebhookSecretBytes]byte{1}), MintWebhookSecret([WebhookSecretBytes]byte{2})
	s.Apply(RotateWebhookSecret{Account: "a", Secret: one, First: true, At: at(0)})
	s.Apply(RotateWebhookSecret{Account: "a", Secret: two, First: true, At: at(1)}) // two nodes at once: the first counts
	secret, ok := s.WebhookSecret("a")
	if !ok || !slices.Equal(secret.InForce(at(2)), []string{one}) {
		t.Fatalf("got %+v", secret)
	}
	s.Apply(RotateWebhookSecret{Account: "a", Secret: two, At: at(5)})
	secret, _ = s.WebhookSecret("a")
	for after, want := range map[time.Duration][]string{0: {two, one}, RotationGrace - time.Millisecond: {two, one}, RotationGrace: {two}} {
		if got := secret.InForce(at(5).Add(after)); !slices.Equal(got, want) {
			t.Errorf("%s after the rotation: got %q, want %q", after, got, want)
		}
	}
}

func TestSnapshotOfVersion1(t *testing.T) {
	s := NewState()
	s.Apply(SetPlans{Plans: basic("basic")})
	s.Apply(CreateAccount{ID: "a", Tier: "basic", At: at(1)})
	old := strings.Replace(string(encode(t, s)), `"version":2`, `"version":1`, 1)
	got, err := DecodeState(jsontext.NewDecoder(strings.NewReader(old)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(encode(t, got), encode(t, s)) {
		t.Error("an old snapshot is another state")
	}
}

func TestEndpointsStaySwitchedOff(t *testing.T) {
	s := NewState()
	s.Apply(SetPlans{Plans: basic("basic")})
	s.Apply(CreateAccount{ID: "a", Tier: "basic"})
	s.Apply(KeepEndpoint{Endpoint{Account: "a", ID: "e", Host: "h", Since: at(1), Disabled: at(9), Reason: "gone"}})
	s.Apply(KeepEndpoint{Endpoint{Account: "a", ID: "e", Host: "h", Since: at(5), Warned: 50}}) // a node that does not know yet
	if e := s.Endpoints("a")[0]; e.Reason != "gone" || e.Disabled != at(9) || e.Warned != 50 || e.Since != at(1) {
		t.Errorf("got %+v", e)
	}
	for n := range MaxEndpoints {
		s.Apply(KeepEndpoint{Endpoint{Account: "a", ID: keyID(n), Host: "h"}})
	}
	if n := len(s.Endpoints("")); n != MaxEndpoints {
		t.Errorf("%d endpoints are remembered", n)
	}
}
