package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Annotations of the entries in a layout's index.json.
const (
	RefNameAnnotation = "org.opencontainers.image.ref.name" // "alpine-linux-amd64", or "alpine" for an index
	NameAnnotation    = "io.github.pharovm.image.name"      // "alpine"
)

// Layout is an OCI image layout on disk. Every change is written beside and
// renamed into place under a lock that other processes respect, so that an
// interruption leaves the layout as it was before.
type Layout struct {
	dir string // of oci-layout, index.json and blobs
}

// Entry is one image or index a layout holds.
type Entry struct {
	Ref      string       // what -ref names: "alpine-linux-amd64", or "alpine" for an index
	Name     string       // image name: "alpine"
	Platform *v1.Platform // nil for an index
	Digest   v1.Hash
	Size     int64 // bytes of the manifest
	Index    bool
}

// Open gives the layout at dir (for example dist/oci), which need not exist
// yet. Its lock file lies beside it: dist/.lock.
func Open(dir string) *Layout { return &Layout{dir: dir} }

// Dir is the folder the layout lies in.
func (l *Layout) Dir() string { return l.dir }

// RefName is the name under which a layout keeps the image called name for a
// platform: "alpine-linux-amd64".
func RefName(name string, p v1.Platform) string { return name + "-" + p.OS + "-" + p.Architecture }

// PutImage writes img as the image called name for its platform, in place of
// the one there was.
func (l *Layout) PutImage(ctx context.Context, name string, img v1.Image) (Entry, error) {
	entries, err := l.PutImages(ctx, []Named{{name, img}})
	if err != nil {
		return Entry{}, err
	}
	return entries[0], nil
}

// Named is an image and what it is called, without its platform.
type Named struct {
	Name  string
	Image v1.Image
}

// PutImages writes images, each in place of the one of its name and platform,
// and returns their entries in the same order. All of them are in or none.
func (l *Layout) PutImages(ctx context.Context, images []Named) ([]Entry, error) {
	entries := make([]Entry, len(images))
	objects := make([]object, len(images))
	for i, n := range images {
		p, err := imagePlatform(n.Image)
		if err != nil {
			return nil, err
		}
		entries[i] = Entry{Ref: RefName(n.Name, *p), Name: n.Name, Platform: p}
		objects[i] = object{&entries[i], n.Image, func() error { return l.writeImage(ctx, n.Image) }}
	}
	return entries, l.put(ctx, objects...)
}

// PutIndex writes idx, and every image in it that is not there yet, as the
// index called name, in place of the one there was.
func (l *Layout) PutIndex(ctx context.Context, name string, idx v1.ImageIndex) (Entry, error) {
	e := Entry{Ref: name, Name: name, Index: true}
	return e, l.put(ctx, object{&e, idx, func() error { return l.writeIndex(ctx, idx) }})
}

// object is something to write: its entry, which put completes, and how.
type object struct {
	entry *Entry
	desc  partial.Describable
	write func() error
}

func (l *Layout) put(ctx context.Context, objects ...object) error {
	err := l.locked(ctx, func() error {
		err := l.write(ctx, objects)
		if err != nil {
			// Blobs that nothing refers to would only take room.
			_, _ = l.collect()
		}
		return err
	})
	if err != nil {
		what := fmt.Sprintf("%d images", len(objects))
		if len(objects) == 1 {
			what = objects[0].entry.Ref
		}
		return fmt.Errorf("writing %s into %s: %w", what, l.dir, err)
	}
	return nil
}

func (l *Layout) write(ctx context.Context, objects []object) error {
	for _, o := range objects {
		if err := o.write(); err != nil {
			return err
		}
	}
	m, err := l.manifest()
	if err != nil {
		return err
	}
	for _, o := range objects {
		desc, err := partial.Descriptor(o.desc)
		if err != nil {
			return err
		}
		e := o.entry
		desc.Platform = e.Platform
		desc.Annotations = map[string]string{RefNameAnnotation: e.Ref, NameAnnotation: e.Name}
		e.Digest, e.Size = desc.Digest, desc.Size
		m.Manifests = slices.DeleteFunc(m.Manifests, func(d v1.Descriptor) bool { return d.Annotations[RefNameAnnotation] == e.Ref })
		m.Manifests = append(m.Manifests, *desc)
	}
	slices.SortFunc(m.Manifests, func(a, b v1.Descriptor) int {
		return strings.Compare(a.Annotations[RefNameAnnotation], b.Annotations[RefNameAnnotation])
	})
	return l.commit(ctx, m)
}

