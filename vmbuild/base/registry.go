package base

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// ErrUnreachable is the error of a base whose registries all do not answer, or
// may not be asked. Another base may then serve in its place; after an answer of
// any kind none does, since the user would not know.
var ErrUnreachable = errors.New("no registry is in reach")

// errWrong marks answers that contradict the pin: no other way is tried then.
var errWrong = errors.New("not what is pinned")

var digestRE = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// fromRegistry has images by digest, fetched once per platform.
type fromRegistry struct {
	opt    Options
	refs   []name.Reference // the same content at a mirror and at its home
	digest string
}

// pinned looks for spec's digest in the cache, at the mirror and in its registry.
func pinned(ctx context.Context, spec Spec, opt Options) (*Resolved, error) {
	if spec.Ref == "" {
		return nil, errors.New("no reference is pinned for it")
	}
	if spec.Digest == "" {
		return nil, fmt.Errorf("%s has no digest in images.lock.yaml", spec.Ref)
	}
	refs, err := references(spec.Ref, spec.Digest, opt.Mirror)
	if err != nil {
		return nil, err
	}
	f := &fromRegistry{opt, refs, spec.Digest}
	r := &Resolved{How: Registry, Digest: spec.Digest, Origin: spec.Ref + "@" + spec.Digest, from: f}
	kept, _ := filepath.Glob(filepath.Join(f.keep("*"), "index.json"))
	var errs []error
	for _, ref := range refs {
		known, err := opt.dial(ctx, ref)
		if err == nil && (len(kept) == 0 || !known) {
			_, err = remote.Head(ref, opt.remote(ctx)...)
			if err != nil && len(kept) == 0 && mismatch(err) {
				return nil, fmt.Errorf("%w: %s answers with %s", errWrong, ref.Name(), digestRE.FindString(err.Error()))
			}
		}
		if err == nil {
			r.Ref = forEngine(ref)
			return r, nil
		}
		errs = append(errs, explain(ref, err))
	}
	if len(kept) > 0 && ctx.Err() == nil {
		return r, nil
	}
	return nil, either(errs)
}

// mismatch tells whether an answer has another digest than was asked for, which
// remote says only in words.
func mismatch(err error) bool {
	return strings.Contains(err.Error(), "does not match requested digest")
}

// forEngine is ref for BuildKit, which speaks plain HTTP to its own machine
// only; empty when it would not get there.
func forEngine(ref name.Reference) string {
	at := url.URL{Scheme: ref.Context().Scheme(), Host: ref.Context().RegistryStr()}
	ip := net.ParseIP(at.Hostname())
	if at.Scheme == "http" && at.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return ""
	}
	return ref.Name()
}

// either is the errors of several ways to the same thing, told on one line.
type either []error

func (e either) Error() string {
	var texts []string
	for _, err := range e {
		texts = append(texts, err.Error())
	}
	return strings.Join(texts, "; ")
}
func (e either) Unwrap() []error { return e }

// Is says of ErrUnreachable that not one of the registries answered.
func (e either) Is(target error) bool {
	answered := func(err error) bool { return !errors.As(err, new(*unreachable)) }
	return target == ErrUnreachable && !slices.ContainsFunc(e, answered)
}

// references are where ref at digest may be had: the mirror first.
func references(ref, digest, mirror string) ([]name.Reference, error) {
	tag, err := name.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("reference %q: %w", ref, err)
	}
	home := tag.Context().Digest(digest)
	if mirror == "" || tag.Context().RegistryStr() != name.DefaultRegistry {
		return []name.Reference{home}, nil
	}
	var opts []name.Option
	if rest, ok := strings.CutPrefix(mirror, "http://"); ok {
		mirror, opts = rest, append(opts, name.Insecure)
	}
	mirror = strings.TrimSuffix(strings.TrimPrefix(mirror, "https://"), "/")
	there, err := name.NewDigest(mirror+"/"+tag.Context().RepositoryStr()+"@"+digest, opts...)
	if err != nil {
		return nil, fmt.Errorf("VMBUILD_MIRROR %q is not host[/prefix]: %w", mirror, err)
	}
	return []name.Reference{there, home}, nil
}

