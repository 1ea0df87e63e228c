package oci

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func (l *Layout) blob(h v1.Hash) string { return filepath.Join(l.dir, "blobs", h.Algorithm, h.Hex) }

// writeBlob stores what open gives under digest h, checking it on the way. A
// blob of the right size that is there already is left alone: blobs are only
// ever renamed into place whole.
func (l *Layout) writeBlob(ctx context.Context, h v1.Hash, size int64, open func() (io.ReadCloser, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if h.Algorithm != "sha256" {
		return fmt.Errorf("blob %s: only sha256 digests are supported", h)
	}
	if info, err := os.Stat(l.blob(h)); err == nil && info.Size() == size {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(l.blob(h)), 0o755); err != nil {
		return err
	}
	r, err := open()
	if err != nil {
		return fmt.Errorf("reading blob %s: %w", h, err)
	}
	defer r.Close()
	check := &checked{ctx: ctx, r: r, hash: sha256.New(), want: h}
	return writeFile(l.blob(h), check)
}

// checked passes r on and fails at its end if it was not what want says, or as
// soon as ctx is done.
type checked struct {
	ctx  context.Context
	r    io.Reader
	hash hash.Hash
	want v1.Hash
}

func (c *checked) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.hash.Write(p[:n])
	if err == io.EOF {
		if got := hex.EncodeToString(c.hash.Sum(nil)); got != c.want.Hex {
			return n, fmt.Errorf("blob %s came as sha256:%s: fetch its image again", c.want, got)
		}
	}
	return n, err
}

func (l *Layout) writeBytes(ctx context.Context, h v1.Hash, data []byte) error {
	return l.writeBlob(ctx, h, int64(len(data)), func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	})
}

// writeImage stores layers first and the manifest last.
func (l *Layout) writeImage(ctx context.Context, img v1.Image) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		h, err := layer.Digest()
		if err != nil {
			return err
		}
		size, err := layer.Size()
		if err != nil {
			return err
		}
		if err := l.writeBlob(ctx, h, size, layer.Compressed); err != nil {
			return err
		}
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	h, err := img.ConfigName()
	if err != nil {
		return err
	}
	if err := l.writeBytes(ctx, h, config); err != nil {
		return err
	}
	return l.writeManifest(ctx, img)
}

type manifest interface {
	Digest() (v1.Hash, error)
	RawManifest() ([]byte, error)
}

func (l *Layout) writeManifest(ctx context.Context, m manifest) error {
	raw, err := m.RawManifest()
	if err != nil {
		return err
	}
	h, err := m.Digest()
	if err != nil {
		return err
	}
	return l.writeBytes(ctx, h, raw)
}

func (l *Layout) writeIndex(ctx context.Context, idx v1.ImageIndex) error {
	m, err := idx.IndexManifest()
	if err != nil {
		return err
	}
	for _, d := range m.Manifests {
		switch {
		case d.MediaType.IsImage():
			img, err := idx.Image(d.Digest)
			if err != nil {
				return err
			}
			if err := l.writeImage(ctx, img); err != nil {
				return err
			}
		case d.MediaType.IsIndex():
			child, err := idx.ImageIndex(d.Digest)
			if err != nil {
				return err
			}
			if err := l.writeIndex(ctx, child); err != nil {
				return err
			}
		default:
			return fmt.Errorf("index entry %s has media type %s: only images and indexes can be kept", d.Digest, d.MediaType)
		}
	}
	return l.writeManifest(ctx, idx)
}

// GC removes every blob that no entry refers to, and temporary files of runs
// that were killed, and says how many bytes that freed. Do not call it while
// images read from this layout are still in use.
func (l *Layout) GC(ctx context.Context) (freed int64, err error) {
	err = l.locked(ctx, func() error {
		freed, err = l.collect()
		return err
	})
	if err != nil {
		return freed, fmt.Errorf("cleaning %s: %w", l.dir, err)
	}
	return freed, nil
}

// collect is GC for who holds the lock.
func (l *Layout) collect() (freed int64, err error) {
	m, err := l.manifest()
	if err != nil {
		return 0, err
	}
	used := map[string]bool{}
	for _, d := range m.Manifests {
		if err := l.mark(used, d); err != nil {
			return 0, err
		}
	}
	for _, pattern := range []string{filepath.Join(l.dir, "blobs", "sha256", "*"), filepath.Join(l.dir, ".tmp-*")} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			return freed, err
		}
		for _, name := range names {
			if used[filepath.Base(name)] {
				continue
			}
			info, err := os.Stat(name)
			if err != nil {
				return freed, err
			}
			if err := os.Remove(name); err != nil {
				return freed, err
			}
			freed += info.Size()
		}
	}
	return freed, nil
}

// mark notes d's blob and all it refers to.
func (l *Layout) mark(used map[string]bool, d v1.Descriptor) error {
	if used[d.Digest.Hex] {
		return nil
	}
	used[d.Digest.Hex] = true
	isIndex := d.MediaType.IsIndex()
	if !isIndex && d.MediaType != types.OCIManifestSchema1 && d.MediaType != types.DockerManifestSchema2 {
		return nil
	}
	raw, err := os.ReadFile(l.blob(d.Digest))
	if err != nil {
		return fmt.Errorf("%w: remove %s and build again", err, l.dir)
	}
	var children []v1.Descriptor
	if isIndex {
		var m v1.IndexManifest
		if err := json.Unmarshal(raw, &m); err != nil {
			return fmt.Errorf("blob %s: %w", d.Digest, err)
		}
		children = m.Manifests
	} else {
		var m v1.Manifest
		if err := json.Unmarshal(raw, &m); err != nil {
			return fmt.Errorf("blob %s: %w", d.Digest, err)
		}
		children = append(m.Layers, m.Config)
	}
	for _, c := range children {
		if err := l.mark(used, c); err != nil {
			return err
		}
	}
	return nil
}
