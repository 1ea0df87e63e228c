package vmbuild

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/client"

	"pharovm/vmbuild/engine"
	"pharovm/vmbuild/plan"
	"pharovm/vmbuild/recipe"
	"pharovm/vmbuild/source"
)

// Bench measures what this project promises about speed, and sets the cold build
// of four targets beside Dockerfiles for the same four: amd64 natively and arm64
// under qemu, all at once. It takes some fifteen minutes.
func (p *Project) Bench(ctx context.Context, o Options, out io.Writer) error {
	o = o.withDefaults()
	o.StandIn = true
	dist, err := os.MkdirTemp("", "pharovm-bench-")
	if err != nil {
		return fmt.Errorf("making a folder for the benchmark: %w", err)
	}
	defer os.RemoveAll(dist)
	quiet := *p
	quiet.Dist = dist
	p = &quiet
	done, err := p.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(what string, took time.Duration, goal string) {
		fmt.Fprintf(w, "%s\t%.2f s\t%s\n", what, took.Seconds(), goal)
	}

	started := time.Now()
	if _, err := p.Plan(ctx, o); err != nil {
		return err
	}
	row("plan", time.Since(started), "at most 0.5 s")

	// One run makes builder, bases and sources, which are not what is measured.
	if _, err := p.build(ctx, o); err != nil {
		return err
	}
	started = time.Now()
	if _, err := p.build(ctx, o); err != nil {
		return err
	}
	row("a run with nothing to do", time.Since(started), "at most 2 s")

	// Nothing finds trees with a salt again.
	p.salt, p.trees = fmt.Sprintf("-bench-%d", time.Now().UnixNano()), filepath.Join(dist, "trees")
	started = time.Now()
	r, err := p.build(ctx, o)
	if err != nil {
		return err
	}
	cold := time.Since(started)
	row(fmt.Sprintf("%d cold builds, in parallel, to images", len(r.Builds)), cold, "at most 120 s")
	for _, b := range r.Builds {
		row("  of it "+b.ID, b.Took, "")
	}

	fewer, err := p.oneLess(o, r.Plan, dist)
	if err != nil {
		return err
	}
	started = time.Now()
	if _, err := p.build(ctx, fewer); err != nil {
		return err
	}
	row("one plugin switched off", time.Since(started), "at most 30 s")

	native, err := p.native(ctx, o, r.Plan)
	if err != nil {
		// What was measured before is worth as much without the comparison.
		return errors.Join(err, w.Flush())
	}
	slowest := time.Duration(0)
	for _, step := range SortedKeys(native) {
		row(step, native[step], "")
		slowest = max(slowest, native[step])
	}
	fmt.Fprintf(w, "Dockerfiles for the same targets, beside us\t%.1f ×\tat least 5 ×\n", slowest.Seconds()/cold.Seconds())
	return w.Flush()
}

// oneLess is the request with one more plugin left out: one that no other
// kept plugin needs.
func (p *Project) oneLess(o Options, pl *plan.Plan, dir string) (Options, error) {
	needed := map[string]bool{}
	for _, d := range pl.Plugins {
		if d.Keep {
			for _, n := range d.Plugin.Needs {
				needed[n] = true
			}
		}
	}
	kept := pl.Kept("internal")
	i := slices.IndexFunc(kept, func(name string) bool { return !needed[name] })
	if i < 0 {
		return o, fmt.Errorf("every plugin of profile %s is needed by another: benchmark another profile", pl.Profile)
	}
	text := fmt.Sprintf("name: one-less\ndescription: for the benchmark\nextends: %s\nleave-out:\n  - names: [%s]\n    why: to measure\n", pl.Profile, kept[i])
	o.Profile = filepath.Join(dir, "one-less.yaml")
	return o, os.WriteFile(o.Profile, []byte(text), 0o644)
}

// native builds the plan's targets as Dockerfiles would, all at once, and returns
// how long each took.
func (p *Project) native(ctx context.Context, o Options, pl *plan.Plan) (map[string]time.Duration, error) {
	at, err := p.locate(o)
	if err != nil {
		return nil, err
	}
	staged, err := source.Resolve(ctx, at.where, at.spec, p.sourceOptions(at.source))
	if err != nil {
		return nil, err
	}
	e, err := p.engine(ctx, o)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	req := engine.Request{Locals: map[string]string{}}
	for i := range pl.Builds {
		b := &pl.Builds[i]
		platform := ociPlatform(b.Platform)
		root, err := p.nativeRoot(ctx, o, pl.Builder(b.Builder).Base.Name, v1.Platform{OS: platform.OS, Architecture: platform.Architecture})
		if err != nil {
			return nil, err
		}
		in := recipe.Input{Plan: pl, Root: root.Root, Source: "source-" + staged.Digest[:16], OwnArchives: true, Proxy: proxy()}
		def, err := recipe.Native(ctx, in, b, platform)
		if err != nil {
			return nil, err
		}
		req.Jobs = append(req.Jobs, engine.Job{ID: b.ID, Platform: platform, Definition: def})
		req.Locals[in.Source], req.Locals[root.Local] = staged.Dir, root.dir
	}
	log := filepath.Join(p.Dist, "native.log")
	took, err := watch(ctx, o.Progress, p.Log, log, func(ctx context.Context, status chan<- *client.SolveStatus) error {
		return e.Solve(ctx, req, filepath.Join(p.Dist, "native"), status)
	})
	if err != nil {
		return nil, explain(ctx, err, log)
	}
	for step := range took {
		if !strings.HasPrefix(step, "[native ") {
			delete(took, step)
		}
	}
	return took, nil
}

// nativeRoot is a builder's root for any platform, as a tarball.
func (p *Project) nativeRoot(ctx context.Context, o Options, name string, platform v1.Platform) (root, error) {
	r, err := p.resolveBase(ctx, o, name, false)
	if err != nil {
		return root{}, err
	}
	return tarball(ctx, r, platform)
}
