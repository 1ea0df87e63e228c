package vmbuild

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// store keeps VM trees by what went into them, so that a run with nothing to do
// asks no engine.
type store struct{ dir string }

func (s store) tree(key string) string { return filepath.Join(s.dir, key) }

func (s store) has(key string) bool {
	_, err := os.Stat(s.tree(key))
	return err == nil
}

// incoming makes a folder for results that are not whole yet.
func (s store) incoming() (dir string, discard func(), err error) {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return "", nil, fmt.Errorf("making the folder for VM trees: %w", err)
	}
	dir, err = os.MkdirTemp(s.dir, "incoming-")
	if err != nil {
		return "", nil, fmt.Errorf("making the folder for VM trees: %w", err)
	}
	return dir, func() { os.RemoveAll(dir) }, nil
}

// keep moves a finished tree to its key. Another run may have been faster with
// the same inputs; its result is the same.
func (s store) keep(_ context.Context, from, key string) error {
	err := os.Rename(from, s.tree(key))
	if err != nil && !s.has(key) {
		return fmt.Errorf("keeping a VM tree: %w", err)
	}
	return nil
}
