package config

import (
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
)

// fallbackMemory is assumed where the machine does not say.
const fallbackMemory = GiB

// AvailableMemory is what this process may use: the tightest limit of its
// cgroup and of those above it, else the machine's memory.
func AvailableMemory() Size { return availableMemory(os.DirFS("/")) }

func availableMemory(root fs.FS) Size {
	limit := machineMemory(root)
	for _, name := range cgroupLimits(root) {
		text, err := fs.ReadFile(root, name)
		if err != nil {
			continue
		}
		// "max" and the huge number of version 1 mean no limit.
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 63); err == nil && n > 0 {
			limit = min(limit, Size(n))
		}
	}
	return limit
}

// cgroupLimits names the files that may hold a limit. In a container the path
// in /proc/self/cgroup is the host's and does not exist; the root is ours then.
func cgroupLimits(root fs.FS) []string {
	files := []string{"sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"}
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return files
	}
	for line := range strings.Lines(string(text)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		base, file := "", ""
		switch {
		case controllers == "":
			base, file = "sys/fs/cgroup", "memory.max"
		case strings.Contains(","+controllers+",", ",memory,"):
			base, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		for group = path.Clean("/" + group); group != "/"; group = path.Dir(group) {
			files = append(files, path.Join(base, group, file))
		}
	}
	return files
}

func machineMemory(root fs.FS) Size {
	text, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return fallbackMemory
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 40)
			if err == nil && n > 0 {
				return Size(n) * KiB
			}
		}
	}
	return fallbackMemory
}
