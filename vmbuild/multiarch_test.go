package vmbuild_test

import (
	"path/filepath"
	"strings"
	"testing"

	"pharovm/vmbuild"
	"pharovm/vmbuild/oci"
	"pharovm/vmbuild/plan"
)

// TestMultiarchRefusesDifferentVMs: one platform of an image is left from an
// earlier run with another profile.
func TestMultiarchRefusesDifferentVMs(t *testing.T) {
	p, err := vmbuild.Open("..", t.Output())
	if err != nil {
		t.Fatal(err)
	}
	p.Dist = t.TempDir()
	l := oci.Open(filepath.Join(p.Dist, "oci"))
	for platform, profile := range map[string]string{"linux/amd64": "server", "linux/arm64": "full"} {
		at, err := oci.ParsePlatform(platform)
		if err != nil {
			t.Fatal(err)
		}
		img, err := oci.Image(oci.Spec{Platform: at, Annotations: map[string]string{plan.ProfileAnnotation: profile}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.PutImage(t.Context(), "alpine", img); err != nil {
			t.Fatal(err)
		}
	}
	_, err = p.Multiarch(t.Context())
	if err == nil || !strings.Contains(err.Error(), "hold different VMs") {
		t.Errorf("error %v", err)
	}
}
