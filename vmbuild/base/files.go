package base

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// epoch dates what is made here: 1980-01-01, so that it never depends on a clock.
var epoch = time.Unix(315532800, 0).UTC()

func makeParent(path string) error { return os.MkdirAll(filepath.Dir(path), 0o755) }

// replaceDir fills a directory beside dir and renames it there.
func replaceDir(dir string, fill func(beside string) error) error {
	if err := makeParent(dir); err != nil {
		return err
	}
	beside, err := os.MkdirTemp(filepath.Dir(dir), ".tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(beside)
	if err := errors.Join(os.Chmod(beside, 0o755), fill(beside)); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(beside, dir)
}

// writeBeside writes a file and renames it into place when it is whole.
func writeBeside(file string, write func(io.Writer) error) error {
	if err := makeParent(file); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := errors.Join(write(f), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// writeGzip compresses what in has into file, always the same way.
func writeGzip(ctx context.Context, file string, in io.Reader) error {
	return writeBeside(file, func(w io.Writer) error {
		z := gzip.NewWriter(w)
		_, err := io.Copy(z, reader{ctx, in})
		return errors.Join(err, z.Close())
	})
}

// reader stops reading when its context ends.
type reader struct {
	ctx context.Context
	in  io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.in.Read(p)
}

// described is a tarball with its checksum.
func described(file string) (Rootfs, error) {
	f, err := os.Open(file)
	if err != nil {
		return Rootfs{}, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return Rootfs{}, err
	}
	return Rootfs{Path: file, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// oneLayer makes an image of a .tar.gz.
func oneLayer(file string, p v1.Platform, comment string) (v1.Image, error) {
	layer, err := tarball.LayerFromFile(file, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{Layer: layer, MediaType: types.OCILayer,
		History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "vmbuild", Comment: comment}})
	if err != nil {
		return nil, err
	}
	c, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Created = p.OS, p.Architecture, v1.Time{Time: epoch}
	c.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	c.Config.Cmd = []string{"/bin/sh"}
	return mutate.ConfigFile(img, c)
}
