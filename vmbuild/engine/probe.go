package engine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	docker "github.com/moby/moby/client"
)

// Finding is one thing doctor looked for.
type Finding struct {
	// Name is what was looked for: "docker", "runc", an address.
	Name string
	OK   bool
	// Detail says what was found or what went wrong.
	Detail string
	// Remedy says how to mend it; empty when OK.
	Remedy string
}

// Probe looks which engines of spec are in reach and what they need, without
// starting, compiling or installing anything. For "auto" these are all three.
func Probe(ctx context.Context, spec string, opt Options) []Finding {
	opt, err := opt.withDefaults()
	if err != nil {
		return []Finding{{Name: "cache folder", Detail: err.Error(), Remedy: "set VMBUILD_CACHE"}}
	}
	s, err := parseSpec(spec)
	if err != nil {
		return []Finding{{Name: "engine " + redact(spec), Detail: err.Error(), Remedy: "give another -engine"}}
	}
	return s.probe(ctx, opt)
}

func (s spec) probe(ctx context.Context, opt Options) []Finding {
	switch s.kind {
	case kindDocker:
		return []Finding{probeDocker(ctx, s.addr)}
	case kindAddress:
		return []Finding{probeAddress(ctx, s.addr)}
	case kindPrivate:
		return probePrivate(opt)
	case kindMulti:
		var all []Finding
		for _, p := range s.parts {
			for _, f := range p.spec.probe(ctx, opt) {
				f.Name = p.platform + "=" + f.Name
				all = append(all, f)
			}
		}
		return all
	}
	all := []Finding{{Name: "BUILDKIT_HOST", OK: true, Detail: "not set, which is fine"}}
	if addr := os.Getenv("BUILDKIT_HOST"); addr != "" {
		if s, err := parseHost(addr); err != nil {
			all = []Finding{{Detail: err.Error(), Remedy: "unset BUILDKIT_HOST, or name an engine there"}}
		} else {
			all = s.probe(ctx, opt)
		}
		for i := range all {
			all[i].Name = "BUILDKIT_HOST"
		}
	}
	all = append(all, probeDocker(ctx, ""))
	return append(all, probePrivate(opt)...)
}

func probeDocker(ctx context.Context, host string) Finding {
	f := Finding{Name: "docker", Remedy: "start Docker, or set DOCKER_HOST"}
	if runtime.GOOS == "linux" {
		f.Remedy += " (Debian: `apt-get install docker.io`)"
	}
	e, err := openDocker(ctx, host, "")
	if err != nil {
		f.Detail, _, _ = strings.Cut(err.Error(), ": start ") // the remedy has its own place
		return f
	}
	defer e.Close()
	version := "unknown version"
	if api, err := DockerClient(host); err == nil {
		defer api.Close()
		vctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		if v, err := api.ServerVersion(vctx, docker.ServerVersionOptions{}); err == nil {
			version = v.Version
		}
	}
	return found(ctx, f, e, "Docker "+version)
}

func probeAddress(ctx context.Context, addr string) Finding {
	f := Finding{Name: "buildkit", Remedy: "start buildkitd there, or give another address"}
	e, err := openAddress(ctx, addr, "")
	if err != nil {
		f.Detail, _, _ = strings.Cut(err.Error(), ": start ") // the remedy has its own place
		return f
	}
	defer e.Close()
	return found(ctx, f, e, e.Name())
}

func found(ctx context.Context, f Finding, e Engine, detail string) Finding {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*dialTimeout, fmt.Errorf("no answer in %v", 2*dialTimeout))
	defer cancel()
	info, err := e.Info(ctx)
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	f.OK, f.Remedy = true, ""
	f.Detail = detail
	if info.Version != "" {
		f.Detail += ", BuildKit " + info.Version
	}
	f.Detail += ", runs " + strings.Join(info.Platforms, " ")
	return f
}

// firstLine runs a program for its version.
func firstLine(ctx context.Context, name string, args ...string) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return err.Error()
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
