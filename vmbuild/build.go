package vmbuild

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"pharovm/vmbuild/engine"
	"pharovm/vmbuild/gate"
	"pharovm/vmbuild/oci"
	"pharovm/vmbuild/plan"
	"pharovm/vmbuild/recipe"
	"pharovm/vmbuild/source"
)

// Result is what a run made.
type Result struct {
	Plan   *plan.Plan
	Engine string // empty when no engine was needed
	Builds []Built
	Images []Made
	Boots  []Booted
}

// Built is one VM tree.
type Built struct {
	plan.Build
	Tree   string        // folder
	Reused bool          // nothing was done: the tree was there
	Took   time.Duration // compiling and packing, without the toolchain that all builds share
	Gates  gate.Report
}

// Built finds a build's tree by ID.
func (r *Result) Built(id string) *Built {
	i := slices.IndexFunc(r.Builds, func(b Built) bool { return b.ID == id })
	return &r.Builds[i]
}

// Build does what a request comes to: VM trees, gates, images in dist/oci and in
// the local Docker if there is one, VM archives in dist/vm, and the report. What
// was in dist/ before stays until the new is whole.
func (p *Project) Build(ctx context.Context, o Options) (*Result, error) {
	started := time.Now()
	done, err := p.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	r, err := p.build(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := p.report(r, time.Since(started)); err != nil {
		return r, err
	}
	return r, p.load(ctx, o.Engine, r)
}

func (p *Project) build(ctx context.Context, o Options) (*Result, error) {
	o = o.withDefaults()
	if err := errors.Join(checkProgress(o.Progress), engine.Check(o.Engine)); err != nil {
		return nil, err
	}
	at, err := p.locate(o)
	if err != nil {
		return nil, err
	}
	// The request is checked as a whole before anything is fetched.
	id, err := source.Identify(ctx, at.where, at.spec, p.sourceOptions(at.source))
	if err != nil {
		return nil, err
	}
	if _, err := p.plan(o, at, id, bases{}); err != nil {
		return nil, err
	}
	staged, err := source.Resolve(ctx, at.where, at.spec, p.sourceOptions(at.source))
	if err != nil {
		return nil, err
	}
	pl, found, err := p.findBases(ctx, o, func(b bases) (*plan.Plan, error) { return p.plan(o, at, staged.Identity, b) })
	if err != nil {
		return nil, err
	}
	p.logf("%s %s (%s, %s), profile %s, patches: %d", pl.Source.Title, pl.Source.Version, pl.Source.Origin, pl.Source.Verified, pl.Profile, len(pl.Patches))
	for _, b := range pl.Builders {
		p.logf("builder %s: %s", b.Name, b.Why)
	}

	r := &Result{Plan: pl}
	if err := p.compile(ctx, o, r, staged, found); err != nil {
		return nil, err
	}
	if err := p.gates(ctx, r); err != nil {
		return nil, err
	}
	if err := p.images(ctx, r, found); err != nil {
		return nil, err
	}
	if err := p.publish(ctx, r); err != nil {
		return nil, err
	}
	return r, nil
}

// compile makes the VM trees that are not there yet.
func (p *Project) compile(ctx context.Context, o Options, r *Result, staged source.Resolved, found bases) error {
	trees := p.store()
	// An engine on this machine runs this machine's architecture, so whether
	// there is anything to do can be told without opening it.
	if !elsewhere(o.Engine) {
		_, keys, err := p.jobs(ctx, r, staged, found, trees, func(ocispecs.Platform) (ocispecs.Platform, error) { return hostPlatform(), nil })
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			p.logf("nothing to compile: every VM is there from an earlier run")
			return nil
		}
	}
	e, err := p.engine(ctx, o)
	if err != nil {
		return err
	}
	defer e.Close()
	r.Engine = e.Name()
	p.logf("engine %s: %s", e.Name(), e.Why())
	req, keys, err := p.jobs(ctx, r, staged, found, trees, func(p ocispecs.Platform) (ocispecs.Platform, error) { return e.Worker(ctx, p) })
	if err != nil || len(keys) == 0 {
		return err
	}
	out, discard, err := trees.incoming()
	if err != nil {
		return err
	}
	defer discard()
	log := filepath.Join(p.Dist, "build.log")
	took, err := watch(ctx, o.Progress, p.Log, log, func(ctx context.Context, status chan<- *client.SolveStatus) error {
		return e.Solve(ctx, req, out, status)
	})
	if err != nil {
		return explain(ctx, found.blame(r.Plan, err), log)
	}
	for id, key := range keys {
		if err := trees.keep(filepath.Join(out, id), key); err != nil {
			return err
		}
	}
	for i := range r.Builds {
		b := &r.Builds[i]
		for step, d := range took {
			if strings.HasPrefix(step, recipe.StepPrefix(&b.Build)) {
				b.Took += d
			}
		}
	}
	return nil
}

