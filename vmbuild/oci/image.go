package oci

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Spec is everything that decides an image's digest.
type Spec struct {
	Base     v1.Image    // nil for an image from scratch
	Platform v1.Platform // see ParsePlatform
	Layers   []LayerSpec // above the base, lowest first
	Created  time.Time   // SOURCE_DATE_EPOCH: a time that belongs to the sources, never the clock

	User       string   // "65532:65532"
	Env        []string // "NAME=value"; replaces the base's variable of that name
	Entrypoint []string // vector form
	Cmd        []string // the base's is dropped when Entrypoint or Cmd is set
	WorkingDir string
	Ports      []string          // "8080/tcp"
	Volumes    []string          // absolute paths
	StopSignal string            // "SIGTERM"
	Labels     map[string]string // added to the base's

	Annotations map[string]string // of the manifest; see Meta
}

// LayerSpec is a layer and the text its history entry shows.
type LayerSpec struct {
	Layer     v1.Layer
	CreatedBy string
}

// ParsePlatform turns "linux/amd64" or "linux/arm64" into what image configs
// and indexes say. arm64 carries the variant v8, as in the indexes of Docker's
// official debian and alpine images, so that a client asking for linux/arm64
// and one asking for linux/arm64/v8 both find it.
func ParsePlatform(s string) (v1.Platform, error) {
	switch s {
	case "linux/amd64":
		return v1.Platform{OS: "linux", Architecture: "amd64"}, nil
	case "linux/arm64", "linux/arm64/v8":
		return v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, nil
	}
	return v1.Platform{}, fmt.Errorf("unknown platform %q: use linux/amd64 or linux/arm64", s)
}

// PlatformName is the opposite of ParsePlatform: os and architecture, without
// the variant.
func PlatformName(p v1.Platform) string { return p.OS + "/" + p.Architecture }

// Image makes the image spec says. Manifest, config and layers have OCI media
// types throughout, whatever the base had; layers keep their digests.
func Image(spec Spec) (v1.Image, error) {
	cfg := &v1.ConfigFile{RootFS: v1.RootFS{Type: "layers"}}
	var adds []mutate.Addendum
	if spec.Base != nil {
		base, err := spec.Base.ConfigFile()
		if err != nil {
			return nil, fmt.Errorf("reading the base's config: %w", err)
		}
		if base.OS != spec.Platform.OS || base.Architecture != spec.Platform.Architecture {
			return nil, fmt.Errorf("the base is for %s/%s, the image for %s: resolve the base for that platform",
				base.OS, base.Architecture, PlatformName(spec.Platform))
		}
		cfg.Config = base.DeepCopy().Config
		cfg.History = slices.Clone(base.History)
		layers, err := spec.Base.Layers()
		if err != nil {
			return nil, fmt.Errorf("reading the base's layers: %w", err)
		}
		for _, l := range layers {
			if adds, err = addLayer(adds, cfg, l); err != nil {
				return nil, fmt.Errorf("reading the base's layers: %w", err)
			}
		}
		if err := keepLinks(spec.Base, spec.Layers); err != nil {
			return nil, err
		}
	}
	created := v1.Time{Time: spec.Created.UTC().Truncate(time.Second)}
	for _, l := range spec.Layers {
		var err error
		if adds, err = addLayer(adds, cfg, l.Layer); err != nil {
			return nil, fmt.Errorf("adding a layer: %w", err)
		}
		cfg.History = append(cfg.History, v1.History{Created: created, CreatedBy: l.CreatedBy})
	}
	cfg.OS, cfg.Architecture, cfg.Variant = spec.Platform.OS, spec.Platform.Architecture, spec.Platform.Variant
	cfg.Created = created
	if err := configure(&cfg.Config, spec); err != nil {
		return nil, err
	}

	// Append fills a config of its own; ours replaces it.
	img, err := mutate.Append(empty.Image, adds...)
	if err != nil {
		return nil, fmt.Errorf("assembling the image: %w", err)
	}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		return nil, fmt.Errorf("assembling the image: %w", err)
	}
	img = mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), types.OCIConfigJSON)
	if len(spec.Annotations) > 0 {
		img = mutate.Annotations(img, spec.Annotations).(v1.Image)
	}
	return img, nil
}

func addLayer(adds []mutate.Addendum, cfg *v1.ConfigFile, l v1.Layer) ([]mutate.Addendum, error) {
	diffID, err := l.DiffID()
	if err != nil {
		return nil, err
	}
	mt, err := l.MediaType()
	if err != nil {
		return nil, err
	}
	switch mt {
	case types.DockerLayer:
		mt = types.OCILayer
	case types.DockerUncompressedLayer:
		mt = types.OCIUncompressedLayer
	case types.DockerForeignLayer:
		return nil, fmt.Errorf("layer %s is not distributable: choose another base", diffID)
	}
	cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, diffID)
	return append(adds, mutate.Addendum{Layer: l, MediaType: mt}), nil
}

