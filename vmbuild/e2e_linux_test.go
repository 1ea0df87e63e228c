package vmbuild_test

import (
	"bytes"
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	docker "github.com/moby/moby/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"pharovm/vmbuild"
	"pharovm/vmbuild/engine"
	"pharovm/vmbuild/internal/testengine"
	"pharovm/vmbuild/oci"
)

// project opens the real catalogue with the tests' own cache, which is kept so
// that every test finds the builder that the first one made, and a dist/ of its
// own.
func project(t *testing.T, dir string) *vmbuild.Project {
	t.Helper()
	p, err := vmbuild.Open(dir, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	p.Cache, p.Dist = testengine.Cache(t), t.TempDir()
	return p
}

// forget drops the VM trees, so that an engine has to make them again.
func forget(t *testing.T, p *vmbuild.Project) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(p.Cache, "builds")); err != nil {
		t.Fatal(err)
	}
}

// sample is the request of every test here: all that the sample VM has, with
// nothing from a registry.
func sample(engine string) vmbuild.Options {
	return vmbuild.Options{Source: "sample", Engine: engine, Progress: "plain", StandIn: true, Offline: true}
}

// TestEnginesAgree builds all four targets on each engine and on one engine per
// platform: every image has the same digest wherever it was built, and on a
// second run.
func TestEnginesAgree(t *testing.T) {
	dockerHost := "docker://" + testengine.Docker(t)
	var first map[string]string
	for _, spec := range []string{"private", dockerHost, "linux/amd64=private,linux/arm64=" + dockerHost} {
		p := project(t, "..")
		forget(t, p)
		r, err := p.Build(t.Context(), sample(spec))
		if err != nil {
			t.Fatalf("engine %s: %v", spec, err)
		}
		if len(r.Builds) != 4 || len(r.Images) != 8 {
			t.Fatalf("engine %s: %d builds and %d images, want 4 and 8", spec, len(r.Builds), len(r.Images))
		}
		for _, b := range r.Builds {
			if b.Reused {
				t.Errorf("engine %s: %s was not built", spec, b.ID)
			}
		}
		if first == nil {
			first = r.Digests()
		}
		if got := r.Digests(); !maps.Equal(got, first) {
			t.Errorf("engine %s gives other images:\n%v\nthan the first:\n%v", spec, got, first)
		}
		again, err := p.Build(t.Context(), sample(spec))
		if err != nil {
			t.Fatalf("engine %s, second run: %v", spec, err)
		}
		if !maps.Equal(again.Digests(), first) {
			t.Errorf("engine %s: a second run gives other images", spec)
		}
		for _, b := range again.Builds {
			if !b.Reused {
				t.Errorf("engine %s: the second run built %s again", spec, b.ID)
			}
		}
	}
}

// TestDemo is what the README promises first.
func TestDemo(t *testing.T) {
	p := project(t, "..")
	digests, err := p.Demo(t.Context(), sample("private"))
	if err != nil {
		t.Fatal(err)
	}
	p.Dist = filepath.Join(p.Dist, "demo")
	for _, n := range []string{"alpine", "debian", "scratch", "scratch-tls"} {
		index, err := oci.Open(filepath.Join(p.Dist, "oci")).Index(n)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Index(index); err != nil {
			t.Errorf("index %s: %v", n, err)
		}
		if d, _ := index.Digest(); d.String() != digests[n] {
			t.Errorf("index %s has digest %s, printed was %s", n, d, digests[n])
		}
	}
	for _, file := range []string{"report.json", "report.md", "report.svg"} {
		if info, err := os.Stat(filepath.Join(p.Dist, file)); err != nil || info.Size() == 0 {
			t.Errorf("dist/%s: %v", file, err)
		}
	}
	archives, _ := filepath.Glob(filepath.Join(p.Dist, "vm", "*.tar.gz"))
	if len(archives) != 8 {
		t.Errorf("dist/vm holds %d archives, want a VM and its symbols for each of four", len(archives))
	}
}

// TestPulledAndRun pushes an index to a real registry; Docker pulls it from
// there and runs it on each platform.
func TestPulledAndRun(t *testing.T) {
	testengine.Binfmt(t)
	host := testengine.Docker(t)
	registry := testengine.Registry(t)
	p := project(t, "..")
	opts := sample("private")
	opts.Images = []string{"debian", "scratch"}
	if _, err := p.Build(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Multiarch(t.Context()); err != nil {
		t.Fatal(err)
	}
	api, err := engine.DockerClient(host)
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	for _, n := range opts.Images {
		index, err := oci.Open(filepath.Join(p.Dist, "oci")).Index(n)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.ParseReference(registry+"/pharo-vm:"+n, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(ref, index, remote.WithContext(t.Context())); err != nil {
			t.Fatal(err)
		}
		for _, arch := range []string{"amd64", "arm64"} {
			t.Run(n+" "+arch, func(t *testing.T) {
				out, code := run(t, api, ref.Name(), arch)
				if code != 0 || !strings.Contains(out, "sample image ran") {
					t.Errorf("exit code %d, output:\n%s", code, out)
				}
			})
		}
	}
}

// run pulls ref for a processor and runs it with the sample image, as
// production would: no capabilities, a read-only root.
func run(t *testing.T, api *docker.Client, ref, arch string) (output string, code int64) {
	t.Helper()
	ctx := t.Context()
	platform := ocispecs.Platform{OS: "linux", Architecture: arch}
	pull, err := api.ImagePull(ctx, ref, docker.ImagePullOptions{Platforms: []ocispecs.Platform{platform}})
	if err != nil {
		t.Fatal(err)
	}
	if err := pull.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	image, err := filepath.Abs("../testdata/sample/sample.image")
	if err != nil {
		t.Fatal(err)
	}
	c, err := api.ContainerCreate(ctx, docker.ContainerCreateOptions{
		Platform: &platform,
		Config:   &container.Config{Image: ref, Cmd: []string{"sample.image"}},
		HostConfig: &container.HostConfig{
			NetworkMode: "none", ReadonlyRootfs: true, CapDrop: []string{"ALL"}, Binds: []string{image + ":/pharo/sample.image:ro"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer api.ContainerRemove(context.WithoutCancel(ctx), c.ID, docker.ContainerRemoveOptions{Force: true})
	if _, err := api.ContainerStart(ctx, c.ID, docker.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	wait := api.ContainerWait(ctx, c.ID, docker.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	select {
	case err := <-wait.Error:
		t.Fatal(err)
	case end := <-wait.Result:
		code = end.StatusCode
	}
	logs, err := api.ContainerLogs(ctx, c.ID, docker.ContainerLogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	var text bytes.Buffer
	if _, err := stdcopy.StdCopy(&text, &text, logs); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return text.String(), code
}
