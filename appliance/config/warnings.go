package config

import (
	"fmt"
	"net"
	"os"
)

// Warnings are settings that are allowed and probably not what was meant, a
// sentence each.
func Warnings(c Config, s Sources) []string {
	var warnings []string
	if s.noOverlay != "" {
		warnings = append(warnings, fmt.Sprintf("environment is %q and there is no %s: what runs is the configuration without an overlay; an empty file of that name says that it is meant so", c.Environment, s.noOverlay))
	}
	host, _, _ := net.SplitHostPort(c.HTTP.OpsListen)
	if c.HTTP.OpsListen != "" && !isLoopback(host) && c.HTTP.AdminTokenFile == "" {
		warnings = append(warnings, "http.ops_listen is not loopback and http.admin_token_file is empty: everything there but health will be refused")
	}
	for _, name := range c.SecretFiles() {
		if info, err := os.Stat(name); err == nil && name != c.HTTP.TLSCertFile && info.Mode().Perm()&0o004 != 0 {
			warnings = append(warnings, name+" holds a secret and can be read by everybody: chmod o-r it")
		}
	}
	if available := AvailableMemory(); c.Memory.Limit > available {
		warnings = append(warnings, fmt.Sprintf("memory.limit is %v and the machine or its cgroup has %v: the process may be killed before it refuses anything", c.Memory.Limit, available))
	}
	return warnings
}
