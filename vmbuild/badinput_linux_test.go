package vmbuild_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"pharovm/vmbuild"
)

// TestBadSources gives sources that cannot be had or are not what they should be.
func TestBadSources(t *testing.T) {
	whole := tarball(t, "../testdata/sample")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, ".tar.gz") {
			http.NotFound(w, r)
			return
		}
		w.Write(whole)
	}))
	t.Cleanup(server.Close)
	p, intact := published(t, "..")
	short := filepath.Join(t.TempDir(), "short.tar.gz")
	if err := os.WriteFile(short, whole[:len(whole)/2], 0o644); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		source    string
		git, from string // in the catalogue
		words     []string
	}{
		"cut short":      {source: short, words: []string{short, "cut short", "fetch it again"}},
		"another tree":   {source: server.URL + "/x.tar.gz", words: []string{"not a VM source tree", "sqMain.c", "-source"}},
		"not reachable":  {git: "http://127.0.0.1:1/vm.git", from: "http://127.0.0.1:1/{commit}.tar.gz", words: []string{"opensmalltalk", "127.0.0.1:1", "refused", "-source=DIR"}},
		"wrong checksum": {git: server.URL + "/vm.git", from: server.URL + "/{commit}.tar.gz", words: []string{"wrong checksum", server.URL, "c2e3bac469f18b31bd832a6bc731f090ba93c0e9"}},
		"no such URL":    {source: "http://127.0.0.1:1/vm.git#main", words: []string{`"main"`, "127.0.0.1", "-source=DIR"}},
	} {
		t.Run(what, func(t *testing.T) {
			p := p
			if c.git != "" {
				dir := catalogue(t)
				edit(t, filepath.Join(dir, "sources/opensmalltalk.yaml"), `(?m)^git: .*`, "git: "+c.git)
				edit(t, filepath.Join(dir, "sources/opensmalltalk.yaml"), `(?m)^archive: .*`, "archive: "+c.from)
				other := project(t, dir)
				other.Dist = p.Dist
				p = other
			}
			o := small()
			o.Source = c.source
			_, err := p.Build(t.Context(), o)
			says(t, err, c.words...)
			intact(t)
		})
	}
}

func tarball(t *testing.T, dir string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestBadBases cannot have the pinned base of an image, or is given another.
func TestBadBases(t *testing.T) {
	p, intact := published(t, "..")
	t.Run("no registry", func(t *testing.T) {
		o := small()
		o.Images, o.StandIn = []string{"alpine"}, false
		_, err := p.Build(t.Context(), o)
		says(t, err, "image alpine", "VMBUILD_OFFLINE", "VMBUILD_MIRROR=HOST", "VMBUILD_BASE_ALPINE=", "VMBUILD_STAND_IN=1")
		intact(t)
	})
	// No base but the one of the mirror is looked for anywhere.
	unreachable := func(t *testing.T, but string) *vmbuild.Project {
		dir := catalogue(t)
		lock := filepath.Join(dir, "images/images.lock.yaml")
		for _, base := range []string{"alpine", "debian", "debian-slim"} {
			if base != but {
				edit(t, lock, `(?m)^(  `+base+`: \{ref: ")docker.io/`, "${1}127.0.0.1:1/")
			}
		}
		other := project(t, dir)
		other.Dist = p.Dist
		return other
	}
	t.Run("not reachable", func(t *testing.T) {
		p := unreachable(t, "")
		o := small()
		o.Images, o.StandIn, o.Offline = []string{"alpine"}, false, false
		_, err := p.Build(t.Context(), o)
		says(t, err, "image alpine", "127.0.0.1:1 is not reachable (connection refused)", "VMBUILD_MIRROR=HOST", "VMBUILD_BASE_ALPINE=")
		intact(t)
	})
	t.Run("wrong digest", func(t *testing.T) {
		p := unreachable(t, "debian-slim")
		host, pinned := liar(t, p.Catalog.Bases["debian-slim"].Digest, "library/debian")
		t.Setenv("VMBUILD_MIRROR", "http://"+host)
		o := small()
		o.Images, o.Offline = []string{"debian"}, false
		_, err := p.Build(t.Context(), o)
		says(t, err, "debian", host, pinned, "not what is pinned", "VMBUILD_BASE_DEBIAN_SLIM")
		intact(t)
	})
	t.Run("wrong digest for a builder", func(t *testing.T) {
		p := unreachable(t, "alpine")
		host, pinned := liar(t, p.Catalog.Bases["alpine"].Digest, "library/alpine")
		t.Setenv("VMBUILD_MIRROR", "http://"+host)
		o := small()
		o.Offline = false
		_, err := p.Build(t.Context(), o)
		says(t, err, "alpine", host, pinned, "VMBUILD_BASE_ALPINE")
		intact(t)
	})
}

// liar is a registry that has something else under a digest.
func liar(t *testing.T, digest, repository string) (host, pinned string) {
	t.Helper()
	real := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	index, err := random.Index(100, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	other, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, digest) {
			r.URL.Path = strings.TrimSuffix(r.URL.Path, digest) + other.String()
			if r.Method == http.MethodHead {
				w.Header().Set("Docker-Content-Digest", digest)
			}
			w = &pretending{w, digest}
		}
		real.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	host = strings.TrimPrefix(server.URL, "http://")
	ref, err := name.ParseReference(host+"/"+repository+"@"+other.String(), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	return host, digest
}

// pretending says of every answer that it has the digest asked for.
type pretending struct {
	http.ResponseWriter
	digest string
}

func (p *pretending) WriteHeader(code int) {
	p.Header().Set("Docker-Content-Digest", p.digest)
	p.ResponseWriter.WriteHeader(code)
}

// TestBadPatch adds a patch that does not fit.
func TestBadPatch(t *testing.T) {
	dir := catalogue(t)
	patch := "--- a/vm/heartbeat.c\n+++ b/vm/heartbeat.c\n@@ -1,3 +1,3 @@\n /* nothing like this */\n-int was_here;\n+int is_here;\n \n"
	if err := os.WriteFile(filepath.Join(dir, "patches/sample/0009-bad.patch"), []byte(patch), 0o644); err != nil {
		t.Fatal(err)
	}
	edit(t, filepath.Join(dir, "patches/sample/series.yaml"), `\z`,
		"  - file: 0009-bad.patch\n    title: A patch that does not fit\n    why: to see what is said\n    versions: \">= 1.0\"\n")
	p, intact := published(t, "..")
	other := project(t, dir)
	other.Dist = p.Dist
	_, err := other.Build(t.Context(), small())
	says(t, err, "patches/sample/0009-bad.patch:3 does not apply", "vm/heartbeat.c", "-int was_here;", "+int is_here;", "mend the hunk")
	intact(t)
}

// TestBrokenCode breaks a C file: the compiler's own words are in the error.
func TestBrokenCode(t *testing.T) {
	p, intact := published(t, "..")
	dir := sampleTree(t)
	edit(t, filepath.Join(dir, "vm/main.c"), `\z`, "\nint broken(void) { return no_such_variable; }\n")
	o := small()
	o.Source = dir
	_, err := p.Build(t.Context(), o)
	log := filepath.Join(p.Dist, "build.log")
	says(t, err, "build sample-server-musl-linux-amd64: step", "exit code", "vm/main.c:", "no_such_variable", log)
	if data, err := os.ReadFile(log); err != nil || !bytes.Contains(data, []byte("no_such_variable")) {
		t.Errorf("the log does not have it: %v", err)
	}
	intact(t)
}
