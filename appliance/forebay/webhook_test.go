package main

import (
	"strings"
	"testing"
)

// What the commands for webhooks ask, and what they print.
func TestWebhookCommands(t *testing.T) {
	const secret = `{"account":"acme","secret":"whsec_new","previous":"whsec_old","previous_until":"2026-11-24T13:20:00Z","rotated_at":"2026-11-23T13:20:00Z"}`
	f := newFakeAdmin(t, map[string]string{"GET /accounts/acme/secret": secret, "POST /accounts/acme/secret": secret,
		"GET /accounts/acme/endpoints": `{"data":[{"account":"acme","id":"e1","host":"a.example:443","failing_since":"2026-11-23T13:20:00Z",` +
			`"patience_used_percent":90,"disabled_at":"2026-11-24T13:20:00Z","reason":"failed"}]}`,
		"DELETE /accounts/acme/endpoints/e1": ""})
	for _, tc := range []struct{ args, asked, want string }{
		{"account secret show acme", "GET /accounts/acme/secret", "whsec_new\n"},
		{"account secret rotate acme", "POST /accounts/acme/secret", "whsec_new\n"},
		{"account endpoint list acme", "GET /accounts/acme/endpoints", "e1  a.example:443  off: failed"},
		{"account endpoint enable acme e1", "DELETE /accounts/acme/endpoints/e1", "enabled  e1"},
	} {
		args := strings.Fields(tc.args)
		o := run(t, f.dir, nil, args...)
		if o.code != 0 || o.stderr != "" || !strings.Contains(o.stdout, tc.want) {
			t.Errorf("%s: want %q, got %+v", tc.args, tc.want, o)
		}
		if got := f.last(t); got != tc.asked {
			t.Errorf("%s: asked %q, want %q", tc.args, got, tc.asked)
		}
		isJSON(t, run(t, f.dir, nil, append(args, "--output", "json")...))
	}
}
