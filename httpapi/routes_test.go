package httpapi

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestAllowIsTrue: what Allow lists, to OPTIONS and with 405, is what does not meet
// 405, also where names and ids share a place.
func TestAllowIsTrue(t *testing.T) {
	w := newWorld(t)
	const id = "01a22756-6129-7000-8000-68e15f35627a"
	all := []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, "PURGE"}
	for path, want := range map[string]string{
		"/v1/messages":                    "GET, HEAD, OPTIONS, POST",
		"/v1/messages/" + id:              "GET, HEAD, OPTIONS",
		"/v1/messages/anything":           "GET, HEAD, OPTIONS",
		"/v1/messages/batch":              "OPTIONS, POST",
		"/v1/messages/cancel":             "OPTIONS, POST",
		"/v1/messages/requeue":            "OPTIONS, POST",
		"/v1/messages/" + id + "/cancel":  "OPTIONS, POST",
		"/v1/messages/" + id + "/requeue": "OPTIONS, POST",
		"/v1/events":                      "GET, HEAD, OPTIONS",
		"/hooks/whatsapp":                 "GET, HEAD, OPTIONS, POST",
		"/v1/messages/" + id + "/other":   "",
		"/v1/messages/":                   "",
		"/v1/messages/" + id + "/":        "",
		"/v1":                             "",
	} {
		options := w.do(http.MethodOptions, path, "")
		if got := options.Header().Get("Allow"); got != want || (options.Code == 204) != (want != "") {
			t.Errorf("OPTIONS %s: got %d and %q, want %q", path, options.Code, got, want)
		}
		for _, method := range all {
			// A suspended account, so that nothing is done, or waited for.
			got := w.do(method, path, "", "Authorization", "Bearer "+suspendedKey)
			switch allowed := slices.Contains(strings.Split(want, ", "), method); {
			case want == "":
				if got.Code != 404 || got.Header().Get("Allow") != "" {
					t.Errorf("%s %s: got %d and %q, want 404", method, path, got.Code, got.Header().Get("Allow"))
				}
			case allowed != (got.Code != 405), !allowed && got.Header().Get("Allow") != want:
				t.Errorf("%s %s: got %d and %q, want 405 %v and %q", method, path, got.Code, got.Header().Get("Allow"), !allowed, want)
			}
		}
	}
	if got := w.do(http.MethodOptions, "*", "").Header().Get("Allow"); got != "GET, HEAD, OPTIONS, POST" {
		t.Errorf("OPTIONS *: got %q", got)
	}
}
