//go:build mage

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/magefile/mage/mg"
	"github.com/magefile/mage/sh"

	"pharovm/vmbuild"
)

// testPackages are what the tests call, by the Debian package it comes from.
// The tests themselves install nothing.
var testPackages = map[string]string{
	"dockerd": "docker.io", "docker-registry": "docker-registry", "qemu-aarch64-static": "qemu-user-static",
	"runc": "runc", "mmdebstrap": "mmdebstrap", "clang": "clang", "ld.lld": "lld", "llvm-objcopy": "llvm",
	"gcc": "gcc", "objcopy": "binutils", "git": "git", "busybox": "busybox-static", "flock": "util-linux",
}

// Test runs every test: both engines for real, a registry, boots of both platforms.
func Test(ctx context.Context) error {
	if err := install(); err != nil {
		return err
	}
	mg.CtxDeps(ctx, Lint)
	// One package at a time: each starts engines of its own, and two cores are
	// all that may be there.
	return command(ctx, nil, "go", "test", "-p=1", "-timeout=25m", "./...")
}

// Lint checks formatting, and that everything compiles and vets for every host it runs on.
func Lint(ctx context.Context) error {
	out, err := sh.Output("gofmt", "-l", ".")
	if err != nil {
		return fmt.Errorf("checking formatting: %w", err)
	}
	if out != "" {
		return fmt.Errorf("these files are not formatted: run `gofmt -w .`:\n%s", out)
	}
	for _, host := range []string{"linux", "darwin", "windows"} {
		env := []string{"GOOS=" + host, "CGO_ENABLED=0"}
		if err := errors.Join(command(ctx, env, "go", "vet", "./..."), command(ctx, env, "go", "vet", "-tags=mage", ".")); err != nil {
			return err
		}
	}
	return nil
}

// Bench measures builds and sets them beside what a Dockerfile takes (some fifteen minutes).
func Bench(ctx context.Context, source, profile, engine, progress *string) error {
	return run(ctx, func(ctx context.Context, p *vmbuild.Project) error {
		return p.Bench(ctx, flags{source: source, profile: profile, engine: engine, progress: progress}.options(), os.Stdout)
	})
}

// install gets the programs that tests call where it can: as root, with apt.
func install() error {
	var missing []string
	for program, pkg := range testPackages {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) == 0 || runtime.GOOS != "linux" {
		return nil
	}
	args := append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)
	line := "apt-get " + strings.Join(args, " ")
	if os.Geteuid() != 0 {
		return fmt.Errorf("the tests need programs that are not here: run `sudo %s`", line)
	}
	fmt.Fprintln(os.Stderr, line)
	env := map[string]string{"DEBIAN_FRONTEND": "noninteractive"}
	if out, err := sh.OutputWith(env, "apt-get", "update", "-qq"); err != nil {
		return fmt.Errorf("apt-get update: %w\n%s", err, out)
	}
	if out, err := sh.OutputWith(env, "apt-get", args...); err != nil {
		return fmt.Errorf("%s: %w\n%s", line, err, out)
	}
	return nil
}

func command(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}
