package appliance_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forebay/appliance"
	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
)

// TestCheckRefusesWhatAStartRefuses holds the three ways to judge a configuration
// against each other: what one refuses, the check of a file, a reload and a start
// do, with the same words and the line. The control is refused by none.
func TestCheckRefusesWhatAStartRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		must(t, "write "+name, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	cert, key := selfSigned(t, 1<<40)
	_, otherKey := selfSigned(t, 1<<40)
	for name, test := range map[string]struct{ text, want string }{
		"control":             {"channels: {webhook: {timeout: 10s}}\n", ""},
		"relay in clear text": {"channels:\n  email: {enabled: true, host: smtp.example.org, from: a@example.org, tls: none}\n", "forebay.yaml:4: channels.email.tls: none is for a relay on this machine only"},
		"sender":              {"channels:\n  email: {enabled: true, host: smtp.example.org, from: \"Forebay <a@localhost..>\"}\n", "forebay.yaml:4: channels.email."},
		"token of two words":  {fmt.Sprintf("channels:\n  whatsapp: {enabled: true, api_version: v23.0, phone_number_id: 12, access_token_file: %q}\n", file("two", "two words\n")), "forebay.yaml:4: channels.whatsapp.access_token_file: "},
		"certificate's key":   {fmt.Sprintf("http:\n  tls_cert_file: %q\n  tls_key_file: %q\n", cert, otherKey), "forebay.yaml:4: http.tls_cert_file: cannot be used with http.tls_key_file: tls: private key does not match public key"},
		"certificate gone":    {fmt.Sprintf("http:\n  tls_cert_file: %q\n  tls_key_file: %q\n", cert+".gone", key), "no such file"},
		"empty admin token":   {fmt.Sprintf("http:\n  admin_token_file: %q\n", file("empty", "\n")), "forebay.yaml:4: http.admin_token_file: " + filepath.Join(dir, "empty") + " is empty"},
		"secret gone":         {fmt.Sprintf("http:\n  admin_token_file: %q\n", filepath.Join(dir, "none")), "does not exist; create it"},
		"database's mode":     {"database:\n  url: postgres://u@h/d?default_query_exec_mode=simple_protocol\n", "forebay.yaml:4: database.url: database URL asks for"},
		"database's file":     {"database:\n  url: postgres://u@h/d?sslmode=verify-full&sslrootcert=/none.pem\n", "forebay.yaml:4: database.url: "},
		"cluster's files":     {fmt.Sprintf("cluster:\n  listen: 127.0.0.1:0\n  tls_cert_file: %q\n  tls_key_file: %q\n  tls_ca_file: %q\n", cert, key, key), "forebay.yaml:5: cluster.tls_cert_file: load the authorities of the cluster: " + key + " has no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := appliancetest.NewFile(t, test.text)
			c, sources, err := f.Files().Load()
			loaded := err == nil
			if loaded {
				err = appliance.Check(c, sources)
			}
			if !says(err, test.want) {
				t.Errorf("check: %v, want %q", err, test.want)
			}
			if loaded && err != nil { // it is the parts that refuse, not the check
				if a, err := appliance.New(appliance.Options{Config: c}); err == nil {
					t.Errorf("the check refuses what a start takes: %v", a.Close())
				}
			}
			running := appliancetest.NewFile(t, "")
			n := appliancetest.StartFile(t, running, func(o *appliance.Options) { o.Unwatched = true })
			running.Write(test.text)
			r := reload(t, n)
			if (r.Outcome == admin.ConfigRejected) != (test.want != "") {
				t.Fatalf("reload: %+v", r)
			}
			if test.want != "" && !strings.Contains(r.Rejected[0].Where+": "+r.Rejected[0].Key+": "+r.Rejected[0].Reason, strings.TrimPrefix(test.want, "forebay.yaml")) {
				t.Errorf("reload: %+v, want %q", r.Rejected, test.want)
			}
		})
	}
}

func says(err error, want string) bool {
	if want == "" {
		return err == nil
	}
	return errors.As(err, new(config.Problems)) && strings.Contains(err.Error(), want)
}
