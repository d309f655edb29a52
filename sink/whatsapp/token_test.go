package whatsapp

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTokenIsReadAgain: a refused token is looked up anew at once, and a second
// refusal of the same stops the channel.
func TestTokenIsReadAgain(t *testing.T) {
	w := newWorld(t)
	w.meta.SetToken("EAAG-renewed")
	_, err := w.Send(t.Context(), text(someone, "x"))
	if got, f := outcomeOf(t, err); got.Kind != "stop" || f.ChannelCode != "190" {
		t.Fatalf("with an old token: got %+v", got)
	}
	w.setToken(t, "EAAG-renewed")
	for range 2 { // the first may still hold the token of up to a second ago
		_, err = w.Send(t.Context(), text(someone, "x"))
		if got, _ := outcomeOf(t, err); got.Kind == "stop" {
			t.Fatal("stopped though the file has a new token")
		}
	}
	if err != nil {
		t.Errorf("with the new token: %v", err)
	}
}

func TestTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	for content, good := range map[string]bool{"abc\n": true, "": false, "a b": false, "a\nb\n": false, "ä": false} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if f, err := NewTokenFile(path); (err == nil) != good {
			t.Errorf("%q: %v", content, err)
		} else if good && f.token != "abc" {
			t.Errorf("%q: got %q", content, f.token)
		} else if err != nil && content != "" && strings.Contains(err.Error(), content) {
			t.Errorf("the error quotes the token: %v", err)
		}
	}
	if _, err := NewTokenFile(path + ".none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
