package config

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"reflect"
	"slices"
	"strings"
)

// Change is one key whose value differs between two configurations. Secrets are
// replaced; a key ending in _file may be listed with equal values: then what the
// file holds has changed.
type Change struct {
	Key   string `json:"key"`
	Class string `json:"change"` // live, cluster or restart
	Old   string `json:"old"`
	New   string `json:"new"`
}

// contents are the fields that hold what a file holds, by the key that names it.
func (c *Config) contents() map[string]string {
	return map[string]string{
		"http.admin_token_file":               string(c.HTTP.AdminToken),
		"http.tls_cert_file":                  c.HTTP.CertificateDigest,
		"database.url_file":                   string(c.Database.URL),
		"channels.whatsapp.access_token_file": string(c.Channels.WhatsApp.AccessToken),
		"channels.whatsapp.app_secret_file":   string(c.Channels.WhatsApp.AppSecret),
		"channels.whatsapp.verify_token_file": string(c.Channels.WhatsApp.VerifyToken),
		"channels.email.password_file":        string(c.Channels.Email.Password),
	}
}

// Diff lists what changes from one configuration to another, by key. A tier that
// is new or gone has an empty value on one side.
func Diff(from, to Config) []Change {
	before, after := map[string]Leaf{}, map[string]Leaf{}
	var keys []string
	for _, l := range leaves(&from) {
		before[l.Key] = l
		keys = append(keys, l.Key)
	}
	for _, l := range leaves(&to) {
		after[l.Key] = l
		if _, known := before[l.Key]; !known {
			keys = append(keys, l.Key)
		}
	}
	held, holds := from.contents(), to.contents()
	var changes []Change
	for _, key := range keys {
		old, was := before[key]
		now, is := after[key]
		c := Change{Key: key, Class: old.Change}
		if was {
			c.Old = old.Text()
		}
		if is {
			c.New, c.Class = now.Text(), now.Change
		}
		switch {
		case was && is && reflect.DeepEqual(old.value.Interface(), now.value.Interface()) &&
			(held[key] == holds[key] || now.value.String() == ""):
			continue
		case was && is && key == "database.url" && (from.Database.URLFile != "" || to.Database.URLFile != ""):
			continue // it holds what the file says: that key is listed
		case c.Old == c.New && was && is:
			c.Old, c.New = strings.TrimSpace(c.Old+" (as it was)"), strings.TrimSpace(c.New+" (changed)")
		}
		changes = append(changes, c)
	}
	return changes
}

// Merge returns base with those keys taken from next for which take says so, and
// what the files hold that these keys name. Tiers are taken or left together, by
// take("rate_limiting.tiers").
func Merge(base, next Config, take func(key string) bool) Config {
	from := map[string]Leaf{}
	for _, l := range leaves(&next) {
		from[l.Key] = l
	}
	merged := base
	for _, l := range leaves(&merged) {
		if strings.HasPrefix(l.Key, "rate_limiting.tiers.") {
			continue // copies: the whole map is set below
		}
		if take(l.Key) {
			l.value.Set(from[l.Key].value)
		}
	}
	if take("rate_limiting.tiers") {
		merged.RateLimiting.Tiers = next.RateLimiting.Tiers
	}
	for key, copyContent := range map[string]func(){
		"http.admin_token_file":               func() { merged.HTTP.AdminToken = next.HTTP.AdminToken },
		"http.tls_cert_file":                  func() { merged.HTTP.CertificateDigest = next.HTTP.CertificateDigest },
		"channels.whatsapp.access_token_file": func() { merged.Channels.WhatsApp.AccessToken = next.Channels.WhatsApp.AccessToken },
		"channels.whatsapp.app_secret_file":   func() { merged.Channels.WhatsApp.AppSecret = next.Channels.WhatsApp.AppSecret },
		"channels.whatsapp.verify_token_file": func() { merged.Channels.WhatsApp.VerifyToken = next.Channels.WhatsApp.VerifyToken },
		"channels.email.password_file":        func() { merged.Channels.Email.Password = next.Channels.Email.Password },
	} {
		if take(key) {
			copyContent()
		}
	}
	return merged
}

// KeepSecrets returns base with the secrets of now: what the files hold now that
// both name, and the admin token, whichever file it comes from. No other key
// depends on these, and an old secret may have been changed because it had leaked.
func KeepSecrets(base, now Config) Config {
	was := map[string]string{}
	for _, l := range leaves(&base) {
		was[l.Key] = l.Text()
	}
	keep := map[string]bool{"http.admin_token_file": true}
	held := now.contents()
	for _, l := range leaves(&now) {
		if _, secret := held[l.Key]; secret && was[l.Key] == l.Text() {
			keep[l.Key] = true
		}
	}
	return Merge(base, now, func(key string) bool { return keep[key] })
}

// SecretFiles are the files whose content is a part of this configuration.
func (c Config) SecretFiles() []string {
	var files []string
	for _, f := range []string{c.HTTP.AdminTokenFile, c.HTTP.TLSCertFile, c.HTTP.TLSKeyFile, c.Database.URLFile,
		c.Channels.WhatsApp.AccessTokenFile, c.Channels.WhatsApp.AppSecretFile, c.Channels.WhatsApp.VerifyTokenFile,
		c.Channels.Email.PasswordFile} {
		if f != "" && !slices.Contains(files, f) {
			files = append(files, f)
		}
	}
	return files
}

// digestFiles tells contents apart without keeping them.
func digestFiles(names ...string) string {
	h := sha256.New()
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			h.Write([]byte(err.Error()))
		}
		h.Write(content)
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))
}
