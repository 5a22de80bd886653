package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the Makefile: -ldflags "-X main.version=v1.2.3".
var version string

// runVersion is `netstackd version`.
func runVersion(args []string) (int, error) {
	fs := newFlagSet("version")
	rest, err := parse(fs, args, func() string {
		return "netstackd version\nprint the version, the commit and the Go release it was built with\n"
	})
	if err != nil {
		return 0, err
	}
	if err := noArguments("version", rest); err != nil {
		return 0, err
	}
	fmt.Println(versionLine())
	return 0, nil
}

func versionLine() string {
	v, commit := version, ""
	if info, ok := debug.ReadBuildInfo(); ok {
		v = cmp.Or(v, info.Main.Version)
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = " " + s.Value[:min(len(s.Value), 12)]
			}
		}
	}
	return fmt.Sprintf("netstackd %s%s %s %s/%s", cmp.Or(v, "(devel)"), commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
