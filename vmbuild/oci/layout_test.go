package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"
)

func rawLayer(t *testing.T, tarData string) v1.Layer {
	t.Helper()
	packed, err := Packer{}.compress([]byte(tarData))
	if err != nil {
		t.Fatal(err)
	}
	l := &layer{data: packed}
	l.diffID, _, _ = v1.SHA256(strings.NewReader(tarData))
	l.digest, l.size, _ = v1.SHA256(bytes.NewReader(packed))
	return l
}

func put(t *testing.T, l *Layout, image, plat string, change ...func(*Spec)) Entry {
	t.Helper()
	e, err := l.PutImage(t.Context(), image, mustImage(t, plat, change...))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// check validates everything a layout holds the way other tools would read it.
func check(t *testing.T, dir string) {
	t.Helper()
	idx, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(idx); err != nil {
		t.Error(err)
	}
}

func TestLayoutReplacesJoinsAndCollects(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dist", "oci")
	l := Open(dir)
	if entries, err := l.List(); err != nil || len(entries) != 0 {
		t.Fatalf("a layout that does not exist has %v, %v", entries, err)
	}
	old := put(t, l, "alpine", "linux/amd64")
	put(t, l, "alpine", "linux/arm64")
	put(t, l, "debian", "linux/amd64", func(s *Spec) { s.Env = []string{"DEBIAN=1"} })
	put(t, l, "alpine", "linux/amd64", func(s *Spec) { s.Env = []string{"NEW=1"} })
	if _, err := l.Join(t.Context(), "alpine", nil); err != nil {
		t.Fatal(err)
	}
	check(t, dir)
	entries, err := l.List()
	if err != nil {
		t.Fatal(err)
	}
	var refs []string
	for _, e := range entries {
		refs = append(refs, e.Ref)
	}
	if want := []string{"alpine", "alpine-linux-amd64", "alpine-linux-arm64", "debian-linux-amd64"}; !slices.Equal(refs, want) {
		t.Errorf("entries %v, want %v", refs, want)
	}
	idx, err := l.Index("alpine")
	if err != nil {
		t.Fatal(err)
	}
	m, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, d := range m.Manifests {
		platforms = append(platforms, d.Platform.String())
	}
	if want := []string{"linux/amd64", "linux/arm64/v8"}; !slices.Equal(platforms, want) {
		t.Errorf("index of %v, want %v", platforms, want)
	}
	if m.Annotations["org.opencontainers.image.title"] != "Pharo VM" {
		t.Errorf("index annotations %v: want those the images share", m.Annotations)
	}
	if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", ".tmp-1"), []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	if freed, err := l.GC(t.Context()); err != nil || freed == 0 {
		t.Fatalf("GC freed %d, %v", freed, err)
	}
	if _, err := os.Stat(l.blob(old.Digest)); !os.IsNotExist(err) {
		t.Error("the replaced image is still there")
	}
	left, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		if strings.HasPrefix(f.Name(), ".") {
			t.Errorf("%s was left", f.Name())
		}
	}
	check(t, dir)
	if _, err := l.Join(t.Context(), "scratch", nil); err == nil || !strings.Contains(err.Error(), "vm:scratch") {
		t.Errorf("joining what is not there gives %v", err)
	}
}

// broken is a layer whose bytes end early or are not what they should be.
type broken struct {
	v1.Layer
	r func() io.Reader
}

func (b broken) Compressed() (io.ReadCloser, error) { return io.NopCloser(b.r()), nil }

