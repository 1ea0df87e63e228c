package vmbuild

import (
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	docker "github.com/moby/moby/client"

	"pharovm/vmbuild/engine"
	"pharovm/vmbuild/internal/testengine"
	"pharovm/vmbuild/oci"
)

// TestLoadedOnce has Docker recognize an image that it holds, and no other: a
// run with nothing to do loads nothing.
func TestLoadedOnce(t *testing.T) {
	image := func(text, label, arch string) v1.Image {
		layer, err := oci.Layer([]oci.File{{Path: "/opt/pharo/pharo", Data: []byte(text), Mode: 0o755}}, time.Unix(1e9, 0))
		if err != nil {
			t.Fatal(err)
		}
		img, err := oci.Image(oci.Spec{
			Platform: v1.Platform{OS: "linux", Architecture: arch}, Layers: []oci.LayerSpec{{Layer: layer, CreatedBy: "test"}}, Created: time.Unix(1e9, 0),
			User: "65532:65532", Entrypoint: []string{"/opt/pharo/pharo"}, WorkingDir: "/pharo", Env: []string{"A=b"},
			Labels: map[string]string{"org.opencontainers.image.version": label},
		})
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	api, err := engine.DockerClient(testengine.Docker(t))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	for _, arch := range []string{"amd64", "arm64"} {
		img := image("vm", "1", arch)
		m := Made{image: img}
		m.Name, m.Platform = "once", "linux/"+arch
		tags, err := loadOne(t.Context(), api, "pharo-vm-test", arch, m)
		if err != nil {
			t.Fatal(err)
		}
		if len(tags) != 2 || tags[0] != "pharo-vm-test:once-"+arch || tags[1] != "pharo-vm-test:once" {
			t.Errorf("tags %v", tags)
		}
		for _, tag := range tags {
			have, err := api.ImageInspect(t.Context(), tag)
			if err != nil {
				t.Fatal(err)
			}
			if !same(have, img) {
				t.Errorf("%s would be loaded again:\n%+v", tag, have)
			}
			for what, other := range map[string]v1.Image{"layer": image("another", "1", arch), "label": image("vm", "2", arch)} {
				if same(have, other) {
					t.Errorf("%s is taken for an image with another %s", tag, what)
				}
			}
			if _, err := api.ImageRemove(t.Context(), tag, docker.ImageRemoveOptions{}); err != nil {
				t.Error(err)
			}
		}
	}
}
