package vmbuild

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"pharovm/vmbuild/engine"
	"pharovm/vmbuild/oci"
	"pharovm/vmbuild/smoke"
)

// Booted is one start of an image.
type Booted struct {
	Image, Platform string
	How             string // native or qemu
	smoke.Outcome
}

// Demo builds every image of the project's own sample VM with the engine and
// the bases that are in reach, joins the platforms, and boots each image on
// each platform. Its output is in the folder demo of dist/. It returns the digests of the indexes.
func (p *Project) Demo(ctx context.Context, o Options) (map[string]string, error) {
	started := time.Now()
	// Beside the user's own images, never in their place.
	own := *p
	own.Dist = filepath.Join(p.Dist, "demo")
	p = &own
	o.Source, o.StandIn = "sample", true
	done, err := p.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	r, err := p.build(ctx, o)
	if err != nil {
		return nil, err
	}
	digests, err := p.Multiarch(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.boot(ctx, o, r); err != nil {
		return nil, err
	}
	if err := p.report(r, time.Since(started)); err != nil {
		return nil, err
	}
	var errs []error
	for _, b := range r.Boots {
		if b.Err != nil {
			errs = append(errs, fmt.Errorf("%s does not boot: %w\n%s", b.ID, b.Err, b.Output))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return digests, err
	}
	return digests, p.load(ctx, o.Engine, r)
}

// boot starts every image of r with the sample image file.
func (p *Project) boot(ctx context.Context, o Options, r *Result) error {
	opt := p.engineOptions()
	opt.Emulate = true
	e, err := engine.Open(ctx, o.Engine, opt)
	if err != nil {
		return err
	}
	defer e.Close()
	info, err := e.Info(ctx)
	if err != nil {
		return err
	}
	var boots []smoke.Boot
	for _, m := range r.Images {
		if !slices.ContainsFunc(info.Platforms, func(have string) bool { return sameProcessor(have, m.Platform) }) {
			return fmt.Errorf("booting %s: engine %s cannot run programs of %s: install qemu-user-static and binfmt-support, restart the engine, and run this again",
				m.ID, e.Name(), m.Platform)
		}
		boots = append(boots, smoke.Boot{
			ID: m.ID, Image: m.image, Platform: ociPlatform(m.Platform), File: filepath.Join(p.Dir, "testdata", "sample", "sample.image"),
			Args: []string{"sample.image"}, Want: "sample image ran",
		})
	}
	p.logf("booting %d images on engine %s", len(boots), e.Name())
	outcomes, err := smoke.Run(ctx, e, boots)
	for i, out := range outcomes {
		at := ociPlatform(r.Images[i].Platform)
		native, err := e.Worker(ctx, at)
		if err != nil {
			return err
		}
		how := "native"
		if native.Architecture != at.Architecture {
			how = "qemu"
		}
		r.Boots = append(r.Boots, Booted{Image: r.Images[i].shown(), Platform: r.Images[i].Platform, How: how, Outcome: out})
		p.logf("boot %s (%s): %s", out.ID, how, lastLine(out))
	}
	return err
}

func sameProcessor(have, want string) bool {
	a, err1 := v1.ParsePlatform(have)
	b, err2 := v1.ParsePlatform(want)
	return err1 == nil && err2 == nil && oci.PlatformName(*a) == oci.PlatformName(*b)
}

func lastLine(o smoke.Outcome) string {
	if o.Err != nil {
		return o.Err.Error()
	}
	if lines := plain(o.Output); len(lines) > 0 {
		return lines[len(lines)-1]
	}
	return "ended well, said nothing"
}

func (p *Project) engine(ctx context.Context, o Options) (engine.Engine, error) {
	return engine.Open(ctx, o.Engine, p.engineOptions())
}

func (p *Project) engineOptions() engine.Options {
	return engine.Options{CacheDir: p.Cache, ModuleDir: p.Dir, Install: true, Log: p.Log}
}
