package oci

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPackerCache: what is kept is used, gives the same bytes, and is made anew
// when it is damaged.
func TestPackerCache(t *testing.T) {
	p := Packer{Cache: t.TempDir()}
	plain := bytes.Repeat([]byte("primitive "), 1000)
	want, err := Packer{}.compress(plain)
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"first", "kept"} {
		if got, err := p.compress(plain); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: other bytes, or %v", what, err)
		}
	}
	files, _ := filepath.Glob(filepath.Join(p.Cache, "*.gz"))
	if len(files) != 1 {
		t.Fatalf("%d files kept, want 1", len(files))
	}
	if err := os.WriteFile(files[0], want[:len(want)/2], 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := p.compress(plain); err != nil || !bytes.Equal(got, want) {
		t.Errorf("damaged: other bytes, or %v", err)
	}
}

// TestCompressionNamesItsLibrary: another version may compress otherwise.
func TestCompressionNamesItsLibrary(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mod)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "github.com/klauspost/compress" {
			if !strings.Contains(compression, fields[1]) {
				t.Errorf("compression is %q, go.mod has %s: put its version there", compression, fields[1])
			}
			return
		}
	}
	t.Error("go.mod does not name github.com/klauspost/compress")
}
