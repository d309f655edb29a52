package main

import (
	"runtime"
	"runtime/debug"

	"github.com/go-json-experiment/json/jsontext"
)

// indented is how JSON for people's scripts is written.
var indented = jsontext.WithIndent("  ")

type versionInfo struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// buildVersion is what the linker was told, else what `go install` recorded.
func buildVersion(linked string) versionInfo {
	if info, ok := debug.ReadBuildInfo(); ok && linked == "dev" && info.Main.Version != "" && info.Main.Version != "(devel)" {
		linked = info.Main.Version
	}
	return versionInfo{Version: linked, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
}
