package base

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/klauspost/compress/zstd"
)

// twoPlatforms is a small index for amd64 and arm64.
func twoPlatforms(t *testing.T) v1.ImageIndex {
	t.Helper()
	index := empty.Index
	var out v1.ImageIndex = index
	for _, p := range []v1.Platform{amd64, arm64} {
		img, err := random.Image(64, 1)
		if err != nil {
			t.Fatal(err)
		}
		img, err = mutate.ConfigFile(img, &v1.ConfigFile{OS: p.OS, Architecture: p.Architecture, RootFS: rootfsOf(t, img)})
		if err != nil {
			t.Fatal(err)
		}
		out = mutate.AppendManifests(out, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}})
	}
	return out
}

func rootfsOf(t *testing.T, img v1.Image) v1.RootFS {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return c.RootFS
}

// serve starts a registry with an index under ref, and returns its digest and a count of requests.
func serve(t *testing.T, repo string, index v1.ImageIndex) (host, digest string, asked *atomic.Int64) {
	t.Helper()
	asked = new(atomic.Int64)
	reg := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		reg.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	host = strings.TrimPrefix(srv.URL, "http://")
	ref, err := name.ParseReference(host + "/" + repo)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	d, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return host, d.String(), asked
}

func TestPinnedRegistry(t *testing.T) {
	index := twoPlatforms(t)
	host, digest, asked := serve(t, "library/debian:12-slim", index)
	spec := Spec{Name: "debian", Ref: host + "/library/debian:12-slim", Digest: digest}
	opt := Options{CacheDir: t.TempDir()}
	r, err := Resolve(t.Context(), spec, opt)
	if err != nil {
		t.Fatal(err)
	}
	if r.How != Registry || r.Digest != digest || r.Ref != host+"/library/debian@"+digest {
		t.Errorf("resolved to %+v", r)
	}
	for _, p := range []v1.Platform{amd64, arm64} {
		img, err := r.Image(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := img.ConfigFile(); err != nil || c.Architecture != p.Architecture {
			t.Errorf("%s: config %v, %v", p, c, err)
		}
	}
	if _, err := r.Image(t.Context(), v1.Platform{OS: "linux", Architecture: "riscv64"}); err == nil || !strings.Contains(err.Error(), "linux/arm64") {
		t.Errorf("a platform the index lacks: %v", err)
	}
	if root, err := r.Rootfs(t.Context(), arm64); err != nil || filepath.Ext(root.Path) != ".gz" || len(root.SHA256) != 64 {
		t.Errorf("rootfs: %v, %v", root, err)
	}

	// What was fetched once is there without the registry.
	before := asked.Load()
	again, err := Resolve(t.Context(), spec, opt)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Image(t.Context(), arm64); err != nil {
		t.Fatal(err)
	}
	if n := asked.Load() - before; n != 0 {
		t.Errorf("the registry was asked %d times for what is in the cache", n)
	}
}

func TestWrongContent(t *testing.T) {
	index := twoPlatforms(t)
	wanted := "sha256:" + strings.Repeat("12", 32)
	body, err := index.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	media, err := index.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		w.Header().Set("Content-Type", string(media))
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.Header().Set("Docker-Content-Digest", wanted)
		if r.Method == http.MethodGet {
			w.Write(body)
		}
	}))
	defer srv.Close()
	r, err := Resolve(t.Context(), Spec{Name: "alpine", Ref: strings.TrimPrefix(srv.URL, "http://") + "/library/alpine:3.22", Digest: wanted}, Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Image(t.Context(), amd64)
	real, _ := index.Digest()
	if !errors.Is(err, errWrong) || !strings.Contains(err.Error(), wanted) || !strings.Contains(err.Error(), real.String()) {
		t.Errorf("a registry that lies: %v", err)
	}
}

func TestErrors(t *testing.T) {
	host, digest, _ := serve(t, "library/alpine:3.22", twoPlatforms(t))
	dir := t.TempDir()
	text := filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(text, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spec Spec
		opt  Options
		want []string
	}{
		"nobody there": {Spec{Name: "alpine", Ref: "127.0.0.1:1/library/alpine:3.22", Digest: digest}, Options{},
			[]string{"127.0.0.1:1", "not reachable", "VMBUILD_MIRROR", "VMBUILD_STAND_IN"}},
		"not in the registry": {Spec{Name: "alpine", Ref: host + "/library/alpine:3.22", Digest: someDigest}, Options{},
			[]string{"does not have", someDigest}},
		"no pin":              {Spec{Name: "alpine", Ref: host + "/library/alpine:3.22"}, Options{}, []string{"no digest", "images.lock.yaml"}},
		"override is no base": {Spec{Name: "alpine"}, Options{Override: text}, []string{"notes.txt", "OCI layout"}},
		"override missing":    {Spec{Name: "alpine"}, Options{Override: "./gone.tar"}, []string{"gone.tar"}},
		"override no layout":  {Spec{Name: "alpine"}, Options{Override: dir}, []string{"no OCI layout"}},
		"override by halves":  {Spec{Name: "alpine"}, Options{Override: "linux/amd64=" + text + ",nothing"}, []string{"linux/amd64"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.opt.CacheDir = t.TempDir()
			_, err := Resolve(t.Context(), c.spec, c.opt)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q lacks %q", err, w)
				}
			}
		})
	}
}

