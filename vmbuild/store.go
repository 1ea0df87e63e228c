package vmbuild

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

// store keeps VM trees by what went into them, so that a run with nothing to do
// asks no engine.
type store struct{ dir string }

func (s store) tree(key string) string { return filepath.Join(s.dir, key) }

func (s store) has(key string) bool {
	_, err := os.Stat(s.tree(key))
	return err == nil
}

// incoming makes a folder for results that are not whole yet, and removes those
// of runs that were killed: nobody holds their locks.
func (s store) incoming() (dir string, discard func(), err error) {
	fail := func(err error) (string, func(), error) {
		return "", nil, fmt.Errorf("making the folder for VM trees: %w", err)
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return fail(err)
	}
	gate := flock.New(filepath.Join(s.dir, "incoming.lock"))
	if err := gate.Lock(); err != nil {
		return fail(err)
	}
	defer gate.Unlock()
	old, err := filepath.Glob(filepath.Join(s.dir, "incoming-*"))
	if err != nil {
		return fail(err)
	}
	for _, o := range old {
		lock := flock.New(filepath.Join(o, "lock"))
		if ok, err := lock.TryLock(); err == nil && ok {
			lock.Unlock()
			os.RemoveAll(o)
		}
	}
	if dir, err = os.MkdirTemp(s.dir, "incoming-"); err != nil {
		return fail(err)
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	if _, err := lock.TryLock(); err != nil {
		return fail(err)
	}
	return dir, func() {
		lock.Unlock()
		os.RemoveAll(dir)
	}, nil
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
