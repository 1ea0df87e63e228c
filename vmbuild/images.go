package vmbuild

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"pharovm/vmbuild/gate"
	"pharovm/vmbuild/oci"
	"pharovm/vmbuild/plan"
)

const (
	baseName   = "org.opencontainers.image.base.name"
	baseDigest = "org.opencontainers.image.base.digest"
	// baseLabel says what an image stands on when no registry has that.
	baseLabel = "org.pharo.vm.base"
)

// Made is one platform of an image, as it lies in dist/oci.
type Made struct {
	plan.Image
	On      string // what it stands on, to print; empty for scratch
	StandIn bool   // its base is something else in its place, for trying out only
	Digest  string
	Size    oci.ImageSize
	TLS     oci.Size // of the layer with TLS libraries, counted apart
	Gates   gate.Report
	image   v1.Image
}

// images assembles every image of the plan and checks its size.
func (p *Project) images(ctx context.Context, r *Result, found bases) error {
	created := time.Unix(r.Plan.Source.Epoch, 0).UTC()
	// Images of one build share its TLS layer, which is most of their work.
	tls := map[string]func() (v1.Layer, error){}
	for _, b := range r.Builds {
		tls[b.ID] = sync.OnceValues(func() (v1.Layer, error) { return p.tlsLayer(b.Tree, created) })
	}
	r.Images = make([]Made, len(r.Plan.Images))
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	for i, spec := range r.Plan.Images {
		g.Go(func() (err error) {
			if r.Images[i], err = p.assemble(ctx, r, spec, found, tls[spec.Build], created); err != nil {
				return fmt.Errorf("making image %s: %w", spec.ID, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	var errs []error
	for _, m := range r.Images {
		if err := m.Gates.Err(); err != nil {
			errs = append(errs, fmt.Errorf("%s is over its budget:\n%w", m.ID, err))
		}
	}
	return errors.Join(errs...)
}

func (p *Project) assemble(ctx context.Context, r *Result, spec plan.Image, found bases, tls func() (v1.Layer, error), created time.Time) (Made, error) {
	m := Made{Image: spec}
	platform, err := oci.ParsePlatform(spec.Platform)
	if err != nil {
		return m, err
	}
	annotations, labels := spec.Annotations, spec.Labels
	var base v1.Image
	if spec.Base != nil {
		b, err := found.image(ctx, spec.Base.Name, spec.Platform)
		if err != nil {
			return m, err
		}
		base = b.image
		annotations = merged(annotations, nil)
		delete(annotations, baseName) // the plan's, which may not be what was found
		annotations = merged(annotations, map[string]string{baseName: b.name, baseDigest: b.digest})
		labels = merged(labels, map[string]string{baseLabel: b.made})
		m.On, m.StandIn = b.name+b.made, b.standIn
		if b.standIn {
			const description = "org.opencontainers.image.description"
			text := map[string]string{description: spec.Title + " as far as it can be tried without its base: " + b.made}
			annotations, labels = merged(annotations, text), merged(labels, text)
		}
	}
	tree := r.Built(spec.Build).Tree
	files, err := vmFiles(base, tree, spec)
	if err != nil {
		return m, err
	}
	vm, err := p.packer().Layer(files, created)
	if err != nil {
		return m, err
	}
	layers := []oci.LayerSpec{{Layer: vm, CreatedBy: fmt.Sprintf("vmbuild: %s %s, profile %s", r.Plan.Source.Name, r.Plan.Source.Version, r.Plan.Profile)}}
	if slices.Contains(spec.Runtime, "tls") {
		layer, err := tls()
		if err != nil {
			return m, err
		}
		// Below the VM: a new VM then sends only its own layer.
		layers = slices.Insert(layers, 0, oci.LayerSpec{Layer: layer, CreatedBy: "vmbuild: TLS libraries and CA certificates"})
	}
	m.image, err = oci.Image(oci.Spec{
		Base: base, Platform: platform, Layers: layers, Created: created,
		User: spec.User, Entrypoint: spec.Entrypoint, WorkingDir: spec.WorkingDir, Env: environment(spec),
		Labels: labels, Annotations: merged(annotations, map[string]string{"org.opencontainers.image.created": created.Format(time.RFC3339)}),
	})
	if err != nil {
		return m, err
	}
	if m.Size, err = oci.Sizes(m.image, base); err != nil {
		return m, err
	}
	own := m.Size.Own
	if len(layers) > 1 {
		m.TLS = m.Size.Layers[len(m.Size.Layers)-2].Size
		own.Unpacked -= m.TLS.Unpacked
		own.Compressed -= m.TLS.Compressed
	}
	m.Gates = gate.CheckSize(spec.Name, spec.Platform, own.Unpacked, own.Compressed,
		gate.Budget{Unpacked: int64(spec.Budget.Unpacked), Compressed: int64(spec.Budget.Compressed)})
	if spec.Budget.TLS > 0 {
		tls := gate.CheckSize(spec.Name+" TLS layer", spec.Platform, 0, m.TLS.Compressed, gate.Budget{Compressed: int64(spec.Budget.TLS)})
		m.Gates.Rows = append(m.Gates.Rows, tls.Rows...)
	}
	return m, nil
}

// tlsLayer holds the TLS libraries and certificates of a VM tree.
func (p *Project) tlsLayer(tree string, created time.Time) (v1.Layer, error) {
	files, err := oci.Tree(filepath.Join(tree, "runtime", "tls"), "/", 0, 0, isLibrary)
	if err != nil {
		return nil, err
	}
	return p.packer().Layer(withoutFolders(files), created)
}

// vmFiles are the files of an image's own layer: the VM, packed as the image
// says, its user and working folder, and from scratch its libc.
func vmFiles(base v1.Image, tree string, spec plan.Image) ([]oci.File, error) {
	id, _, _ := strings.Cut(spec.User, ":")
	uid, err := strconv.Atoi(id)
	if err != nil {
		return nil, fmt.Errorf("user %q: a number is wanted", spec.User)
	}
	files, err := oci.Tree(filepath.Join(tree, "vm"), plan.VMDir, 0, 0, func(name string) bool { return name == path.Base(spec.Entrypoint[0]) })
	if err != nil {
		return nil, err
	}
	if spec.UPX != "none" {
		i := slices.IndexFunc(files, func(f oci.File) bool { return f.Path == spec.Entrypoint[0] })
		if i < 0 {
			return nil, fmt.Errorf("the VM tree has no %s", path.Base(spec.Entrypoint[0]))
		}
		files[i].Source = filepath.Join(tree, "packed", spec.UPX, "pharo")
	}
	accounts, err := oci.Accounts(base, "pharo", uid, uid, spec.WorkingDir)
	if err != nil {
		return nil, err
	}
	files = append(files, accounts...)
	files = append(files, oci.File{Path: spec.WorkingDir, Dir: true, Mode: 0o755, UID: uid, GID: uid})
	if base == nil {
		files = append(files, oci.File{Path: "/tmp", Dir: true, Mode: 0o777 | os.ModeSticky})
	}
	if slices.Contains(spec.Runtime, "libc") {
		libc, err := oci.Tree(filepath.Join(tree, "runtime", "libc"), "/", 0, 0, isLibrary)
		if err != nil {
			return nil, err
		}
		files = append(files, withoutFolders(libc)...)
	}
	return files, nil
}

// isLibrary tells which files of the sysroot are executable: the loader and the
// libraries. These are the modes that the pack step sets.
func isLibrary(name string) bool {
	return strings.HasSuffix(name, ".so") || strings.Contains(path.Base(name), ".so.")
}

// withoutFolders leaves parents to the layer itself, which adds what a file
// needs and nothing more.
func withoutFolders(files []oci.File) []oci.File {
	return slices.DeleteFunc(files, func(f oci.File) bool { return f.Dir })
}

func environment(spec plan.Image) []string {
	var env []string
	for _, name := range plan.SortedKeys(spec.Env) {
		env = append(env, name+"="+spec.Env[name])
	}
	return env
}

func merged(a, b map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range []map[string]string{a, b} {
		for k, v := range m {
			if v != "" {
				out[k] = v
			}
		}
	}
	return out
}