// TestStandInOnlyWhereNobodyAnswers: any answer, and any mistake of the user's,
// is told instead of covered up by something else.
func TestStandInOnlyWhereNobodyAnswers(t *testing.T) {
	answering := func(status int) string {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v2/" {
				w.WriteHeader(status)
			}
		}))
		t.Cleanup(srv.Close)
		return strings.TrimPrefix(srv.URL, "http://")
	}
	liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		w.Header().Set("Content-Length", "2")
		w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("cd", 32))
	}))
	t.Cleanup(liar.Close)
	const alpine = "/library/alpine:3.22"
	for name, c := range map[string]struct {
		ref         string
		opt         Options
		unreachable bool
		want        string
	}{
		"nobody there":       {ref: "127.0.0.1:1" + alpine, unreachable: true, want: "not reachable"},
		"no such host":       {ref: "registry.invalid" + alpine, unreachable: true, want: "not reachable"},
		"offline":            {ref: "docker.io" + alpine, opt: Options{Offline: true}, unreachable: true, want: "VMBUILD_OFFLINE"},
		"not there":          {ref: answering(http.StatusNotFound) + alpine, want: "does not have"},
		"too many requests":  {ref: answering(http.StatusTooManyRequests) + alpine, want: "429"},
		"broken":             {ref: answering(http.StatusInternalServerError) + alpine, want: "500"},
		"wrong digest":       {ref: strings.TrimPrefix(liar.URL, "http://") + alpine, want: "not what is pinned"},
		"mirror lacks it":    {ref: "docker.io" + alpine, opt: Options{Mirror: answering(http.StatusNotFound)}, want: "does not have"},
		"override is gone":   {ref: "127.0.0.1:1" + alpine, opt: Options{Override: "/nope.tar"}, want: "/nope.tar"},
		"override elsewhere": {ref: "127.0.0.1:1" + alpine, opt: Options{Override: "127.0.0.1:1/mine:1"}, want: "not reachable"},
	} {
		t.Run(name, func(t *testing.T) {
			c.opt.CacheDir = t.TempDir()
			spec := Spec{Name: "alpine", Ref: c.ref, Digest: someDigest}
			_, err := Resolve(t.Context(), spec, c.opt)
			if errors.Is(err, ErrUnreachable) != c.unreachable || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("unreachable %v, want %v: %v", errors.Is(err, ErrUnreachable), c.unreachable, err)
			}
			spec.Bootstrap, c.opt.AllowStandIn = "debian:bookworm", true
			r, err := Resolve(t.Context(), spec, c.opt)
			if c.unreachable && (err != nil || r.How != Bootstrap) {
				t.Errorf("not bootstrapped: %v, %v", r, err)
			}
			if !c.unreachable && err == nil {
				t.Errorf("made by way of %s, as if nothing had happened", r.How)
			}
		})
	}
}

// TestKeptForEngine: what is kept is not asked of a registry that is not there,
// neither here nor by the engine.
func TestKeptForEngine(t *testing.T) {
	reg := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(reg)
	host := strings.TrimPrefix(srv.URL, "http://")
	ref, err := name.ParseReference(host + "/library/alpine:3.22")
	if err != nil {
		t.Fatal(err)
	}
	index := twoPlatforms(t)
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	spec := Spec{Name: "alpine", Ref: ref.Name(), Digest: digest.String()}
	opt := Options{CacheDir: t.TempDir()}
	find := func(opt Options) *Resolved {
		r, err := Resolve(t.Context(), spec, opt)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Rootfs(t.Context(), arm64); err != nil || r.How != Registry || !r.Published() {
			t.Fatalf("%+v: %v", r, err)
		}
		return r
	}
	for range 2 { // fetched, kept
		if r := find(opt); r.Ref != host+"/library/alpine@"+spec.Digest {
			t.Errorf("the engine gets %q", r.Ref)
		}
	}
	alone := opt
	alone.Offline = true
	if r := find(alone); r.Ref != "" {
		t.Errorf("offline, the engine asks for %s", r.Ref)
	}
	srv.Close()
	if r := find(opt); r.Ref != "" {
		t.Errorf("with the registry gone, the engine asks for %s", r.Ref)
	}
}

