// Package base finds the images and root file systems that output images and
// builders stand on: an override the user gave, else the pinned image of a
// registry, else, for Debian, one bootstrapped from its packages.
package base

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// How says where a base came from.
type How string

// The ways a base can come, in the order they are tried.
const (
	Override  How = "override"  // given by the user
	Registry  How = "registry"  // pinned by digest, from a registry, its mirror, or kept from there
	Bootstrap How = "bootstrap" // put together from Debian's packages on this machine
	StandIn   How = "stand-in"  // something else in its place, for trying things out only
)

// Spec is a base as the catalogue and images.lock.yaml pin it.
type Spec struct {
	Name      string // "debian"
	Ref       string // "docker.io/library/debian:12-slim"
	Digest    string // "sha256:…" of the index Ref named when it was pinned
	Bootstrap string // Debian release it can be bootstrapped from, "bookworm"; else empty
}

// Options is how to resolve; the zero value needs only CacheDir.
type Options struct {
	CacheDir string // below it everything is kept in bases/
	// Override replaces the base: an OCI layout directory (DIR or DIR:ref), a
	// root file system (.tar, .tar.gz, .tgz, .tar.zst), or a registry
	// reference. One per platform is given as linux/amd64=…,linux/arm64=….
	Override     string
	Mirror       string // host[/prefix] asked in place of docker.io; VMBUILD_MIRROR
	AllowStandIn bool   // permits How StandIn; VMBUILD_STAND_IN=1
	Offline      bool   // no registry is asked, as if none were in reach; VMBUILD_OFFLINE=1
	Log          func(string)
	Keychain     authn.Keychain    // nil uses Docker's configuration
	Transport    http.RoundTripper // nil uses one that gives up soon on hosts out of reach
}

// Rootfs is a root file system on this machine.
type Rootfs struct {
	Path   string // a .tar.gz in the cache
	SHA256 string // hex, of that file
}

// Resolved is a base found; its methods make or fetch what they return on first use and keep it.
type Resolved struct {
	Name   string
	Ref    string // a reference by digest that llb.Image can get now; empty when only Image and Rootfs have it
	Digest string // of the index or image, empty when it is made here per platform
	How    How
	Origin string // where it came from, to print and record; holds no path of this machine

	from provider
}

// provider is one way to come by a base.
type provider interface {
	image(context.Context, v1.Platform) (v1.Image, error)
	rootfs(context.Context, v1.Platform) (Rootfs, error)
}

// Published tells whether the base is one that a registry has, so that Origin is
// a reference to it and Digest its digest there.
func (r *Resolved) Published() bool {
	_, ok := r.from.(*fromRegistry)
	return ok
}

// Image is the base for a platform, to put layers on.
func (r *Resolved) Image(ctx context.Context, p v1.Platform) (v1.Image, error) {
	img, err := r.from.image(ctx, p)
	return img, r.wrap(ctx, p, err)
}

// Rootfs is the base for a platform as one tarball, for a builder to unpack.
// A bootstrapped one is complete and configured, unlike that of Image.
func (r *Resolved) Rootfs(ctx context.Context, p v1.Platform) (Rootfs, error) {
	fs, err := r.from.rootfs(ctx, p)
	return fs, r.wrap(ctx, p, err)
}

func (r *Resolved) wrap(ctx context.Context, p v1.Platform, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, errWrong) {
		return fmt.Errorf("base %s for %s: %w: use another registry or mirror, or name another base with %s", r.Name, p.String(), err, Variable(r.Name))
	}
	if err != nil {
		return fmt.Errorf("base %s for %s: %w", r.Name, p.String(), err)
	}
	return nil
}

// Resolve finds the base; nothing large is fetched or made before it is asked for.
func Resolve(ctx context.Context, spec Spec, opt Options) (*Resolved, error) {
	r, err := resolve(ctx, spec, opt)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("base %s: %w", spec.Name, err)
	}
	r.Name = spec.Name
	return r, nil
}

func resolve(ctx context.Context, spec Spec, opt Options) (*Resolved, error) {
	if opt.Override != "" {
		return override(ctx, spec, opt)
	}
	r, err := pinned(ctx, spec, opt)
	if err == nil || ctx.Err() != nil {
		return r, err
	}
	if !errors.Is(err, ErrUnreachable) {
		return nil, &missing{spec.Name, err}
	}
	switch suite := strings.TrimPrefix(spec.Bootstrap, "debian:"); {
	case suite != "":
		boot, berr := newBootstrap(suite, opt)
		if berr != nil {
			return nil, fmt.Errorf("%w; making it from Debian's packages instead: %w", err, berr)
		}
		opt.log("base %s: %v; making it from Debian's packages instead", spec.Name, err)
		return &Resolved{How: Bootstrap, from: &debian{boot, opt},
			Origin: "bootstrapped from the packages of Debian " + suite + "; the base image is unpacked, not configured"}, nil
	case opt.AllowStandIn:
		boot, berr := newBootstrap(standInSuite, opt)
		if berr != nil {
			return nil, fmt.Errorf("%w; making a stand-in from Debian's packages: %w", err, berr)
		}
		opt.log("base %s: %v; making a stand-in from Debian's packages", spec.Name, err)
		return &Resolved{How: StandIn, from: &standIn{boot, spec, opt},
			Origin: "a stand-in for " + spec.Ref + " made of Debian " + standInSuite + "'s musl and busybox, without TLS libraries: for trying out only"}, nil
	}
	return nil, &missing{spec.Name, err}
}

// Variable is the environment variable that names another base in place of the
// one called name.
func Variable(name string) string {
	return "VMBUILD_BASE_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// missing is a base that cannot be had; its remedies are a part of their own,
// for callers that have another one.
type missing struct {
	name string
	err  error
}

func (m *missing) Error() string {
	text := fmt.Sprintf("%v: any one of these mends it:\n"+
		"  reach that registry, or a mirror of docker.io: VMBUILD_MIRROR=HOST[/PREFIX]\n"+
		"  name another base: %s=an OCI layout, a root file system tarball, or a reference", m.err, Variable(m.name))
	if errors.Is(m.err, ErrUnreachable) {
		text += "\n  accept a stand-in, for trying out: VMBUILD_STAND_IN=1"
	}
	return text
}
func (m *missing) Unwrap() error { return m.err }

func (o Options) log(format string, args ...any) {
	if o.Log != nil {
		o.Log(fmt.Sprintf(format, args...))
	}
}

func (o Options) dir(names ...string) string {
	return filepath.Join(append([]string{o.CacheDir, "bases"}, names...)...)
}

// exclusive runs f while no other run works on the same file of the cache.
func exclusive(ctx context.Context, path string, f func() error) error {
	if err := makeParent(path); err != nil {
		return err
	}
	lock := flock.New(path + ".lock")
	if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return fmt.Errorf("wait for another run that makes the same base: %w", err)
	}
	defer lock.Unlock()
	return f()
}