// Join makes one index of the images called name, one per platform, and writes
// it under that name. annotations nil means those on which all images agree.
func (l *Layout) Join(ctx context.Context, name string, annotations map[string]string) (Entry, error) {
	images, err := l.Images(name)
	if err != nil {
		return Entry{}, err
	}
	if len(images) == 0 {
		return Entry{}, fmt.Errorf("%s holds no image called %q: build it first, for example with `mage vm:%s`", l.dir, name, name)
	}
	if annotations == nil {
		if annotations, err = common(images); err != nil {
			return Entry{}, fmt.Errorf("joining %s: %w", name, err)
		}
	}
	idx, err := Index(images, annotations)
	if err != nil {
		return Entry{}, fmt.Errorf("joining %s: %w", name, err)
	}
	return l.PutIndex(ctx, name, idx)
}

func common(images []v1.Image) (map[string]string, error) {
	out := map[string]string{}
	for i, img := range images {
		m, err := img.Manifest()
		if err != nil {
			return nil, err
		}
		if i == 0 {
			out = merge(m.Annotations, nil)
			continue
		}
		for k, v := range out {
			if m.Annotations[k] != v {
				delete(out, k)
			}
		}
	}
	return out, nil
}

// List gives what the layout holds, sorted by reference; nothing when it does
// not exist yet.
func (l *Layout) List() ([]Entry, error) {
	m, err := l.manifest()
	if err != nil {
		return nil, err
	}
	var out []Entry
	for _, d := range m.Manifests {
		out = append(out, Entry{
			Ref: d.Annotations[RefNameAnnotation], Name: d.Annotations[NameAnnotation],
			Platform: d.Platform, Digest: d.Digest, Size: d.Size, Index: d.MediaType == types.OCIImageIndex,
		})
	}
	return out, nil
}

// Images gives the images called name, one per platform, sorted by platform.
func (l *Layout) Images(name string) ([]v1.Image, error) {
	entries, err := l.List()
	if err != nil {
		return nil, err
	}
	var out []v1.Image
	for _, e := range entries {
		if e.Name != name || e.Index {
			continue
		}
		img, err := layout.Path(l.dir).Image(e.Digest)
		if err != nil {
			return nil, fmt.Errorf("reading %s from %s: %w", e.Ref, l.dir, err)
		}
		out = append(out, img)
	}
	return out, nil
}

// Image gives the image called name for a platform.
func (l *Layout) Image(name string, p v1.Platform) (v1.Image, error) {
	e, err := l.find(RefName(name, p))
	if err != nil {
		return nil, err
	}
	return layout.Path(l.dir).Image(e.Digest)
}

// Index gives the index called name.
func (l *Layout) Index(name string) (v1.ImageIndex, error) {
	e, err := l.find(name)
	if err != nil {
		return nil, err
	}
	root, err := layout.Path(l.dir).ImageIndex()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", l.dir, err)
	}
	return root.ImageIndex(e.Digest)
}

func (l *Layout) find(ref string) (Entry, error) {
	entries, err := l.List()
	if err != nil {
		return Entry{}, err
	}
	var refs []string
	for _, e := range entries {
		if e.Ref == ref {
			return e, nil
		}
		refs = append(refs, e.Ref)
	}
	return Entry{}, fmt.Errorf("%s does not hold %q: it has %s", l.dir, ref, orNone(refs))
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}

// manifest reads index.json; a layout that does not exist is an empty one.
func (l *Layout) manifest() (*v1.IndexManifest, error) {
	m := &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	raw, err := os.ReadFile(filepath.Join(l.dir, "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the layout: %w", err)
	}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("reading %s: %w: remove %s and build again", filepath.Join(l.dir, "index.json"), err, l.dir)
	}
	return m, nil
}

// commit replaces index.json, the only step that changes what readers see.
func (l *Layout) commit(ctx context.Context, m *v1.IndexManifest) error {
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err = writeFile(filepath.Join(l.dir, "oci-layout"), bytes.NewReader([]byte(`{"imageLayoutVersion":"1.0.0"}`+"\n")))
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(l.dir, "index.json"), bytes.NewReader(append(raw, '\n')))
}

// locked runs do while no other process, and no other goroutine, changes the
// layout.
func (l *Layout) locked(ctx context.Context, do func() error) error {
	name := filepath.Join(filepath.Dir(filepath.Clean(l.dir)), ".lock")
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	lock := flock.New(name)
	if _, err := lock.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return fmt.Errorf("waiting for another run to release %s: %w", name, err)
	}
	defer lock.Unlock()
	return do()
}

// writeFile writes name through a temporary file in its folder and a rename.
func writeFile(name string, r io.Reader) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if _, err := io.Copy(tmp, r); err != nil {
		return err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}
