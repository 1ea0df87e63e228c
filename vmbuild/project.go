// Package vmbuild builds small Pharo virtual machines for musl and glibc, amd64
// and arm64, and the base images that carry them.
//
// A [Project] is a checkout with its catalogue (sources, profiles, patches,
// images). [Project.Plan] says what a request comes to; [Project.Build] does it;
// [Project.Multiarch] joins the images of both platforms. The packages below are
// usable on their own: plan and recipe are pure, engine runs BuildKit graphs,
// gate checks what came out, oci assembles images.
package vmbuild

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"pharovm/vmbuild/catalog"
	"pharovm/vmbuild/patch"
	"pharovm/vmbuild/plan"
	"pharovm/vmbuild/source"
)

// Project is a folder with a catalogue, and where its work is kept.
type Project struct {
	Dir     string // holds sources/, profiles/, patches/ and images/
	Cache   string // what a later run can use again; safe to delete when none runs
	Dist    string // what a run leaves for the user
	Catalog *catalog.Catalog
	Log     io.Writer // lines for people

	salt  string // see recipe.Input.Salt
	trees string // where VM trees are kept; empty means in Cache
}

// Open reads the catalogue in dir, or in VMBUILD_DIR, or in the current folder,
// whichever is named first. The cache is VMBUILD_CACHE or a folder in the
// user's cache; the output is VMBUILD_DIST or dist/ in dir.
func Open(dir string, log io.Writer) (*Project, error) {
	if dir == "" {
		dir = os.Getenv("VMBUILD_DIR")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("finding the project's folder: %w", err)
	}
	c, err := catalog.Load(os.DirFS(dir))
	if err != nil {
		return nil, err
	}
	cache := os.Getenv("VMBUILD_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("finding the cache folder: %w: name one with VMBUILD_CACHE", err)
		}
		cache = filepath.Join(user, "pharovm")
	}
	if cache, err = filepath.Abs(cache); err != nil {
		return nil, fmt.Errorf("finding the cache folder: %w", err)
	}
	dist := os.Getenv("VMBUILD_DIST")
	if dist == "" {
		dist = filepath.Join(dir, "dist")
	}
	if dist, err = filepath.Abs(dist); err != nil {
		return nil, fmt.Errorf("finding the output folder: %w", err)
	}
	return &Project{Dir: dir, Cache: cache, Dist: dist, Catalog: c, Log: log}, nil
}

func (p *Project) logf(format string, args ...any) { fmt.Fprintf(p.Log, format+"\n", args...) }

// Options is one request. Empty fields mean the default.
type Options struct {
	Images    []string          // none means all
	Platforms []string          // none means both
	Source    string            // catalogue name, folder, archive, or URL#ref
	Version   string            // one of the source's pinned versions
	Profile   string            // name or path
	Engine    string            // see engine.Open
	Progress  string            // auto, plain, tty, rawjson or quiet
	Bases     map[string]string // by base name: what to use in place of the pinned image
	// StandIn allows bases made from Debian packages where neither the pinned
	// one nor an override can be had; what was made so says so.
	StandIn bool
	Offline bool // no registry is asked, as if none were in reach
}

// defaultSource is what is built when no source is named.
const defaultSource = "opensmalltalk"

func (o Options) withDefaults() Options {
	if o.Source == "" {
		o.Source = defaultSource
	}
	if o.Profile == "" {
		o.Profile = "server"
	}
	if o.Progress == "" {
		o.Progress = "auto"
	}
	return o
}

// located is a source option taken apart: which catalogue source it is of, and
// where its tree lies ("" for the pinned one).
type located struct {
	source *catalog.Source
	where  string
	spec   source.Spec
}

// locate reads a source option.
func (p *Project) locate(o Options) (located, error) {
	name, where := o.Source, ""
	if _, ok := p.Catalog.Sources[name]; !ok {
		var err error
		if name, err = p.recognize(o.Source); err != nil {
			return located{}, err
		}
		where = o.Source
	}
	src := p.Catalog.Sources[name]
	version := o.Version
	if version == "" {
		version = src.Default.Value
	}
	pin, err := catalog.Lookup("version of "+name, src.Versions, version)
	if err != nil {
		return located{}, err
	}
	spec := source.Spec{
		Name: name, Version: version, URL: src.Git, Commit: pin.Commit, Tree: pin.Tree, ArchiveSHA256: pin.ArchiveSHA256,
		ArchiveURL: strings.ReplaceAll(src.Archive, "{commit}", pin.Commit), Epoch: pin.Epoch, Paths: src.Paths, Marks: src.Marks,
	}
	if src.Local != "" {
		spec.Dir = filepath.Join(p.Dir, filepath.FromSlash(src.Local))
	}
	return located{src, where, spec}, nil
}

