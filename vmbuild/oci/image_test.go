package oci

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

var epoch = time.Date(2021, 3, 25, 10, 10, 8, 0, time.UTC)

func platform(t *testing.T, s string) v1.Platform {
	t.Helper()
	p, err := ParsePlatform(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func vmFiles() []File {
	return []File{
		{Path: "/opt/pharo/pharo", Data: []byte("#!vm\n"), Mode: 0o755},
		{Path: "/opt/pharo/SqueakSSL.so", Data: []byte("ssl"), Mode: 0o644},
		{Path: "/pharo", Dir: true, UID: 65532, GID: 65532},
		{Path: "/tmp", Dir: true, Mode: 0o777 | fs.ModeSticky},
		{Path: "/usr/bin/pharo", Link: "../../opt/pharo/pharo"},
	}
}

func mustLayer(t *testing.T, files []File) v1.Layer {
	t.Helper()
	l, err := Layer(files, epoch)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustImage(t *testing.T, plat string, change ...func(*Spec)) v1.Image {
	t.Helper()
	spec := Spec{
		Platform: platform(t, plat), Created: epoch,
		Layers: []LayerSpec{{mustLayer(t, vmFiles()), "pharo vm"}},
		User:   "65532:65532", Entrypoint: []string{"/opt/pharo/pharo"}, WorkingDir: "/pharo",
		Env: []string{"LANG=C.UTF-8"}, Ports: []string{"8080/tcp"}, Labels: map[string]string{"formats": "68021"},
		Annotations: Meta{Title: "Pharo VM", Version: "1", Created: epoch}.Annotations(),
	}
	for _, c := range change {
		c(&spec)
	}
	img, err := Image(spec)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func digest(t *testing.T, o interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	h, err := o.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

// These digests are what users pin. They may only change together with what
// goes into an image; a new Go release or a rebuild must not change them.
func TestSameInputsGiveTheKnownDigest(t *testing.T) {
	files := vmFiles()
	slices.Reverse(files)
	reordered := func(s *Spec) { s.Layers = []LayerSpec{{mustLayer(t, files), "pharo vm"}} }
	images := map[string][2]v1.Image{}
	for _, plat := range []string{"linux/amd64", "linux/arm64"} {
		images[plat] = [2]v1.Image{mustImage(t, plat), mustImage(t, plat, reordered)}
	}
	var indexes [2]string
	for i := range indexes {
		pair := []v1.Image{images["linux/amd64"][i], images["linux/arm64"][i]}
		if i == 1 {
			slices.Reverse(pair)
		}
		idx, err := Index(pair, Meta{Title: "Pharo VM"}.Annotations())
		if err != nil {
			t.Fatal(err)
		}
		indexes[i] = digest(t, idx)
	}
	for i := range 2 {
		got := fmt.Sprintln(digest(t, images["linux/amd64"][i]), digest(t, images["linux/arm64"][i]), indexes[i])
		want, err := os.ReadFile("testdata/digests.txt")
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("order %d: digests\n%s, testdata/digests.txt has\n%s", i, got, want)
		}
	}
}

func TestLayerEntries(t *testing.T) {
	r, err := mustLayer(t, vmFiles()).Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(epoch) || h.Format != tar.FormatUSTAR || h.Uname != "" || h.Gname != "" {
			t.Errorf("%s: time %v, format %v, owner %q:%q", h.Name, h.ModTime, h.Format, h.Uname, h.Gname)
		}
		got = append(got, fmt.Sprintf("%c %04o %d:%d %s %s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Name, h.Linkname))
	}
	want := []string{
		"5 0755 0:0 opt/ ",
		"5 0755 0:0 opt/pharo/ ",
		"0 0644 0:0 opt/pharo/SqueakSSL.so ",
		"0 0755 0:0 opt/pharo/pharo ",
		"5 0755 65532:65532 pharo/ ",
		"5 1777 0:0 tmp/ ",
		"5 0755 0:0 usr/ ",
		"5 0755 0:0 usr/bin/ ",
		"2 0777 0:0 usr/bin/pharo ../../opt/pharo/pharo",
	}
	if !slices.Equal(got, want) {
		t.Errorf("entries\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestLayerRefuses(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/etc/passwd", link); err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string][]File{
		"relative":           {{Path: "opt/pharo"}},
		"climbing":           {{Path: "/opt/../../etc/passwd"}},
		"unclean":            {{Path: "/opt//pharo"}},
		"backslash":          {{Path: `/opt\..\x`}},
		"root":               {{Path: "/", Dir: true}},
		"twice":              {{Path: "/a"}, {Path: "/a", Dir: true}},
		"below a link":       {{Path: "/a", Link: "/etc"}, {Path: "/a/passwd"}},
		"below a file":       {{Path: "/a"}, {Path: "/a/b"}},
		"link leaving":       {{Path: "/a/b", Link: "../../etc"}},
		"link leaving twice": {{Path: "/a/b/c", Link: "x/../../../../etc"}},
		"whiteout":           {{Path: "/etc/.wh.passwd"}},
		"setuid":             {{Path: "/a", Mode: 0o755 | fs.ModeSetuid}},
		"two kinds":          {{Path: "/a", Dir: true, Link: "/b"}},
		"host link":          {{Path: "/a", Source: link}},
		"host folder":        {{Path: "/a", Source: dir}},
		"no source":          {{Path: "/a", Source: filepath.Join(dir, "gone")}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Layer(files, epoch); err == nil {
				t.Error("taken, want an error")
			}
		})
	}
}

func TestTreeLeavesTheHostBehind(t *testing.T) {
	var layers [2]v1.Layer
	for i := range layers {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "lib"), []fs.FileMode{0o700, 0o755}[i]); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "lib", "pharo"), []byte("vm"), []fs.FileMode{0o600, 0o775}[i]); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("lib/pharo", filepath.Join(dir, "pharo")); err != nil {
			t.Fatal(err)
		}
		files, err := Tree(dir, "/opt", 1, 2, func(name string) bool { return name == "lib/pharo" })
		if err != nil {
			t.Fatal(err)
		}
		if f := files[1]; f.Path != "/opt/lib/pharo" || f.Mode != 0o755 {
			t.Errorf("got %+v", f)
		}
		layers[i] = mustLayer(t, files)
	}
	if a, b := digest(t, layers[0]), digest(t, layers[1]); a != b {
		t.Errorf("the same tree under other umasks gives %s and %s", a, b)
	}
}

