package oci

import (
	"archive/tar"
	"errors"
	"io/fs"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestReadFileAndAccounts(t *testing.T) {
	base := mustImage(t, "linux/amd64", func(s *Spec) {
		s.Layers = []LayerSpec{
			{mustLayer(t, []File{{Path: "/etc/passwd", Data: []byte("root:x:0:0::/:/bin/sh")}, {Path: "/etc/old", Data: []byte("old")}}), "a"},
			{whiteout(t, "etc/.wh.old"), "b"},
		}
	})
	if _, err := ReadFile(base, "/etc/old"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a deleted file gives %v", err)
	}
	files, err := Accounts(base, "pharo", 65532, 65532, "/pharo")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(files[1].Data), "root:x:0:0::/:/bin/sh\npharo:x:65532:65532::/pharo:/sbin/nologin\n"; got != want {
		t.Errorf("passwd %q, want %q", got, want)
	}
	if got, want := string(files[0].Data), "pharo:x:65532:\n"; got != want {
		t.Errorf("group %q, want %q", got, want)
	}
	if _, err := Accounts(base, "root", 65532, 65532, "/"); err == nil {
		t.Error("an account that exists was added again")
	}
	if _, err := Accounts(base, "pharo", 0, 0, "/"); err == nil {
		t.Error("a number that is taken was given again")
	}
}

func whiteout(t *testing.T, name string) v1.Layer {
	t.Helper()
	var b strings.Builder
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return rawLayer(t, b.String())
}

func TestSizes(t *testing.T) {
	base := dockerBase(t, "amd64")
	img := mustImage(t, "linux/amd64", func(s *Spec) { s.Base = base })
	s, err := Sizes(img, base)
	if err != nil {
		t.Fatal(err)
	}
	if s.Own.Unpacked != int64(len("#!vm\n")+len("ssl")) || s.Base.Unpacked != 2000 || len(s.Layers) != 3 {
		t.Errorf("sizes %+v", s)
	}
	if s.Total().Compressed != s.Layers[0].Compressed+s.Layers[1].Compressed+s.Layers[2].Compressed || s.Layers[2].Base {
		t.Errorf("sizes %+v", s)
	}
}
