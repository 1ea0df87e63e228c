package vmbuild_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// mayImport says which packages of ours each package may import; those that
// may import none are the leaves, usable on their own. Packages under internal
// are for tests.
var mayImport = map[string][]string{
	"base":    {},
	"catalog": {},
	"engine":  {},
	"gate":    {},
	"oci":     {},
	"patch":   {},
	"report":  {},
	"source":  {"patch"},
	"plan":    {"catalog"},
	"recipe":  {"plan"},
	"smoke":   {"engine"},
}

const ours = "pharovm/vmbuild"

// TestImports keeps imports going one way: mage → vmbuild → the packages below
// it, of which most know nothing of each other.
func TestImports(t *testing.T) {
	// -e, so that a package that does not compile fails its own tests and not this one.
	out, err := exec.Command("go", "list", "-e", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		name, imports := fields[0], fields[1:]
		below, isBelow := strings.CutPrefix(name, ours+"/")
		allowed, known := mayImport[below]
		switch {
		case strings.HasPrefix(below, "internal/"):
			continue
		case isBelow && !known:
			t.Errorf("package %s is new: say in this test what it may import", name)
		case isBelow:
			seen++
		}
		for _, i := range imports {
			if strings.HasPrefix(i, "github.com/magefile/") {
				t.Errorf("%s imports %s: only magefile.go may", name, i)
			}
			dep, isOurs := strings.CutPrefix(i, ours)
			if isBelow && isOurs && !slices.Contains(allowed, strings.TrimPrefix(dep, "/")) {
				t.Errorf("%s imports %s; it may import of ours only %v", name, i, allowed)
			}
		}
	}
	if seen != len(mayImport) {
		t.Errorf("%d packages were looked at, want %d: take those that are gone out of this test", seen, len(mayImport))
	}
}
