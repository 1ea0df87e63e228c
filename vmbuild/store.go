package vmbuild

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// store keeps VM trees by what went into them, so that a run with nothing to do
// asks no engine.
type store struct{ dir string }

func (p *Project) store() store {
	if p.trees != "" {
		return store{p.trees}
	}
	return store{filepath.Join(p.Cache, "builds")}
}

// users is the lock that runs share while they use the cache folder.
func (p *Project) users() *flock.Flock { return flock.New(filepath.Join(p.Cache, "builds", usersLock)) }

const usersLock = "users.lock"

// use keeps CachePrune of other runs out until done is called.
func (p *Project) use(ctx context.Context) (done func(), err error) {
	if err := os.MkdirAll(filepath.Join(p.Cache, "builds"), 0o755); err != nil {
		return nil, fmt.Errorf("making the cache folder: %w: name another with VMBUILD_CACHE", err)
	}
	lock := p.users()
	if _, err := lock.TryRLockContext(ctx, 20*time.Millisecond); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("locking the cache folder: %w: name another with VMBUILD_CACHE", err)
	}
	return func() { lock.Unlock() }, nil
}

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
func (s store) keep(from, key string) error {
	err := os.Rename(from, s.tree(key))
	if err != nil && !s.has(key) {
		return fmt.Errorf("keeping a VM tree: %w", err)
	}
	return nil
}