// jobs fills r.Builds and makes a job of every build whose tree is not there. It
// returns the keys of those, by build.
func (p *Project) jobs(ctx context.Context, r *Result, staged source.Resolved, found bases, trees store,
	worker func(ocispecs.Platform) (ocispecs.Platform, error),
) (engine.Request, map[string]string, error) {
	req := engine.Request{Locals: map[string]string{}}
	keys := map[string]string{}
	r.Builds = nil
	for i := range r.Plan.Builds {
		b := &r.Plan.Builds[i]
		builder := r.Plan.Builder(b.Builder)
		on, err := worker(ociPlatform(b.Platform))
		if err != nil {
			return req, nil, err
		}
		root, err := found.root(ctx, builder, on)
		if err != nil {
			return req, nil, err
		}
		in := recipe.Input{
			Plan: r.Plan, Root: root.Root, Source: "source-" + staged.Digest[:16], Worker: on, OwnArchives: root.own, Proxy: proxy(),
			Salt: p.salt,
		}
		in.Mirror, in.Security = archives(builder.Manager)
		def, err := recipe.Build(ctx, in, b)
		if err != nil {
			return req, nil, err
		}
		key, err := recipe.Key(ctx, in, b)
		if err != nil {
			return req, nil, err
		}
		r.Builds = append(r.Builds, Built{Build: *b, Tree: trees.tree(key), Reused: trees.has(key)})
		if trees.has(key) {
			continue
		}
		keys[b.ID] = key
		req.Jobs = append(req.Jobs, engine.Job{ID: b.ID, Platform: ociPlatform(b.Platform), Definition: def})
		req.Locals[in.Source] = staged.Dir
		if root.dir != "" {
			req.Locals[root.Local] = root.dir
		}
	}
	return req, keys, nil
}

// explain adds to a failed step the end of what it printed, and where all of it is.
func explain(ctx context.Context, err error, log string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var step *engine.StepError
	if errors.As(err, &step) {
		if said := strings.TrimRight(step.Log, "\n"); said != "" {
			lines := strings.Split(said, "\n")
			err = fmt.Errorf("%w\n  │ %s", err, strings.Join(lines[max(0, len(lines)-30):], "\n  │ "))
		}
	}
	if strings.Contains(strings.ToLower(err.Error()), "no space left on device") {
		err = fmt.Errorf("%w\na disk is full: free some room, for example with `mage cache:prune`, or name a folder on a larger disk with VMBUILD_CACHE", err)
	}
	if _, none := os.Stat(log); none != nil {
		return err
	}
	return fmt.Errorf("%w\nthe whole log is in %s", err, log)
}

// gates checks every tree; a plan's builds are all checked before the first
// failure is told.
func (p *Project) gates(ctx context.Context, r *Result) error {
	var errs []error
	for i := range r.Builds {
		b := &r.Builds[i]
		rep, err := gate.Check(ctx, b.Tree, gate.Rules{
			Platform: b.Platform, Libc: b.Libc, AllowedLibs: libraries(b.Build), GlibcCeiling: b.GlibcCeiling,
			PIE: true, RELRO: "full", Kept: r.Plan.Kept(""), Excluded: r.Plan.LeftOut(), Packed: b.Pack,
		})
		if err != nil {
			return err
		}
		b.Gates = rep
		if err := rep.Err(); err != nil {
			errs = append(errs, fmt.Errorf("%s does not pass its gates:\n%w", b.ID, err))
		}
	}
	return errors.Join(errs...)
}

// libraries are what a VM of a libc may name as needed: the libc itself and, on
// glibc, the parts of it that the source says it uses.
func libraries(b plan.Build) []string {
	if b.Libc == "musl" {
		return []string{"libc.so", "libc.musl-" + plan.Machine(b.Platform) + ".so.1"}
	}
	return append([]string{"libc.so.6", filepath.Base(plan.Loader(b.Libc, b.Platform))}, b.Libraries...)
}

// hostPlatform is what an engine on this machine runs: under Linux, wherever the
// engine is.
func hostPlatform() ocispecs.Platform {
	return ocispecs.Platform{OS: "linux", Architecture: runtime.GOARCH}
}

// elsewhere tells whether an engine may be on another machine.
func elsewhere(spec string) bool {
	switch spec {
	case "private":
		return false
	case "docker":
		return os.Getenv("DOCKER_HOST") != ""
	}
	return strings.ContainsAny(spec, ":=") || os.Getenv("BUILDKIT_HOST") != "" || os.Getenv("DOCKER_HOST") != ""
}

func ociPlatform(name string) ocispecs.Platform {
	os, arch, _ := strings.Cut(name, "/")
	return ocispecs.Platform{OS: os, Architecture: arch}
}

// sameVM refuses to join images that hold different VMs: one platform may be
// left from an earlier run of another source or profile.
func sameVM(l *oci.Layout, name string) error {
	images, err := l.Images(name)
	if err != nil {
		return err
	}
	first := map[string]string{}
	for i, img := range images {
		m, err := img.Manifest()
		if err != nil {
			return fmt.Errorf("joining %s: %w", name, err)
		}
		for _, key := range []string{plan.SourceAnnotation, plan.ProfileAnnotation, "org.opencontainers.image.version", "org.opencontainers.image.revision"} {
			if i == 0 {
				first[key] = m.Annotations[key]
			}
			if now := m.Annotations[key]; now != first[key] {
				return fmt.Errorf("joining %s: its platforms hold different VMs (%s is %q and %q): build both platforms with one source and profile, or remove the older: rm -r %s",
					name, key, first[key], now, l.Dir())
			}
		}
	}
	return nil
}

// Multiarch joins the images in dist/oci into one index for each name; no names
// means all that are there. It returns the indexes' digests by name.
func (p *Project) Multiarch(ctx context.Context, names ...string) (map[string]string, error) {
	l := p.layout()
	if len(names) == 0 {
		entries, err := l.List()
		if err != nil {
			return nil, err
		}
		found := map[string]bool{}
		for _, e := range entries {
			if !e.Index {
				found[e.Name] = true
			}
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("joining images: %s holds none: run `mage vm:all` first", l.Dir())
		}
		names = slices.Sorted(maps.Keys(found))
	}
	digests := map[string]string{}
	for _, n := range names {
		if err := sameVM(l, n); err != nil {
			return nil, err
		}
		e, err := l.Join(ctx, n, nil)
		if err != nil {
			return nil, err
		}
		digests[n] = e.Digest.String()
	}
	_, err := l.GC(ctx)
	return digests, err
}
