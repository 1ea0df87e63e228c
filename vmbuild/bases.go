package vmbuild

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/client/llb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"pharovm/vmbuild/base"
	"pharovm/vmbuild/catalog"
	"pharovm/vmbuild/engine"
	"pharovm/vmbuild/oci"
	"pharovm/vmbuild/plan"
	"pharovm/vmbuild/recipe"
	"pharovm/vmbuild/report"
)

// bases is which of the pinned images can be had, and what is used in place of
// those that cannot.
type bases struct {
	missing, used map[string]string
	found         map[string]*base.Resolved
}

// reach is what the last run found out, so that a plan, which asks nobody, can
// say what is likely.
type reach struct {
	Missing map[string]string `json:"missing"`
	Used    map[string]string `json:"used"`
}

func (p *Project) reachFile() string { return filepath.Join(p.Cache, "bases", "reach.json") }

// lastReach is empty where nothing is known.
func (p *Project) lastReach() reach {
	last := reach{}
	if data, err := os.ReadFile(p.reachFile()); err != nil || json.Unmarshal(data, &last) != nil {
		return reach{}
	}
	return last
}

// knownBases is what overrides and earlier runs say, without asking anybody.
func (p *Project) knownBases(ctx context.Context, o Options) bases {
	b := bases{missing: map[string]string{}, used: map[string]string{}, found: map[string]*base.Resolved{}}
	last := p.lastReach()
	overrides := p.overrides(o)
	for name := range p.Catalog.Bases {
		why, missing := last.Missing[name]
		origin, used := last.Used[name]
		switch override, given := overrides[name]; {
		case given:
			b.used[name] = override
		case o.Offline:
			// What is kept, and what can be made without a registry, is there all the same.
			r, err := p.lookForBase(ctx, o, name, false, nil)
			if err != nil {
				b.missing[name] = brief(name, err)
			} else {
				b.note(name, name, r)
			}
		case missing:
			b.missing[name] = why + " (when last tried)"
		}
		if _, known := b.used[name]; used && !known && !o.Offline {
			b.used[name] = origin
		}
	}
	return b
}

// overrides are the bases that the user names: Options.Bases, else
// VMBUILD_BASE_<NAME>, such as VMBUILD_BASE_DEBIAN_SLIM.
func (p *Project) overrides(o Options) map[string]string {
	out := map[string]string{}
	for name := range p.Catalog.Bases {
		if v := os.Getenv(base.Variable(name)); v != "" {
			out[name] = v
		}
		if v := o.Bases[name]; v != "" {
			out[name] = v
		}
	}
	return out
}

// findBases asks registries for what a plan needs. A builder whose base no
// registry in reach could have is noted as missing, for its stand-in; whatever
// else is wrong with it is an error, and an image's base must be had.
func (p *Project) findBases(ctx context.Context, o Options, replan func(bases) (*plan.Plan, error)) (*plan.Plan, bases, error) {
	b := bases{missing: map[string]string{}, used: map[string]string{}, found: map[string]*base.Resolved{}}
	pl, err := replan(b)
	if err != nil {
		return nil, b, err
	}
	for again := true; again; {
		again = false
		for _, builder := range pl.Builders {
			name := builder.Base.Name
			if b.found["builder "+name] != nil {
				continue
			}
			r, err := p.resolveBase(ctx, o, name, false)
			if err == nil && r.Published() && r.Ref == "" && !elsewhere(o.Engine) {
				// What is kept may be there for other platforms only.
				_, err = r.Rootfs(ctx, v1.Platform{OS: hostPlatform().OS, Architecture: hostPlatform().Architecture})
			}
			if err != nil && ctx.Err() != nil {
				return nil, b, context.Cause(ctx)
			}
			if err != nil && !errors.Is(err, base.ErrUnreachable) {
				return nil, b, fmt.Errorf("builder %s: %w", builder.Name, err)
			}
			if err != nil {
				b.missing[name] = brief(name, err)
				again = true
				continue
			}
			b.note("builder "+name, name, r)
		}
		if again {
			if pl, err = replan(b); err != nil {
				return nil, b, err
			}
		}
	}
	for _, i := range pl.Images {
		if i.Base == nil || b.found["image "+i.Base.Name] != nil {
			continue
		}
		r, err := p.resolveBase(ctx, o, i.Base.Name, o.StandIn)
		if err != nil {
			return nil, b, fmt.Errorf("image %s: %w", i.Name, err)
		}
		b.note("image "+i.Base.Name, i.Base.Name, r)
	}
	if !o.Offline {
		p.remember(b, p.overrides(o))
	}
	pl, err = replan(b)
	return pl, b, err
}

func (b bases) note(key, name string, r *base.Resolved) {
	b.found[key] = r
	if r.How != base.Registry {
		b.used[name] = r.Origin
	}
}

