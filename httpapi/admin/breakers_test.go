package admin

import (
	"context"
	"errors"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
)

// breakers is a stand-in that knows one of them.
type breakers struct{}

func (breakers) Breakers() []BreakerStatus {
	return []BreakerStatus{{Name: "whatsapp", State: "half-open", Probing: 2}}
}

func (breakers) ForceBreaker(_ context.Context, name, position, who string) (BreakerStatus, error) {
	if name == "nothing" {
		return BreakerStatus{}, ErrNotFound
	}
	return BreakerStatus{Name: name, State: position, Forced: position, ForcedBy: who}, nil
}

func TestBreakers(t *testing.T) {
	w := newWorld(t)
	_, c := socket(t, w)
	list, err := c.Breakers(t.Context())
	if diff := cmp.Diff(breakers{}.Breakers(), list); diff != "" || err != nil {
		t.Errorf("list: %v (-want +got):\n%s", err, diff)
	}
	for action, want := range map[string]string{"open": "open", "close": "closed", "auto": "auto"} {
		b, err := c.ForceBreaker(t.Context(), "webhook:[::1]:443", action)
		if err != nil || b.Name != "webhook:[::1]:443" || b.Forced != want || b.ForcedBy == "" {
			t.Errorf("%s: got %+v, %v, want it %s by the caller", action, b, err, want)
		}
	}
	for _, call := range [][2]string{{"nothing", "open"}, {"whatsapp", "kick"}} {
		_, err := c.ForceBreaker(t.Context(), call[0], call[1])
		if p, ok := errors.AsType[*Problem](err); !ok || p.Code != CodeNotFound {
			t.Errorf("%v: got %v, want %s", call, err, CodeNotFound)
		}
	}
}

func TestBreakersInReadiness(t *testing.T) {
	text, err := json.Marshal(Check{Breakers: map[string]BreakerCheck{"whatsapp": {State: "closed"}}}, json.Deterministic(true))
	if want := `{"whatsapp":{"state":"closed"}}`; err != nil || string(text) != want {
		t.Errorf("got %s, %v, want %s", text, err, want)
	}
	var back Check
	if err := json.Unmarshal(text, &back); err != nil || back.Breakers["whatsapp"].State != "closed" {
		t.Errorf("read back: got %+v, %v", back, err)
	}
}
