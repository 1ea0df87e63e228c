//go:build !linux

package engine

import (
	"context"
	"fmt"
	"runtime"
)

func openPrivate(context.Context, Options, string) (Engine, error) {
	return nil, fmt.Errorf("private engine: it runs only on Linux, not on %s: start Docker, or give a BuildKit address with -engine", runtime.GOOS)
}

// Buildkitd compiles the pinned buildkitd; only on Linux.
func Buildkitd(ctx context.Context, opt Options) (string, error) {
	_, err := openPrivate(ctx, opt, "")
	return "", err
}

// Stop stops the private engine, of which there is none here.
func Stop(context.Context, Options) error { return nil }

func probePrivate(Options) []Finding { return nil }