// remember is for plans only; failing to is no reason to stop a build. What is
// known of bases that this run had no use for, or was given another for, stays.
func (p *Project) remember(b bases, overrides map[string]string) {
	last := p.lastReach()
	r := reach{Missing: map[string]string{}, Used: map[string]string{}}
	for name := range p.Catalog.Bases {
		from := last
		_, given := overrides[name]
		_, missing := b.missing[name]
		if !given && (missing || b.found["builder "+name] != nil || b.found["image "+name] != nil) {
			from = reach{b.missing, b.used}
		}
		if why, ok := from.Missing[name]; ok {
			r.Missing[name] = why
		}
		if origin, ok := from.Used[name]; ok {
			r.Used[name] = origin
		}
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil || os.MkdirAll(filepath.Dir(p.reachFile()), 0o755) != nil {
		return
	}
	_ = report.Replace(p.reachFile(), append(data, '\n'))
}

func (p *Project) resolveBase(ctx context.Context, o Options, name string, standIn bool) (*base.Resolved, error) {
	return p.lookForBase(ctx, o, name, standIn, func(line string) { p.logf("%s", line) })
}

// lookForBase changes nothing as long as nothing is asked of what it finds.
func (p *Project) lookForBase(ctx context.Context, o Options, name string, standIn bool, log func(string)) (*base.Resolved, error) {
	b, err := catalog.Lookup("base", p.Catalog.Bases, name)
	if err != nil {
		return nil, err
	}
	opt := base.Options{
		CacheDir: p.Cache, Override: p.overrides(o)[name], Mirror: os.Getenv("VMBUILD_MIRROR"), AllowStandIn: standIn,
		Offline: o.Offline, Log: log,
	}
	return base.Resolve(ctx, base.Spec{Name: name, Ref: b.Ref, Digest: b.Digest, Bootstrap: b.Bootstrap}, opt)
}

// brief is what is wrong with a base as a clause that follows its name.
func brief(name string, err error) string {
	text, _, _ := strings.Cut(err.Error(), ": any one of these mends it")
	return strings.TrimPrefix(text, "base "+name+": ")
}

// root is the file system a builder starts from, and the folder it lies in when
// it does not come from a registry.
type root struct {
	recipe.Root
	dir string
	own bool // its package archives are this machine's
}

func (b bases) root(ctx context.Context, builder *plan.Builder, worker ocispecs.Platform) (root, error) {
	r := b.found["builder "+builder.Base.Name]
	if r == nil {
		return root{}, errors.New("a builder's base was not looked for")
	}
	if r.Ref != "" {
		return root{Root: recipe.Root{Image: r.Ref}}, nil
	}
	return tarball(ctx, r, v1.Platform{OS: worker.OS, Architecture: worker.Architecture})
}

// tarball is a base as a root file system on this machine.
func tarball(ctx context.Context, r *base.Resolved, platform v1.Platform) (root, error) {
	fs, err := r.Rootfs(ctx, platform)
	if err != nil {
		return root{}, err
	}
	out := root{
		Root: recipe.Root{Local: "root-" + fs.SHA256[:16], File: filepath.Base(fs.Path)},
		dir:  filepath.Dir(fs.Path), own: r.How == base.Bootstrap,
	}
	if r.Published() {
		out.Digest = r.Digest
	}
	return out, nil
}

// blame adds to an engine's failure to get a builder's base which that is.
func (b bases) blame(pl *plan.Plan, err error) error {
	var step *engine.StepError
	if !errors.As(err, &step) {
		return err
	}
	for _, builder := range pl.Builders {
		if root := b.found["builder "+builder.Base.Name]; root != nil && root.Ref != "" && step.Step == recipe.RootStep(&builder) {
			return fmt.Errorf("%w\nthis builder stands on %s: name another base with %s", err, root.Ref, base.Variable(builder.Base.Name))
		}
	}
	return err
}

// baseImage is an image to put layers on, and what is to be said of it: a name
// and digest under which others can have it, else in words where it came from.
type baseImage struct {
	image              v1.Image
	name, digest, made string
	standIn            bool // something else in its place, for trying out only
}

func (b bases) image(ctx context.Context, name, platform string) (baseImage, error) {
	r := b.found["image "+name]
	if r == nil {
		return baseImage{}, fmt.Errorf("base %s was not looked for", name)
	}
	at, err := oci.ParsePlatform(platform)
	if err != nil {
		return baseImage{}, err
	}
	img, err := r.Image(ctx, at)
	if err != nil {
		return baseImage{}, err
	}
	if !r.Published() {
		return baseImage{image: img, made: r.Origin, standIn: r.How == base.StandIn}, nil
	}
	return baseImage{image: img, name: r.Origin, digest: r.Digest}, nil
}

// archives are where a builder's packages come from when not from the archive
// that it pins: VMBUILD_APT_MIRROR or VMBUILD_APK_MIRROR.
func archives(manager string) (mirror, security string) {
	mirror = strings.TrimRight(os.Getenv("VMBUILD_"+strings.ToUpper(manager)+"_MIRROR"), "/")
	if mirror != "" && manager == "apt" {
		security = mirror + "-security"
	}
	return mirror, security
}

// proxy is what the host's environment says of proxies, for steps that install
// packages. BuildKit keeps it out of every digest.
func proxy() llb.ProxyEnv {
	first := func(name string) string {
		values := []string{os.Getenv(name), os.Getenv(strings.ToUpper(name))}
		if i := slices.IndexFunc(values, func(v string) bool { return v != "" }); i >= 0 {
			return values[i]
		}
		return ""
	}
	return llb.ProxyEnv{
		HTTPProxy: first("http_proxy"), HTTPSProxy: first("https_proxy"), FTPProxy: first("ftp_proxy"),
		NoProxy: first("no_proxy"), AllProxy: first("all_proxy"),
	}
}
