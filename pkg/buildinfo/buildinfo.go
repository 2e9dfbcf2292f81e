// Package buildinfo identifies the build. The Makefile sets Release, Commit and Date with -ldflags -X;
// without them it uses what the Go tool recorded.
package buildinfo

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Stamped at link time.
var (
	Release string
	Commit  string
	Date    string
)

// Info is the response of GET /version.
type Info struct {
	Version string `json:"version" example:"v1.0.0"`
	Commit  string `json:"commit" example:"3f2c1e9"`
	Date    string `json:"date" example:"2026-11-24T02:00:00Z"`
	Go      string `json:"go" example:"go1.26.8"`
}

// Read returns the Info of this build. Unknown fields are "unknown", and the version of an unstamped
// build is "dev".
func Read() Info {
	info := Info{Version: Release, Commit: Commit, Date: Date, Go: runtime.Version()}
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, s := range build.Settings {
			switch {
			case s.Key == "vcs.revision" && info.Commit == "":
				info.Commit = s.Value
			case s.Key == "vcs.time" && info.Date == "":
				info.Date = s.Value
			}
		}
	}
	for _, field := range []struct {
		value    *string
		fallback string
	}{{&info.Version, "dev"}, {&info.Commit, "unknown"}, {&info.Date, "unknown"}} {
		if *field.value == "" {
			*field.value = field.fallback
		}
	}
	return info
}

func (i Info) String() string {
	return fmt.Sprintf("%s (commit %s, built %s, %s)", i.Version, i.Commit, i.Date, i.Go)
}