func TestInterruptionLeavesTheLayoutAsItWas(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "oci")
	l := Open(dir)
	put(t, l, "alpine", "linux/amd64")
	before, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	bad := errors.New("disk full")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		ctx context.Context
		r   io.Reader
	}{
		"write fails":   {t.Context(), io.MultiReader(strings.NewReader("half"), failing{bad})},
		"wrong bytes":   {t.Context(), strings.NewReader("something else")},
		"ends early":    {t.Context(), strings.NewReader("")},
		"cancelled":     {cancelled, strings.NewReader("")},
		"cut by Ctrl-C": {cutting(t), strings.NewReader("half")},
	} {
		t.Run(name, func(t *testing.T) {
			inner := mustLayer(t, []File{{Path: "/new", Data: []byte(name)}})
			img := mustImage(t, "linux/amd64", func(s *Spec) {
				s.Layers = []LayerSpec{{broken{inner, func() io.Reader { return test.r }}, "new"}}
			})
			if _, err := l.PutImage(test.ctx, "alpine", img); err == nil {
				t.Fatal("a broken layer was written")
			}
			after, err := os.ReadFile(filepath.Join(dir, "index.json"))
			if err != nil || !bytes.Equal(before, after) {
				t.Errorf("index.json changed (%v)", err)
			}
			names, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", ".tmp-*"))
			if err != nil || len(names) > 0 {
				t.Errorf("left %v (%v)", names, err)
			}
			check(t, dir)
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// cutting is a context that is done once its error was asked for a few times.
func cutting(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	return &cutContext{Context: ctx}
}

type cutContext struct {
	context.Context
	asked int
}

func (c *cutContext) Err() error {
	if c.asked++; c.asked > 3 {
		return context.Canceled
	}
	return nil
}

func TestWritersAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "oci")
	const writers, images = 4, 3
	var group errgroup.Group
	for w := range writers {
		group.Go(func() error {
			for i := range images {
				img := mustImage(t, "linux/amd64", func(s *Spec) { s.Env = []string{fmt.Sprintf("W=%d-%d", w, i)} })
				l := Open(dir)
				if _, err := l.PutImage(t.Context(), fmt.Sprintf("image%d", w), img); err != nil {
					return err
				}
				if _, err := l.GC(t.Context()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	entries, err := Open(dir).List()
	if err != nil || len(entries) != writers {
		t.Errorf("%d entries, want %d (%v)", len(entries), writers, err)
	}
	check(t, dir)
}

// A second process stands in for a second run in the same checkout.
func TestProcessesAtOnce(t *testing.T) {
	dir := os.Getenv("OCI_TEST_LAYOUT")
	if dir != "" {
		put(t, Open(dir), os.Getenv("OCI_TEST_NAME"), "linux/amd64")
		return
	}
	dir = filepath.Join(t.TempDir(), "oci")
	var group errgroup.Group
	for i := range 3 {
		group.Go(func() error {
			cmd := exec.Command(os.Args[0], "-test.run=^TestProcessesAtOnce$")
			cmd.Env = append(os.Environ(), "OCI_TEST_LAYOUT="+dir, fmt.Sprintf("OCI_TEST_NAME=p%d", i))
			out, err := cmd.CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	entries, err := Open(dir).List()
	if err != nil || len(entries) != 3 {
		t.Errorf("%d entries, want 3 (%v)", len(entries), err)
	}
	check(t, dir)
}

func TestWaitingForTheLockEndsWithTheContext(t *testing.T) {
	l := Open(filepath.Join(t.TempDir(), "oci"))
	ctx, cancel := context.WithCancel(t.Context())
	err := l.locked(t.Context(), func() error {
		cancel()
		_, err := l.GC(ctx)
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

func TestDamagedLayoutSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Open(dir).PutImage(t.Context(), "alpine", mustImage(t, "linux/amd64"))
	if err == nil || !strings.Contains(err.Error(), "remove "+dir) {
		t.Errorf("got %v", err)
	}
}

func TestVMTarball(t *testing.T) {
	tree := t.TempDir()
	for file, data := range map[string]string{"vm/pharo": "vm", "vm/SqueakSSL.so": "ssl", "symbols/pharo.debug": "dwarf"} {
		name := filepath.Join(tree, filepath.FromSlash(file))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(data), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var first [][]byte
	for range 2 {
		dir := t.TempDir()
		written, err := VMTarball(t.Context(), tree, filepath.Join(dir, "vm-x.tar.gz"), epoch)
		if err != nil {
			t.Fatal(err)
		}
		var all [][]byte
		for _, name := range written {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, data)
		}
		if len(all) != 4 {
			t.Fatalf("wrote %v, want archive and symbols with a checksum each", written)
		}
		if want := fmt.Sprintf("%x  vm-x.tar.gz\n", sha256.Sum256(all[0])); string(all[1]) != want {
			t.Errorf("checksum %q, want %q", all[1], want)
		}
		// Every file has mode 0755 on this host: modes are not taken from there.
		if got, want := modes(t, all[0]), map[string]int64{"vm-x/": 0o755, "vm-x/pharo": 0o755, "vm-x/SqueakSSL.so": 0o644}; !maps.Equal(got, want) {
			t.Errorf("modes %v, want %v", got, want)
		}
		if first != nil && !slices.EqualFunc(first, all, bytes.Equal) {
			t.Error("writing the same tree again gives other bytes")
		}
		first = all
	}
}

// modes are those in a packed archive.
func modes(t *testing.T, archive []byte) map[string]int64 {
	t.Helper()
	plain, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int64{}
	for r := tar.NewReader(plain); ; {
		h, err := r.Next()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = h.Mode
	}
}

// fakeDocker answers as Docker does: with status 200, whatever went wrong.
func fakeDocker(t *testing.T, answer string, body *bytes.Buffer) *client.Client {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/images/load") {
			io.Copy(body, r.Body)
			io.WriteString(w, answer)
		}
	}))
	t.Cleanup(srv.Close)
	c, err := client.New(client.WithHost("tcp://"+strings.TrimPrefix(srv.URL, "http://")), client.WithAPIVersion("1.41"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLoadDocker(t *testing.T) {
	img := mustImage(t, "linux/arm64")
	var body bytes.Buffer
	if err := LoadDocker(t.Context(), fakeDocker(t, `{"stream":"Loaded image: pharo-vm:alpine\n"}`, &body), "pharo-vm:alpine", img); err != nil {
		t.Fatal(err)
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body.Bytes())), nil }
	m, err := tarball.LoadManifest(open)
	if err != nil {
		t.Fatal(err)
	}
	if len(m) != 1 || !slices.Equal(m[0].RepoTags, []string{"pharo-vm:alpine"}) {
		t.Errorf("archive holds %+v", m)
	}
	got, err := tarball.Image(open, nil)
	if err != nil {
		t.Fatal(err)
	}
	want, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if id, err := got.ConfigName(); err != nil || id != want {
		t.Errorf("archive holds image %s, want %s (%v)", id, want, err)
	}
	err = LoadDocker(t.Context(), fakeDocker(t, `{"errorDetail":{"message":"no space"},"error":"no space left on device"}`, &body), "pharo-vm:alpine", img)
	if err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("a failed load gives %v", err)
	}
}
