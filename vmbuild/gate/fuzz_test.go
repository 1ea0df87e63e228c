package gate

import (
	"os"
	"path/filepath"
	"testing"
)

// Whatever a file holds, the gates must come back with a report. The seeds are
// real executables of both architectures with bytes damaged where the readers
// look; go test -fuzz=FuzzCheck goes on from there.
func FuzzCheck(f *testing.F) {
	for _, name := range []string{"amd64", "arm64"} {
		seed, err := os.ReadFile(filepath.Join("testdata", name+".elf"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
		for _, at := range []int{0x04, 0x20, 0x28, 0x36, 0x3a, 0x3c, 0x3e} {
			damaged := append([]byte(nil), seed...)
			for i := range 2 {
				damaged[at+i] ^= 0xff
			}
			f.Add(damaged)
		}
		for n := len(seed); n > 0; n /= 2 {
			f.Add(seed[:n])
		}
		for at := 64; at < len(seed); at += len(seed) / 64 {
			damaged := append([]byte(nil), seed...)
			for i := at; i < min(at+8, len(seed)); i++ {
				damaged[i] = 0xff
			}
			f.Add(damaged)
		}
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		tree := t.TempDir()
		for _, name := range []string{"vm/pharo", "symbols/pharo.debug", "packed/best/pharo", "runtime/lib/ld.so"} {
			file := filepath.Join(tree, filepath.FromSlash(name))
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, data, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for _, libc := range []string{"glibc", "musl"} {
			rep, err := Check(t.Context(), tree, Rules{Platform: "linux/amd64", Libc: libc, GlibcCeiling: "2.34", RELRO: "full", PIE: true})
			if err != nil || len(rep.Rows) == 0 {
				t.Errorf("%d rows, %v", len(rep.Rows), err)
			}
		}
	})
}
