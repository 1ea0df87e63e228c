package vmbuild

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"pharovm/vmbuild/oci"
)

func (p *Project) layout() *oci.Layout { return oci.Open(filepath.Join(p.Dist, "oci")) }

func (p *Project) packer() oci.Packer { return oci.Packer{Cache: filepath.Join(p.Cache, "layers")} }

// publish puts what was made into dist/: images into dist/oci, an archive of
// every VM and its symbols into dist/vm. All of it is written beside first, so
// that a full disk or an interruption leaves what was there.
func (p *Project) publish(ctx context.Context, r *Result) error {
	return p.exclusively(ctx, func() error {
		dir := filepath.Join(p.Dist, "vm")
		beside, err := besides(dir)
		if err != nil {
			return fmt.Errorf("making the folder for VM archives: %w", err)
		}
		defer os.RemoveAll(beside)
		var written []string
		for _, b := range r.Builds {
			name := fmt.Sprintf("pharo-vm-%s-%s-%s-%s-%s.tar.gz", r.Plan.Source.Name, r.Plan.Source.Version, r.Plan.Profile, b.Libc,
				strings.ReplaceAll(b.Platform, "/", "-"))
			files, err := p.packer().VMTarball(ctx, b.Tree, filepath.Join(beside, name), time.Unix(r.Plan.Source.Epoch, 0).UTC())
			if err != nil {
				return err
			}
			written = append(written, files...)
		}
		var images []oci.Named
		for _, m := range r.Images {
			images = append(images, oci.Named{Name: m.Name, Image: m.image})
		}
		entries, err := p.layout().PutImages(ctx, images)
		if err != nil {
			return err
		}
		for i, e := range entries {
			r.Images[i].Digest = e.Digest.String()
		}
		for _, file := range written {
			if err := os.Rename(file, filepath.Join(dir, filepath.Base(file))); err != nil {
				return fmt.Errorf("moving a VM archive in place: %w", err)
			}
		}
		return nil
	})
}

// besides makes a folder in dir for what is not whole yet, and removes those
// that killed runs left. The caller holds the lock of dist/.
func besides(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	stale, err := filepath.Glob(filepath.Join(dir, ".new-*"))
	if err != nil {
		return "", err
	}
	for _, s := range stale {
		if err := os.RemoveAll(s); err != nil {
			return "", err
		}
	}
	return os.MkdirTemp(dir, ".new-")
}

// exclusively runs do while no other run changes what lies in dist/.
func (p *Project) exclusively(ctx context.Context, do func() error) error {
	if err := os.MkdirAll(p.Dist, 0o755); err != nil {
		return fmt.Errorf("making the output folder: %w: name another with VMBUILD_DIST", err)
	}
	lock := flock.New(filepath.Join(p.Dist, ".run.lock"))
	if _, err := lock.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("waiting for another run to finish writing into %s: %w", p.Dist, err)
	}
	defer lock.Unlock()
	err := do()
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("writing into %s: %w: free some room, or name a folder on a larger disk with VMBUILD_DIST; images and archives that were there are as they were",
			p.Dist, syscall.ENOSPC)
	}
	return err
}
