package vmbuild

import (
	"archive/tar"
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"pharovm/vmbuild/base"
	"pharovm/vmbuild/plan"
)

// alone is a project whose bases' registry is host; nobody listens at :1.
func alone(t *testing.T, host string) *Project {
	t.Helper()
	p, err := Open("..", t.Output())
	if err != nil {
		t.Fatal(err)
	}
	p.Cache, p.Dist = t.TempDir(), t.TempDir()
	for _, b := range p.Catalog.Bases {
		b.Ref = strings.Replace(b.Ref, "docker.io", host, 1)
	}
	return p
}

const nobody = "127.0.0.1:1"

func sampleOf(images ...string) Options {
	return Options{Source: "sample", Images: images, Progress: "quiet"}
}

// find looks for the bases of a request.
func find(t *testing.T, p *Project, o Options) (*plan.Plan, error) {
	t.Helper()
	o = o.withDefaults()
	at, err := p.locate(o)
	if err != nil {
		t.Fatal(err)
	}
	replan := func(b bases) (*plan.Plan, error) {
		return plan.New(p.Catalog, plan.Request{Images: o.Images, Source: at.source.Name.Value, Profile: o.Profile},
			plan.Facts{Source: plan.Source{Version: "1", Release: "1"}, Missing: b.missing, Bases: b.used})
	}
	pl, _, err := p.findBases(t.Context(), o, replan)
	return pl, err
}

func TestBuilderStandsInOnlyWhereNobodyAnswers(t *testing.T) {
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}))
	defer busy.Close()
	pl, err := find(t, alone(t, nobody), sampleOf("scratch"))
	if err != nil || len(pl.Builders) != 1 || pl.Builders[0].Name != "debian" || !strings.Contains(pl.Builders[0].Why, "not reachable") {
		t.Errorf("nobody there: %+v, %v", pl, err)
	}
	if _, err := find(t, alone(t, strings.TrimPrefix(busy.URL, "http://")), sampleOf("scratch")); err == nil || !strings.Contains(err.Error(), "429") {
		t.Errorf("too many requests: %v", err)
	}
	t.Setenv("VMBUILD_BASE_ALPINE", "/nope.tar")
	if _, err := find(t, alone(t, nobody), sampleOf("scratch")); err == nil || !strings.Contains(err.Error(), "/nope.tar") {
		t.Errorf("a mistyped override: %v", err)
	}
}

