package base

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

var (
	amd64 = v1.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = v1.Platform{OS: "linux", Architecture: "arm64"}
)

// nowhere is a reference whose registry refuses connections.
const nowhere = "127.0.0.1:1/library/debian:12-slim"

var someDigest = "sha256:" + strings.Repeat("ab", 32)

// contentsOf reads the regular files and links of an image.
func contentsOf(t *testing.T, img v1.Image) map[string]string {
	t.Helper()
	got := map[string]string{}
	flat := mutate.Extract(img)
	defer flat.Close()
	r := tar.NewReader(flat)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := io.Copy(&b, r); err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "/"), "/")
		if _, ok := got[name]; ok {
			t.Errorf("%s is in the image twice", name)
		}
		got[name] = b.String()
		if h.Linkname != "" {
			got[name] = "-> " + h.Linkname
		}
	}
}

func machine(t *testing.T, name, program string) elf.Machine {
	t.Helper()
	f, err := elf.NewFile(strings.NewReader(program))
	if err != nil {
		t.Fatalf("%s is no program: %v", name, err)
	}
	return f.Machine
}

// TestBootstrap makes the real bases of both kinds for both platforms from Debian's packages.
func TestBootstrap(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	opt := Options{CacheDir: cache, AllowStandIn: true, Log: func(s string) { t.Log(s) }}
	deb, err := Resolve(t.Context(), Spec{Name: "debian", Ref: nowhere, Digest: someDigest, Bootstrap: "bookworm"}, opt)
	if err != nil {
		t.Fatal(err)
	}
	alp, err := Resolve(t.Context(), Spec{Name: "alpine", Ref: "127.0.0.1:1/library/alpine:3.22", Digest: someDigest}, opt)
	if err != nil {
		t.Fatal(err)
	}
	if deb.How != Bootstrap || alp.How != StandIn {
		t.Fatalf("how: debian %s, alpine %s", deb.How, alp.How)
	}
	if !strings.Contains(deb.Origin, "not configured") || !strings.Contains(alp.Origin, "stand-in") || strings.Contains(deb.Origin+alp.Origin, cache) {
		t.Errorf("origins: %q, %q", deb.Origin, alp.Origin)
	}
	for _, c := range []struct {
		p              v1.Platform
		loader, triple string
		machine        elf.Machine
	}{
		{amd64, "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "x86_64", elf.EM_X86_64},
		{arm64, "usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1", "aarch64", elf.EM_AARCH64},
	} {
		img, err := deb.Image(t.Context(), c.p)
		if err != nil {
			t.Fatal(err)
		}
		files := contentsOf(t, img)
		for _, name := range []string{c.loader, "usr/bin/dash", "usr/lib/" + c.triple + "-linux-gnu/libssl.so.3"} {
			if m := machine(t, name, files[name]); m != c.machine {
				t.Errorf("%s is for %v", name, m)
			}
		}
		for name, want := range map[string]string{"bin": "-> usr/bin", "lib": "-> usr/lib", "usr/bin/sh": "-> dash"} {
			if files[name] != want {
				t.Errorf("%s %s: %q, want %q", c.p, name, files[name], want)
			}
		}
		if !strings.HasPrefix(files["etc/passwd"], "root:") || strings.Count(files["etc/ssl/certs/ca-certificates.crt"], "BEGIN CERTIFICATE") < 100 {
			t.Errorf("%s: no users or certificates", c.p)
		}
		for name := range files {
			if strings.Contains(name, "musl") || strings.Contains(name, "/man/") {
				t.Errorf("%s holds %s", c.p, name)
			}
		}
		cfg, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Architecture != c.p.Architecture || cfg.OS != "linux" || !cfg.Created.Equal(epoch) {
			t.Errorf("config says %s/%s %v", cfg.OS, cfg.Architecture, cfg.Created)
		}
		status := files["var/lib/dpkg/status.d/libssl3"]
		if !strings.Contains(status, "Architecture: "+c.p.Architecture+"\n") || !strings.Contains(status, "\nVersion: 3.") {
			t.Errorf("what it says of libssl3 is %q", status)
		}

		img, err = alp.Image(t.Context(), c.p)
		if err != nil {
			t.Fatal(err)
		}
		files = contentsOf(t, img)
		for _, name := range []string{"lib/ld-musl-" + c.triple + ".so.1", "bin/busybox"} {
			if m := machine(t, name, files[name]); m != c.machine {
				t.Errorf("%s is for %v", name, m)
			}
		}
		if !strings.Contains(files["etc/os-release"], "stand-in") || files["bin/sh"] != "-> busybox" {
			t.Errorf("stand-in: %q, sh %q", files["etc/os-release"], files["bin/sh"])
		}
		for name := range files {
			if strings.Contains(name, "linux-gnu") {
				t.Errorf("the stand-in holds %s", name)
			}
		}
	}

	// Made again from the same packages, the images are the same.
	before, _ := deb.Image(t.Context(), arm64)
	was, err := before.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(cache, "bases", "images")); err != nil {
		t.Fatal(err)
	}
	after, err := deb.Image(t.Context(), arm64)
	if err != nil {
		t.Fatal(err)
	}
	if is, _ := after.Digest(); is != was {
		t.Errorf("made twice: %s and %s", was, is)
	}
	if _, err := alp.Rootfs(t.Context(), amd64); err == nil {
		t.Error("a stand-in serves as a builder")
	}
}