// dockerBase is what a registry with Docker media types would give.
func dockerBase(t *testing.T, arch string) v1.Image {
	t.Helper()
	img, err := random.Image(1000, 2, random.WithSource(detRand{}))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", arch
	cfg.Config.Env = []string{"PATH=/usr/bin", "LANG=C"}
	cfg.Config.Cmd = []string{"/bin/sh"}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

type detRand struct{}

func (detRand) Int63() int64 { return 42 }
func (detRand) Seed(int64)   {}

func TestImageOnADockerBase(t *testing.T) {
	base := dockerBase(t, "amd64")
	img := mustImage(t, "linux/amd64", func(s *Spec) { s.Base = base })
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if m.MediaType != types.OCIManifestSchema1 || m.Config.MediaType != types.OCIConfigJSON {
		t.Errorf("manifest %s, config %s: want OCI types", m.MediaType, m.Config.MediaType)
	}
	baseLayers, err := base.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Layers) != 3 {
		t.Fatalf("%d layers, want 3", len(m.Layers))
	}
	for i, l := range m.Layers {
		if l.MediaType != types.OCILayer {
			t.Errorf("layer %d is %s", i, l.MediaType)
		}
		if i < 2 && l.Digest.String() != digest(t, baseLayers[i]) {
			t.Errorf("base layer %d changed its digest: it would be stored and pulled twice", i)
		}
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cfg.Config.Env, []string{"PATH=/usr/bin", "LANG=C.UTF-8"}) {
		t.Errorf("environment %q", cfg.Config.Env)
	}
	if cfg.Config.Cmd != nil || !slices.Equal(cfg.Config.Entrypoint, []string{"/opt/pharo/pharo"}) || cfg.Config.User != "65532:65532" {
		t.Errorf("command %q, entrypoint %q, user %q", cfg.Config.Cmd, cfg.Config.Entrypoint, cfg.Config.User)
	}
	if !cfg.Created.Equal(epoch) || len(cfg.RootFS.DiffIDs) != 3 || cfg.History[len(cfg.History)-1].CreatedBy != "pharo vm" {
		t.Errorf("created %v, %d diff IDs, history %v", cfg.Created, len(cfg.RootFS.DiffIDs), cfg.History)
	}
	if _, err := Image(Spec{Base: dockerBase(t, "arm64"), Platform: platform(t, "linux/amd64")}); err == nil {
		t.Error("an arm64 base was taken for an amd64 image")
	}
}

func TestFoldersDoNotReplaceLinksOfTheBase(t *testing.T) {
	merged := mustImage(t, "linux/amd64", func(s *Spec) {
		s.Layers = []LayerSpec{{mustLayer(t, []File{{Path: "/lib", Link: "usr/lib"}}), "merged /usr"}}
	})
	split := mustImage(t, "linux/amd64", func(s *Spec) {
		s.Layers = []LayerSpec{{mustLayer(t, []File{{Path: "/lib", Dir: true}}), "split /usr"}}
	})
	over := func(base v1.Image) error {
		_, err := Image(Spec{Base: base, Platform: platform(t, "linux/amd64"),
			Layers: []LayerSpec{{mustLayer(t, []File{{Path: "/lib/libssl.so.3"}}), "tls"}}})
		return err
	}
	if err := over(merged); err == nil || !strings.Contains(err.Error(), "usr/lib") {
		t.Errorf("files below a linked /lib give %v", err)
	}
	if err := over(split); err != nil {
		t.Error(err)
	}
}

func TestIndexTakesEachPlatformOnce(t *testing.T) {
	img := mustImage(t, "linux/amd64")
	if _, err := Index([]v1.Image{img, img}, nil); err == nil {
		t.Error("two images for one platform were taken")
	}
}

func TestPushAndPull(t *testing.T) {
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	l := Open(filepath.Join(t.TempDir(), "oci"))
	for _, plat := range []string{"linux/arm64", "linux/amd64"} {
		base := dockerBase(t, strings.TrimPrefix(plat, "linux/"))
		if _, err := l.PutImage(t.Context(), "alpine", mustImage(t, plat, func(s *Spec) { s.Base = base })); err != nil {
			t.Fatal(err)
		}
	}
	e, err := l.Join(t.Context(), "alpine", nil)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := l.Index("alpine")
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(strings.TrimPrefix(srv.URL, "http://") + "/pharo-vm:alpine")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, idx); err != nil {
		t.Fatal(err)
	}
	got, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	if digest(t, got) != e.Digest.String() {
		t.Errorf("pulled %s, layout has %s", digest(t, got), e.Digest)
	}
	for _, want := range []v1.Platform{
		{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}, {OS: "linux", Architecture: "arm64", Variant: "v8"},
	} {
		img, err := remote.Image(ref, remote.WithPlatform(want))
		if err != nil {
			t.Errorf("pulling for %s: %v", want, err)
			continue
		}
		cfg, err := img.ConfigFile()
		if err != nil || cfg.Architecture != want.Architecture {
			t.Errorf("pulling for %s gave %s (%v)", want, cfg.Architecture, err)
		}
	}
}