func (o Options) remote(ctx context.Context) []remote.Option {
	keys, t := o.Keychain, o.Transport
	if keys == nil {
		keys = authn.DefaultKeychain
	}
	switch {
	case o.Offline:
		t = offline{}
	case t == nil:
		own := remote.DefaultTransport.(*http.Transport).Clone()
		own.DialContext = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
		own.ResponseHeaderTimeout = 20 * time.Second
		own.OnProxyConnectResponse = func(_ context.Context, proxy *url.URL, _ *http.Request, answer *http.Response) error {
			if answer.StatusCode == http.StatusOK {
				return nil
			}
			return &net.OpError{Op: "proxyconnect", Net: "tcp", Err: fmt.Errorf("the proxy %s answers %s", proxy.Host, answer.Status)}
		}
		t = own
	}
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(keys), remote.WithTransport(t),
		remote.WithRetryBackoff(remote.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Steps: 2})}
}

// offline answers for every registry, at once.
type offline struct{}

var errOffline = errors.New("not asked, since VMBUILD_OFFLINE is set")

func (offline) RoundTrip(*http.Request) (*http.Response, error) { return nil, errOffline }

// silent are the hosts that did not answer: asking for the next image need not wait again.
var silent sync.Map

// dial finds out soon whether a registry is there at all; its client would try
// long. Where it cannot tell, that is not known.
func (o Options) dial(ctx context.Context, ref name.Reference) (known bool, err error) {
	if o.Offline {
		return true, errOffline
	}
	at := &url.URL{Scheme: ref.Context().Scheme(), Host: ref.Context().RegistryStr()}
	if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: at}); proxy != nil || err != nil || o.Transport != nil {
		return false, nil
	}
	if err, ok := silent.Load(at.Host); ok {
		return true, err.(error)
	}
	port := at.Port()
	if port == "" {
		port = at.Scheme
	}
	soon, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(soon, "tcp", net.JoinHostPort(at.Hostname(), port))
	if err != nil {
		if ctx.Err() == nil {
			silent.Store(at.Host, err)
		}
		return true, err
	}
	return true, conn.Close()
}

// explain says what a registry's answer means for the user.
func explain(ref name.Reference, err error) error {
	host := ref.Context().RegistryStr()
	if host == name.DefaultRegistry {
		host = "docker.io" // as people know it
	}
	var answer *transport.Error
	if errors.As(err, &answer) {
		switch answer.StatusCode {
		case http.StatusNotFound:
			return fmt.Errorf("registry %s does not have %s (its pin may be outdated or the mirror incomplete)", host, ref.Name())
		case http.StatusUnauthorized, http.StatusForbidden:
			return fmt.Errorf("registry %s refuses %s: run `docker login %s`: %w", host, ref.Name(), host, err)
		}
	}
	// The client's wrapping repeats the address, and Go's the name server's.
	var web *url.Error
	if errors.As(err, &web) {
		err = web.Err
	}
	var op *net.OpError
	var dns *net.DNSError
	var late net.Error
	switch {
	case errors.Is(err, errOffline):
		return &unreachable{fmt.Sprintf("registry %s: %v", host, errOffline), err}
	case errors.As(err, &dns):
		return notReachable(host, dns.Err, err)
	case errors.As(err, &op) && !strings.HasSuffix(op.Op, " error"): // which TLS has
		var why error = op
		if inner := (*os.SyscallError)(nil); errors.As(err, &inner) {
			why = inner.Err
		} else if op.Timeout() {
			why = errors.New("no answer in time")
		} else if op.Op == "proxyconnect" {
			why = op.Err
		}
		return notReachable(host, why.Error(), err)
	case errors.As(err, &late) && late.Timeout():
		return notReachable(host, "no answer in time", err)
	}
	return fmt.Errorf("registry %s: %w", host, err)
}

// unreachable is a registry that does not answer or may not be asked, in one clause.
type unreachable struct {
	text string
	err  error
}

func notReachable(host, why string, err error) *unreachable {
	return &unreachable{fmt.Sprintf("registry %s is not reachable (%s)", host, why), err}
}

func (u *unreachable) Error() string { return u.text }
func (u *unreachable) Unwrap() error { return u.err }