// recognize finds which catalogue source a path or URL is of, by the files that
// every tree of that source has.
func (p *Project) recognize(where string) (string, error) {
	names := plan.SortedKeys(p.Catalog.Sources)
	if source.Remote(where) {
		return "opensmalltalk", nil
	}
	dir, _, _ := strings.Cut(where, "#")
	info, err := os.Stat(dir)
	if err != nil {
		if !strings.ContainsAny(where, `/\.`) {
			return "", fmt.Errorf("unknown source %q: %s, or the path of a checkout or archive, or URL#ref", where, catalog.Suggest(where, names))
		}
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("source %s is not there: name a checkout, an archive, URL#REF, or one of %s", where, strings.Join(names, ", "))
		}
		return "", fmt.Errorf("reading the source %s: %w", where, err)
	}
	if !info.IsDir() {
		return "opensmalltalk", nil
	}
	// The source with the most marks comes first: a sample has few, and any tree may have them.
	slices.SortStableFunc(names, func(a, b string) int {
		return len(p.Catalog.Sources[b].Marks) - len(p.Catalog.Sources[a].Marks)
	})
	for _, n := range names {
		missing := func(mark string) bool {
			_, err := os.Stat(filepath.Join(dir, filepath.FromSlash(mark)))
			return err != nil
		}
		if !slices.ContainsFunc(p.Catalog.Sources[n].Marks, missing) {
			return n, nil
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err == nil {
		return "opensmalltalk", nil // a bare repository: its files are checked when they are staged
	}
	first := p.Catalog.Sources[names[0]]
	return "", fmt.Errorf("%s is not a VM source tree: a tree of %s has %s: name the folder that holds them",
		dir, first.Name, strings.Join(first.Marks, ", "))
}

// series reads the patches that belong to a release of a source.
func (p *Project) series(src *catalog.Source) func(string) ([]patch.Patch, error) {
	return func(release string) ([]patch.Patch, error) {
		list, err := src.PatchesFor(release)
		if err != nil {
			return nil, err
		}
		var out []patch.Patch
		for _, entry := range list {
			data, err := fs.ReadFile(os.DirFS(p.Dir), entry.Path())
			if err != nil {
				return nil, fmt.Errorf("reading a patch: %w", err)
			}
			out = append(out, patch.Patch{Name: entry.Path(), Data: data})
		}
		return out, nil
	}
}

func (p *Project) sourceOptions(src *catalog.Source) source.Options {
	return source.Options{CacheDir: p.Cache, Patches: p.series(src), Log: func(line string) { p.logf("source: %s", line) }}
}

// Plan says what a request comes to. It reads files of this machine and touches
// neither engine nor network.
func (p *Project) Plan(ctx context.Context, o Options) (*plan.Plan, error) {
	o = o.withDefaults()
	at, err := p.locate(o)
	if err != nil {
		return nil, err
	}
	id, err := source.Identify(ctx, at.where, at.spec, p.sourceOptions(at.source))
	if err != nil {
		return nil, err
	}
	return p.plan(o, at, id, p.knownBases(ctx, o))
}

func (p *Project) plan(o Options, at located, id source.Identity, bases bases) (*plan.Plan, error) {
	if err := p.checkOverrides(o); err != nil {
		return nil, err
	}
	return plan.New(p.Catalog, plan.Request{
		Images: o.Images, Platforms: o.Platforms, Source: at.source.Name.Value, Profile: o.Profile,
	}, plan.Facts{
		Source: plan.Source{
			Version: id.Version, Release: id.Release, Commit: id.Commit, Dirty: id.Dirty, Origin: id.Origin,
			Verified: id.Verified, Epoch: id.Epoch,
		},
		Missing: bases.missing, Bases: bases.used,
	})
}

func (p *Project) checkOverrides(o Options) error {
	var errs []error
	for name := range o.Bases {
		_, err := catalog.Lookup("base", p.Catalog.Bases, name)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
