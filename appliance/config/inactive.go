package config

import (
	"net"
	"os"
	"strings"
)

// inactiveSections are read and validated, and change nothing in this version.
// There are none now; a section that comes before its part stands here.
var inactiveSections []string

// Inactive names the keys that an operator changed from their defaults and that
// do nothing in this version, so that nobody relies on them unawares.
func Inactive(c Config) []string {
	usual := map[string]string{}
	base := defaults()
	for _, l := range leaves(&base) {
		usual[l.Key] = l.Text()
	}
	var keys []string
	for _, l := range leaves(&c) {
		if standard, known := usual[l.Key]; known && standard == l.Text() {
			continue
		}
		for _, section := range inactiveSections {
			if strings.HasPrefix(l.Key, section) {
				keys = append(keys, l.Key)
			}
		}
	}
	return keys
}

// Warnings are settings that are allowed and probably not what was meant, a
// sentence each.
func Warnings(c Config) []string {
	var warnings []string
	host, _, _ := net.SplitHostPort(c.HTTP.OpsListen)
	if c.HTTP.OpsListen != "" && !isLoopback(host) && c.HTTP.AdminTokenFile == "" {
		warnings = append(warnings, "http.ops_listen is not loopback and http.admin_token_file is empty: everything there but health will be refused")
	}
	for _, name := range c.SecretFiles() {
		if info, err := os.Stat(name); err == nil && name != c.HTTP.TLSCertFile && info.Mode().Perm()&0o004 != 0 {
			warnings = append(warnings, name+" holds a secret and can be read by everybody: chmod o-r it")
		}
	}
	if c.HTTP.MaxBodyBytes > c.Memory.Limit/16 {
		warnings = append(warnings, "http.max_body_bytes is large for memory.limit: few large messages at once will count as pressure")
	}
	return warnings
}