// mayBeLinks are folders that are links in one distribution and not in another.
var mayBeLinks = []string{"/bin", "/sbin", "/lib", "/lib64", "/usr/sbin", "/usr/lib64", "/var/run", "/var/lock", "/var/tmp", "/etc/ssl/certs"}

// keepLinks refuses layers with a folder where base has a link: unpacking would
// put the folder in the link's place, and with /lib goes the whole system.
func keepLinks(base v1.Image, layers []LayerSpec) error {
	for _, spec := range layers {
		l, ok := spec.Layer.(*layer)
		if !ok {
			continue
		}
		for _, dir := range l.dirs {
			if !slices.Contains(mayBeLinks, dir) {
				continue
			}
			_, h, err := lookup(base, dir)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("looking for %s in the base: %w", dir, err)
			}
			if err == nil && h.Typeflag == tar.TypeSymlink {
				return fmt.Errorf("a layer has files below %s, which the base has as a link to %s: put them below that", dir, h.Linkname)
			}
		}
	}
	return nil
}

func configure(c *v1.Config, spec Spec) error {
	for _, kv := range spec.Env {
		name, _, ok := strings.Cut(kv, "=")
		if !ok || name == "" {
			return fmt.Errorf("environment entry %q: want NAME=value", kv)
		}
		c.Env = slices.DeleteFunc(slices.Clone(c.Env), func(old string) bool { return strings.HasPrefix(old, name+"=") })
		c.Env = append(c.Env, kv)
	}
	if spec.User != "" {
		c.User = spec.User
	}
	if spec.Entrypoint != nil || spec.Cmd != nil {
		c.Cmd = spec.Cmd
	}
	if spec.Entrypoint != nil {
		c.Entrypoint = spec.Entrypoint
	}
	if spec.WorkingDir != "" {
		c.WorkingDir = spec.WorkingDir
	}
	if spec.StopSignal != "" {
		c.StopSignal = spec.StopSignal
	}
	c.Labels = merge(c.Labels, spec.Labels)
	c.ExposedPorts = addKeys(c.ExposedPorts, spec.Ports)
	c.Volumes = addKeys(c.Volumes, spec.Volumes)
	return nil
}

func merge(a, b map[string]string) map[string]string {
	if len(a)+len(b) == 0 {
		return nil
	}
	out := make(map[string]string, len(a)+len(b))
	maps.Copy(out, a)
	maps.Copy(out, b)
	return out
}

func addKeys(m map[string]struct{}, keys []string) map[string]struct{} {
	if len(keys) > 0 && m == nil {
		m = make(map[string]struct{}, len(keys))
	}
	for _, k := range keys {
		m[k] = struct{}{}
	}
	return m
}

// Index joins images, one per platform, into an OCI index sorted by platform.
func Index(images []v1.Image, annotations map[string]string) (v1.ImageIndex, error) {
	type entry struct {
		name string
		add  mutate.IndexAddendum
	}
	var entries []entry
	for _, img := range images {
		p, err := imagePlatform(img)
		if err != nil {
			return nil, fmt.Errorf("joining images: %w", err)
		}
		entries = append(entries, entry{p.String(), mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: p}}})
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].name < entries[j].name })
	idx := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for i, e := range entries {
		if i > 0 && entries[i-1].name == e.name {
			return nil, fmt.Errorf("joining images: two images for %s: an index holds one per platform", e.name)
		}
		idx = mutate.AppendManifests(idx, e.add)
	}
	if len(annotations) > 0 {
		idx = mutate.Annotations(idx, annotations).(v1.ImageIndex)
	}
	return idx, nil
}

func imagePlatform(img v1.Image) (*v1.Platform, error) {
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading an image's config: %w", err)
	}
	return &v1.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant}, nil
}

// Meta is what the standard org.opencontainers.image annotations and labels
// say. Empty fields are left out.
type Meta struct {
	Title, Description, Version, Revision, Source, URL, Documentation, Licenses, Vendor string

	BaseName, BaseDigest string
	Created              time.Time // SOURCE_DATE_EPOCH
}

// Annotations gives m as org.opencontainers.image.* keys.
func (m Meta) Annotations() map[string]string {
	const ns = "org.opencontainers.image."
	out := map[string]string{}
	for k, v := range map[string]string{
		"title": m.Title, "description": m.Description, "version": m.Version, "revision": m.Revision,
		"source": m.Source, "url": m.URL, "documentation": m.Documentation, "licenses": m.Licenses,
		"vendor": m.Vendor, "base.name": m.BaseName, "base.digest": m.BaseDigest,
	} {
		if v != "" {
			out[ns+k] = v
		}
	}
	if !m.Created.IsZero() {
		out[ns+"created"] = m.Created.UTC().Format(time.RFC3339)
	}
	return out
}