func TestBuilderRoot(t *testing.T) {
	t.Parallel()
	r, err := Resolve(t.Context(), Spec{Name: "debian", Ref: nowhere, Digest: someDigest, Bootstrap: "bookworm"}, Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	native := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	root, err := r.Rootfs(t.Context(), native)
	if err != nil {
		t.Fatal(err)
	}
	img, err := oneLayer(root.Path, native, "")
	if err != nil {
		t.Fatal(err)
	}
	files := contentsOf(t, img)
	if !strings.Contains(files["var/lib/dpkg/status"], "Package: apt\nStatus: install ok installed") {
		t.Error("apt is not installed in the builder root")
	}
	if s := files["etc/apt/sources.list"]; !strings.Contains(s, "bookworm main") || strings.Contains(s, "nodesource") {
		t.Errorf("sources.list is %q", s)
	}
	again, err := r.Rootfs(t.Context(), native)
	if err != nil || again != root {
		t.Errorf("second call: %v, %v, first %v", again, err, root)
	}
}

// standInFor puts a script in mmdebstrap's place.
func standInFor(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mmdebstrap"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// TestInstalledOnFirstUse: to look for a base changes nothing on this machine.
func TestInstalledOnFirstUse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Setenv("PATH", t.TempDir())
		_, err := Resolve(t.Context(), Spec{Name: "debian", Ref: nowhere, Digest: someDigest, Bootstrap: "bookworm"}, Options{CacheDir: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), "mmdebstrap") {
			t.Errorf("without mmdebstrap: %v", err)
		}
		return
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "mmdebstrap")
	install := "#!/bin/sh\nprintf '#!/bin/sh\\necho tarball\\n' > " + program + "\n/bin/chmod +x " + program + "\n"
	if err := os.WriteFile(filepath.Join(dir, "apt-get"), []byte(install), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	r, err := Resolve(t.Context(), Spec{Name: "debian", Ref: nowhere, Digest: someDigest, Bootstrap: "bookworm"}, Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err == nil {
		t.Error("a look installs mmdebstrap")
	}
	if _, err := r.Rootfs(t.Context(), amd64); err != nil {
		t.Errorf("first use: %v", err)
	}
}

// partial lists what lies in the cache but locks.
func partial(t *testing.T, cache string) []string {
	t.Helper()
	var left []string
	err := filepath.WalkDir(cache, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(p, ".lock") {
			left = append(left, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return left
}

func TestBootstrapFails(t *testing.T) {
	standInFor(t, "echo half of a tarball\necho 'E: no mirror answers' >&2\nexit 1\n")
	cache := t.TempDir()
	r, err := Resolve(t.Context(), Spec{Name: "debian", Ref: nowhere, Digest: someDigest, Bootstrap: "bookworm"}, Options{CacheDir: cache})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Rootfs(t.Context(), amd64); err == nil || !strings.Contains(err.Error(), "no mirror answers") {
		t.Errorf("got %v", err)
	}
	if left := partial(t, cache); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBootstrapStopped(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started")
	if out, err := exec.Command("mkfifo", started).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v %s", err, out)
	}
	standInFor(t, "echo half of a tarball\necho x > "+started+"\nexec sleep 600\n")
	cache := t.TempDir()
	r, err := Resolve(t.Context(), Spec{Name: "debian", Ref: nowhere, Digest: someDigest, Bootstrap: "bookworm"}, Options{CacheDir: cache})
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stopped by the user")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		os.ReadFile(started) // returns once the script runs
		cancel(stop)
	}()
	if _, err := r.Image(ctx, arm64); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	if left := partial(t, cache); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBootstrapOnce(t *testing.T) {
	count := filepath.Join(t.TempDir(), "count")
	standInFor(t, "echo run >> "+count+"\necho tarball\n")
	opt := Options{CacheDir: t.TempDir()}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			r, err := Resolve(t.Context(), Spec{Name: "debian", Ref: nowhere, Digest: someDigest, Bootstrap: "bookworm"}, opt)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := r.Rootfs(t.Context(), amd64); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if runs, _ := os.ReadFile(count); string(runs) != "run\n" {
		t.Errorf("bootstrapped more than once: %q", runs)
	}
}
