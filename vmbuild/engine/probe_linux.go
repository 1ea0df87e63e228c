package engine

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// probePrivate looks for what the private engine needs.
func probePrivate(opt Options) []Finding {
	ctx := context.Background()
	h := home{filepath.Join(opt.CacheDir, "engine")}
	private := Finding{Name: "private", OK: true, Detail: "not running, starts when needed"}
	if pids := h.daemons(); len(pids) > 0 {
		private.Detail = "running"
	}
	if missing := missingPackages(opt); len(missing) > 0 {
		private = Finding{
			Name: "private", Detail: "cannot start, lacks " + strings.Join(missing, ", "),
			Remedy: aptCommand(missing...),
		}
	} else if programs, _ := filepath.Glob(h.path("buildkitd-v*")); len(programs) == 0 {
		private.Detail += ", its buildkitd is compiled first (two minutes, once)"
	}
	all := []Finding{private}
	program := func(name, stops, remedy string, version ...string) {
		f := Finding{Name: name, Detail: "not found: " + stops, Remedy: remedy}
		if p := lookPath(name); p != "" {
			f = Finding{Name: name, OK: true, Detail: p}
			if version != nil {
				f.Detail = firstLine(ctx, p, version...)
			}
		}
		all = append(all, f)
	}
	program("runc", "the private engine cannot run steps", aptCommand("runc"), "--version")
	program("go", "buildkitd cannot be compiled", "install Go from https://go.dev/dl", "version")
	foreign := map[string]string{"amd64": "aarch64", "arm64": "x86_64"}[runtime.GOARCH]
	if foreign != "" {
		program("qemu-"+foreign+"-static", "images of the other architecture can be built but not booted here", aptCommand("qemu-user-static"), "--version")
		binfmt := Finding{Name: "binfmt " + foreign, OK: true, Detail: "registered"}
		if _, err := os.Stat("/proc/sys/fs/binfmt_misc/qemu-" + foreign); err != nil {
			binfmt.Detail = "not registered; builds cross-compile and do not need it"
		}
		all = append(all, binfmt)
	}
	return all
}
