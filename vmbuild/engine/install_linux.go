package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/gofrs/flock"
)

// maxSocket is the longest path a Unix socket may have on Linux.
const maxSocket = 107

// check makes the engine's folder and sees to the programs it needs.
func (h home) check(ctx context.Context, opt Options) error {
	if n := len(h.sock()); n > maxSocket {
		return fmt.Errorf("its socket %s has %d characters, Linux allows %d: set VMBUILD_CACHE to a shorter folder", h.sock(), n, maxSocket)
	}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return fmt.Errorf("making its folder: %w", err)
	}
	missing := missingPackages(opt)
	if len(missing) == 0 {
		return nil
	}
	install := aptCommand(missing...)
	if lookPath("apt-get") == "" {
		return fmt.Errorf("it lacks %s: install it with this system's package manager", strings.Join(missing, ", "))
	}
	if !opt.Install || os.Geteuid() != 0 {
		return fmt.Errorf("it lacks %s: run `%s`", strings.Join(missing, ", "), install)
	}
	if err := aptInstall(ctx, opt, missing); err != nil {
		return err
	}
	if missing = missingPackages(opt); len(missing) > 0 {
		return fmt.Errorf("it still lacks %s after `%s`", strings.Join(missing, ", "), install)
	}
	return nil
}

// aptCommand is what a person types to install Debian packages.
func aptCommand(packages ...string) string {
	command := "apt-get install -y --no-install-recommends " + strings.Join(packages, " ")
	if os.Geteuid() != 0 {
		command = "sudo " + command
	}
	return command
}

// machines are the architectures we build for, and what qemu calls them.
var machines = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// missingPackages names the Debian packages whose programs are not there.
func missingPackages(opt Options) []string {
	needs := [][2]string{{"runc", "runc"}, {"flock", "util-linux"}}
	if opt.Emulate {
		for goarch, arch := range machines {
			if goarch != runtime.GOARCH {
				needs = append(needs, [2]string{"qemu-" + arch + "-static", "qemu-user-static"})
			}
		}
	}
	if os.Geteuid() != 0 {
		needs = append(needs, [2]string{"rootlesskit", "rootlesskit"}, [2]string{"newuidmap", "uidmap"})
	}
	var missing []string
	for _, n := range needs {
		if lookPath(n[0]) == "" {
			missing = append(missing, n[1])
		}
	}
	return missing
}

func aptInstall(ctx context.Context, opt Options, packages []string) error {
	install := append([]string{"apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends"}, packages...)
	run := func(args ...string) error {
		opt.logf("+ %s", strings.Join(args, " "))
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("`%s`: %w:\n%s", strings.Join(args, " "), err, lastLines(out.String(), 10))
		}
		return nil
	}
	err := run(install...)
	if err == nil || ctx.Err() != nil {
		return err
	}
	// A fresh machine has no package lists, an old one stale ones.
	if uerr := run("apt-get", "-o", "DPkg::Lock::Timeout=300", "update"); uerr != nil {
		return errors.Join(err, uerr)
	}
	return run(install...)
}

var pin = regexp.MustCompile(`(?m)^\s*(?:require\s+)?github\.com/moby/buildkit\s+(v\S+)`)

// Buildkitd compiles the buildkitd of the module's pin, as the private engine
// does when it is first opened, and returns its path.
func Buildkitd(ctx context.Context, opt Options) (string, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return "", err
	}
	h := home{filepath.Join(opt.CacheDir, "engine")}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return "", err
	}
	return buildBuildkitd(ctx, h, opt)
}

// buildBuildkitd compiles the module's own buildkitd unless that version is
// there already, and returns its path.
func buildBuildkitd(ctx context.Context, h home, opt Options) (string, error) {
	module, err := moduleDir(opt.ModuleDir)
	if err != nil {
		return "", err
	}
	gomod, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("finding the version of buildkitd: %w", err)
	}
	m := pin.FindSubmatch(gomod)
	if m == nil {
		return "", fmt.Errorf("finding the version of buildkitd: %s does not require github.com/moby/buildkit", filepath.Join(module, "go.mod"))
	}
	version := string(m[1])
	program := h.path("buildkitd-" + version)
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}

	lock := flock.New(h.path("build.lock"))
	if _, err := lock.TryLockContext(ctx, lockRetry); err != nil {
		return "", fmt.Errorf("waiting for another run that compiles buildkitd: %w", err)
	}
	defer lock.Unlock()
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	golang := lookPath("go")
	if golang == "" {
		golang = filepath.Join(runtime.GOROOT(), "bin", "go")
	}
	opt.logf("compiling buildkitd %s (once; about two minutes on two cores)", version)
	tmp := program + ".tmp"
	defer os.Remove(tmp)
	// No -trimpath: without it most packages are already compiled, because
	// our own program uses them too.
	cmd := exec.CommandContext(ctx, golang, "build", "-o", tmp,
		"-ldflags", "-s -w -X github.com/moby/buildkit/version.Version="+version,
		"github.com/moby/buildkit/cmd/buildkitd")
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fmt.Errorf("compiling buildkitd %s: %w: the Go module proxy must be in reach the first time:\n%s", version, err, lastLines(string(out), 10))
	}
	if err := os.Rename(tmp, program); err != nil {
		return "", fmt.Errorf("compiling buildkitd: %w", err)
	}
	return program, nil
}

// moduleDir is dir, or the nearest folder upwards that has a go.mod.
func moduleDir(dir string) (string, error) {
	if dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("finding the version of buildkitd: no go.mod in %s or above: run this in the project's folder", dir)
		}
	}
}

func lastLines(text string, n int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}