// keep is the layout directory of one platform's image.
func (f *fromRegistry) keep(arch string) string {
	return f.opt.dir("registry", strings.TrimPrefix(f.digest, "sha256:")+"-"+arch)
}

func (f *fromRegistry) image(ctx context.Context, p v1.Platform) (v1.Image, error) {
	dir := f.keep(p.Architecture)
	if img, err := onlyImage(dir); err == nil {
		return img, nil
	}
	err := exclusive(ctx, dir, func() error {
		if _, err := onlyImage(dir); err == nil {
			return nil
		}
		var errs []error
		for _, ref := range f.refs {
			img, err := pull(ref, p, f.opt.remote(ctx))
			if err == nil {
				f.opt.log("fetching %s for %s", ref.Name(), p.String())
				if err = writeLayout(dir, img); err == nil {
					return nil
				}
			}
			if errors.Is(err, errWrong) || ctx.Err() != nil {
				return err
			}
			errs = append(errs, explain(ref, err))
		}
		return either(errs)
	})
	if err != nil {
		return nil, err
	}
	return onlyImage(dir)
}

func (f *fromRegistry) rootfs(ctx context.Context, p v1.Platform) (Rootfs, error) {
	img, err := f.image(ctx, p)
	if err != nil {
		return Rootfs{}, err
	}
	return flatten(ctx, f.opt, img)
}

// pull gets the image for a platform out of an index, or the one image there is.
func pull(ref name.Reference, p v1.Platform, opts []remote.Option) (v1.Image, error) {
	desc, err := remote.Get(ref, opts...)
	if err != nil {
		if mismatch(err) {
			return nil, fmt.Errorf("%w: %s answers with %s", errWrong, ref.Name(), digestRE.FindString(err.Error()))
		}
		return nil, err
	}
	if !desc.MediaType.IsIndex() {
		img, err := desc.Image()
		if err != nil {
			return nil, err
		}
		return img, checkPlatform(img, p)
	}
	index, err := desc.ImageIndex()
	if err != nil {
		return nil, err
	}
	return pick(index, p)
}

// pick finds the platform's image in an index, variants left aside.
func pick(index v1.ImageIndex, p v1.Platform) (v1.Image, error) {
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var have []string
	for _, d := range m.Manifests {
		if d.Platform == nil || d.Platform.OS != p.OS || d.Platform.Architecture != p.Architecture {
			if d.Platform != nil && d.Platform.OS != "unknown" {
				have = append(have, d.Platform.String())
			}
			continue
		}
		return index.Image(d.Digest)
	}
	return nil, fmt.Errorf("%w: the index has no image for %s, only for %s", errWrong, p.String(), strings.Join(have, ", "))
}

func checkPlatform(img v1.Image, p v1.Platform) error {
	c, err := img.ConfigFile()
	if err != nil {
		return err
	}
	if c.OS != p.OS || c.Architecture != p.Architecture {
		return fmt.Errorf("%w: it is an image for %s/%s, wanted is %s", errWrong, c.OS, c.Architecture, p.String())
	}
	return nil
}

// writeLayout keeps one image as an OCI layout, whole or not at all.
func writeLayout(dir string, img v1.Image) error {
	return replaceDir(dir, func(beside string) error {
		p, err := layout.Write(beside, empty.Index)
		if err != nil {
			return err
		}
		return p.AppendImage(img)
	})
}

// onlyImage opens a layout that holds one image.
func onlyImage(dir string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(m.Manifests) != 1 {
		return nil, fmt.Errorf("%s holds %d images", dir, len(m.Manifests))
	}
	return index.Image(m.Manifests[0].Digest)
}

// flatten writes an image's file system as one tarball into the cache.
func flatten(ctx context.Context, opt Options, img v1.Image) (Rootfs, error) {
	d, err := img.Digest()
	if err != nil {
		return Rootfs{}, err
	}
	file := opt.dir("rootfs", d.Hex+".tar.gz")
	err = exclusive(ctx, file, func() error {
		if _, err := os.Stat(file); err == nil {
			return nil
		}
		flat := mutate.Extract(img)
		defer flat.Close()
		return writeGzip(ctx, file, flat)
	})
	if err != nil {
		return Rootfs{}, err
	}
	return described(file)
}