func TestPlainHTTPIsNotForTheEngine(t *testing.T) {
	for mirror, want := range map[string]bool{
		"http://registry.example:5000": false, "http://10.0.0.7:5000/hub": false, "https://registry.example/hub/": true, "registry.example": true,
		"http://localhost:5000": true, "http://127.0.0.1:5000": true, "http://[::1]:5000": true,
	} {
		refs, err := references("docker.io/library/alpine:3.22", someDigest, mirror)
		if err != nil {
			t.Fatal(err)
		}
		if got := forEngine(refs[0]); (got != "") != want {
			t.Errorf("%s: the engine gets %q", mirror, got)
		}
	}
}

func TestMirror(t *testing.T) {
	host, digest, asked := serve(t, "hub/library/alpine:3.22", twoPlatforms(t))
	r, err := Resolve(t.Context(), Spec{Name: "alpine", Ref: "docker.io/library/alpine:3.22", Digest: digest}, Options{CacheDir: t.TempDir(), Mirror: host + "/hub"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Image(t.Context(), arm64); err != nil {
		t.Fatal(err)
	}
	if r.Ref != host+"/hub/library/alpine@"+digest || asked.Load() == 0 {
		t.Errorf("ref %s after %d requests", r.Ref, asked.Load())
	}
	if r.Origin != "docker.io/library/alpine:3.22@"+digest {
		t.Errorf("origin depends on the mirror: %s", r.Origin)
	}
}

func TestOverrideLayout(t *testing.T) {
	index := twoPlatforms(t)
	dir := filepath.Join(t.TempDir(), "base")
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	other, err := random.Index(32, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	for tag, i := range map[string]v1.ImageIndex{"mine": index, "other": other} {
		if err := p.AppendIndex(i, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag})); err != nil {
			t.Fatal(err)
		}
	}
	opt := Options{CacheDir: t.TempDir(), Override: dir + ":mine"}
	r, err := Resolve(t.Context(), Spec{Name: "debian"}, opt)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := index.Digest()
	if r.How != Override || r.Digest != want.String() || r.Ref != "" || strings.Contains(r.Origin, dir) {
		t.Errorf("resolved to %+v", r)
	}
	img, err := r.Image(t.Context(), arm64)
	if err != nil {
		t.Fatal(err)
	}
	if c, _ := img.ConfigFile(); c.Architecture != "arm64" {
		t.Errorf("arm64 gives %s", c.Architecture)
	}
	opt.Override = dir + ":nothing"
	if _, err := Resolve(t.Context(), Spec{Name: "debian"}, opt); err == nil || !strings.Contains(err.Error(), "mine@sha256:") {
		t.Errorf("a reference the layout lacks: %v", err)
	}
}

func TestOverrideReference(t *testing.T) {
	index := twoPlatforms(t)
	host, digest, _ := serve(t, "team/base:1", index)
	r, err := Resolve(t.Context(), Spec{Name: "debian"}, Options{CacheDir: t.TempDir(), Override: host + "/team/base:1"})
	if err != nil {
		t.Fatal(err)
	}
	if r.Ref != host+"/team/base@"+digest || r.How != Override {
		t.Errorf("resolved to %+v", r)
	}
	if _, err := r.Image(t.Context(), amd64); err != nil {
		t.Error(err)
	}
}

// program is the head of an ELF file for a machine.
func program(machine byte) string {
	b := make([]byte, 64)
	copy(b, "\x7fELF\x02\x01\x01")
	b[18] = machine
	return string(b)
}

const (
	x86  = 0x3e
	arm8 = 0xb7
)

func rootTar(t *testing.T, members ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range members {
		data := h.Uname // carries the content in these tests
		h.Uname, h.Size = "", int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t *testing.T, b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstandard(t *testing.T, b []byte) []byte {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return z.EncodeAll(b, nil)
}

func TestOverrideTarball(t *testing.T) {
	plain := rootTar(t, tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./usr/bin/sh", Typeflag: tar.TypeReg, Mode: 0o755, Uname: program(arm8)},
		tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
		tar.Header{Name: "./bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin"})
	var digests []string
	for name, data := range map[string][]byte{"r.tar": plain, "r.tar.gz": gzipped(t, plain), "r.tar.zst": zstandard(t, plain)} {
		dir := t.TempDir()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		r, err := Resolve(t.Context(), Spec{Name: "debian"}, Options{CacheDir: t.TempDir(), Override: file})
		if err != nil {
			t.Fatal(err)
		}
		img, err := r.Image(t.Context(), arm64)
		if err != nil {
			t.Fatal(name, err)
		}
		files := contentsOf(t, img)
		if _, ok := files["dev/null"]; ok || files["bin"] != "-> usr/bin" || files["usr/bin/sh"] != program(arm8) {
			t.Errorf("%s: %q", name, files)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d.String())
		if _, err := r.Image(t.Context(), amd64); !errors.Is(err, errWrong) || !strings.Contains(err.Error(), "linux/amd64=") {
			t.Errorf("%s for the wrong platform: %v", name, err)
		}
	}
	if len(slices.Compact(digests)) != 1 {
		t.Errorf("the same root packed differently gives %v", digests)
	}
}

func TestOverridePerPlatform(t *testing.T) {
	dir := t.TempDir()
	for name, machine := range map[string]byte{"a.tar": x86, "b.tar": arm8} {
		data := rootTar(t, tar.Header{Name: "bin/sh", Typeflag: tar.TypeReg, Mode: 0o755, Uname: program(machine)})
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Resolve(t.Context(), Spec{Name: "debian"}, Options{CacheDir: t.TempDir(),
		Override: "linux/amd64=" + filepath.Join(dir, "a.tar") + ",linux/arm64=" + filepath.Join(dir, "b.tar")})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []v1.Platform{amd64, arm64} {
		if _, err := r.Image(t.Context(), p); err != nil {
			t.Error(err)
		}
	}
	if strings.Contains(r.Origin, dir) {
		t.Errorf("origin names a host path: %s", r.Origin)
	}
}

func TestHostileTarball(t *testing.T) {
	for name, h := range map[string]tar.Header{
		"climbs":           {Name: "../../etc/passwd", Typeflag: tar.TypeReg},
		"climbs inside":    {Name: "usr/../../x", Typeflag: tar.TypeReg},
		"hard link climbs": {Name: "x", Typeflag: tar.TypeLink, Linkname: "../../etc/shadow"},
	} {
		t.Run(name, func(t *testing.T) {
			cache := t.TempDir()
			file := filepath.Join(t.TempDir(), "r.tar")
			if err := os.WriteFile(file, rootTar(t, tar.Header{Name: "ok", Typeflag: tar.TypeReg}, h), 0o644); err != nil {
				t.Fatal(err)
			}
			r, err := Resolve(t.Context(), Spec{Name: "debian"}, Options{CacheDir: cache, Override: file})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Rootfs(t.Context(), amd64); err == nil || !strings.Contains(err.Error(), "leads out") {
				t.Errorf("got %v", err)
			}
			left, _ := filepath.Glob(filepath.Join(cache, "bases", "rootfs", "*"))
			left = slices.DeleteFunc(left, func(f string) bool { return strings.HasSuffix(f, ".lock") })
			if len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestAptSources(t *testing.T) {
	write := func(files map[string]string) string {
		dir := t.TempDir()
		for name, text := range files {
			file := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	dir := write(map[string]string{
		"sources.list":                "# deb http://x/debian bookworm main\ndeb [arch=amd64 signed-by=/k] http://mirror.example/debian/ bookworm main contrib\ndeb-src http://mirror.example/debian bookworm main\ndeb cdrom:[x]/ bookworm main\n",
		"sources.list.d/google.list":  "deb https://packages.cloud.google.com/apt cloud-sdk-bookworm main\n",
		"sources.list.d/docker.list":  "deb https://download.docker.com/linux/debian bookworm stable\n",
		"sources.list.d/node.sources": "Types: deb\nURIs: https://deb.nodesource.com/node_20.x\nSuites: nodistro\nComponents: main\n",
		"sources.list.d/debian.sources": "Types: deb deb-src\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm-updates\n trixie\nComponents: main\n\n" +
			"Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\n\n" +
			"Enabled: no\nTypes: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\nComponents: main\n",
	})
	want := []string{"deb http://mirror.example/debian/ bookworm main", "deb http://mirror.example/debian bookworm-updates main",
		"deb http://mirror.example/debian-security bookworm-security main"}
	if got := aptSources(dir, "bookworm"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := aptSources(dir, "sid"); len(got) != 3 || !strings.Contains(got[0], "http://deb.debian.org/debian sid main") {
		t.Errorf("a suite this machine does not use: %q", got)
	}
}