// TestKeptForAnotherPlatform: an image that is kept without this machine's
// platform is no builder once its registry is gone.
func TestKeptForAnotherPlatform(t *testing.T) {
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	p := alone(t, host)
	alpine := p.Catalog.Bases["alpine"]
	index := v1.ImageIndex(empty.Index)
	other := map[string]string{"amd64": "arm64"}[runtime.GOARCH]
	if other == "" {
		other = "amd64"
	}
	for _, arch := range []string{runtime.GOARCH, other} {
		img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: arch})
		if err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	ref, err := name.ParseReference(alpine.Ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	alpine.Digest = digest.String()
	for _, c := range []struct{ keep, builder string }{{other, "debian"}, {runtime.GOARCH, "alpine"}} {
		r, err := p.resolveBase(t.Context(), Options{}, "alpine", false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Image(t.Context(), v1.Platform{OS: "linux", Architecture: c.keep}); err != nil {
			t.Fatal(err)
		}
		o := sampleOf("scratch")
		o.Offline = true
		if pl, err := find(t, p, o); err != nil || pl.Builders[0].Name != c.builder {
			t.Errorf("with the image for %s kept: %v, %v", c.keep, pl, err)
		}
	}
}

// TestReach: what one run finds out of some bases stays known after a run that
// has no use for them, and what the user names is no finding.
func TestReach(t *testing.T) {
	p := alone(t, nobody)
	if _, err := find(t, p, sampleOf("scratch")); err != nil {
		t.Fatal(err)
	}
	if _, err := find(t, p, sampleOf("debian")); err != nil {
		t.Fatal(err)
	}
	known := p.knownBases(t.Context(), Options{})
	if !strings.Contains(known.missing["alpine"], "(when last tried)") || !strings.Contains(known.used["debian-slim"], "bootstrapped") {
		t.Errorf("known is %+v", known)
	}
	file := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(file, rootTarball(t), 0o644); err != nil {
		t.Fatal(err)
	}
	o := sampleOf("debian")
	o.Bases = map[string]string{"debian": file, "debian-slim": file}
	if _, err := find(t, p, o); err != nil {
		t.Fatal(err)
	}
	if again := p.knownBases(t.Context(), Options{}); again.used["debian-slim"] != known.used["debian-slim"] || again.used["debian"] != known.used["debian"] {
		t.Errorf("after a run with overrides, known is %+v", again)
	}
	if given := p.knownBases(t.Context(), o); given.used["debian"] != file {
		t.Errorf("a plan with overrides uses %q", given.used["debian"])
	}
}

// TestPlanOffline says what a build without registries would do.
func TestPlanOffline(t *testing.T) {
	p := alone(t, "docker.io")
	o := sampleOf("scratch")
	o.Offline = true
	pl, err := p.Plan(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(pl.Builders) != 1 || pl.Builders[0].Name != "debian" || !strings.Contains(pl.Builders[0].Why, "VMBUILD_OFFLINE") {
		t.Errorf("builders %+v", pl.Builders)
	}
	o.Bases = map[string]string{"alpine": "some.tar"}
	if pl, err = p.Plan(t.Context(), o); err != nil || pl.Builders[0].Name != "alpine" {
		t.Errorf("with an override: %+v, %v", pl, err)
	}
}

func rootTarball(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	const users = "root:x:0:0:root:/root:/bin/sh\n"
	if err := w.WriteHeader(&tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(users))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, users); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestWhatAnImageStandsOn: a base that a registry has is named as one, and any
// other is told in words where no program reads them as a reference.
func TestWhatAnImageStandsOn(t *testing.T) {
	p := alone(t, nobody)
	tree := t.TempDir()
	if err := os.Mkdir(filepath.Join(tree, "vm"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "vm", "pharo"), []byte("a VM"), 0o755); err != nil {
		t.Fatal(err)
	}
	local := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(local, rootTarball(t), 0o644); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	published, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(strings.TrimPrefix(srv.URL, "http://") + "/mine:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, published); err != nil {
		t.Fatal(err)
	}
	digest, err := published.Digest()
	if err != nil {
		t.Fatal(err)
	}
	const pinned = "docker.io/library/debian:12-slim"
	for override, want := range map[string]struct{ name, digest, label string }{
		ref.Name(): {ref.Context().Name() + "@" + digest.String(), digest.String(), ""},
		local:      {"", "", "a root file system given in its place"},
	} {
		found, err := base.Resolve(t.Context(), base.Spec{Name: "debian-slim"}, base.Options{CacheDir: p.Cache, Override: override})
		if err != nil {
			t.Fatal(err)
		}
		spec := plan.Image{ID: "x", Name: "debian", Platform: "linux/amd64", Build: "b", User: "65532:65532", Entrypoint: []string{plan.VMDir + "/pharo"},
			WorkingDir: "/pharo", UPX: "none", Base: &plan.Base{Name: "debian-slim"},
			Labels: map[string]string{"some": "label"}, Annotations: map[string]string{baseName: pinned}}
		r := &Result{Plan: &plan.Plan{}, Builds: []Built{{Build: plan.Build{ID: "b"}, Tree: tree}}}
		m, err := p.assemble(t.Context(), r, spec, bases{found: map[string]*base.Resolved{"image debian-slim": found}}, nil, time.Unix(315532800, 0).UTC())
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := m.image.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		config, err := m.image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		a, label := manifest.Annotations, config.Config.Labels[baseLabel]
		if a[baseName] != want.name || a[baseDigest] != want.digest || !strings.HasPrefix(label, want.label) || (label == "") != (want.label == "") {
			t.Errorf("%s: annotations %v, label %q", override, a, label)
		}
		if spec.Annotations[baseName] != pinned || len(spec.Labels) != 1 {
			t.Error("the plan was changed")
		}
	}
}
