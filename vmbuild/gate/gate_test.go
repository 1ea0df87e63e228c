package gate

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var platforms = []struct{ platform, libc string }{
	{"linux/amd64", "glibc"}, {"linux/amd64", "musl"}, {"linux/arm64", "glibc"}, {"linux/arm64", "musl"},
}

func check(t *testing.T, tree string, r Rules) Report {
	t.Helper()
	rep, err := Check(t.Context(), tree, r)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// failed names the failing rules as "artefact: rule".
func failed(r Report) []string {
	var out []string
	for _, row := range r.Failures().Rows {
		out = append(out, row.Artefact+": "+row.Rule)
	}
	slices.Sort(out)
	return out
}

func TestGoodTreesPass(t *testing.T) {
	for _, p := range platforms {
		t.Run(p.platform+" "+p.libc, func(t *testing.T) {
			tc := newToolchain(t, p.platform, p.libc)
			tree := goodTree(tc)
			if rep := check(t, tree, goodRules(tc, p.platform, p.libc)); !rep.OK() {
				t.Errorf("a good tree fails:\n%s", rep)
			}
			got, err := Builtins(filepath.Join(tree, "vm", "pharo"))
			if err != nil {
				t.Fatal(err)
			}
			if want := []Builtin{{"FilePlugin", 2}, {"SocketPlugin", 2}}; !slices.Equal(got, want) {
				t.Errorf("built in are %v, want %v", got, want)
			}
		})
	}
}

// Every way of going wrong must fail its own gate and no other.
func TestBadTreesFailTheirGate(t *testing.T) {
	const platform, libc = "linux/amd64", "glibc"
	tc := newToolchain(t, platform, libc)
	with := func(extra ...string) func(string) {
		return func(tree string) { tc.vm(tree, append(slices.Clone(hardened), extra...)...) }
	}
	calls := func(function string) string { return "-Dlibc_call=" + function }
	good := goodTree(tc)
	for _, test := range []struct {
		name   string
		change func(tree string)
		rules  func(*Rules)
		want   []string
	}{
		{name: "rpath", change: with("-Wl,-rpath,."), want: []string{"vm/pharo: search path"}},
		{name: "rpath beside origin", change: with("-Wl,-rpath,$ORIGIN:/opt"), want: []string{"vm/pharo: search path"}},
		{name: "origin is fine", change: with("-Wl,-rpath,$ORIGIN")},
		{name: "extra library", change: with("-Wl,--no-as-needed", filepath.Join(tc.dir, "libX11.so")), want: []string{"vm/pharo: allowed libraries"}},
		{name: "extra library of a plugin", change: func(tree string) {
			tc.plugin(tree, "SqueakSSL.so", "-Wl,--no-as-needed", filepath.Join(tc.dir, "libX11.so"))
		}, want: []string{"vm/SqueakSSL.so: allowed libraries"}},
		{name: "executable stack", change: with("-Wl,-z,execstack"), want: []string{"vm/pharo: stack not executable"}},
		{name: "no relro", change: with("-Wl,-z,norelro"), want: []string{"vm/pharo: RELRO full"}},
		{name: "partial relro", change: with("-Wl,-z,lazy"), want: []string{"vm/pharo: RELRO full"}},
		{name: "partial relro is enough", change: with("-Wl,-z,lazy"), rules: func(r *Rules) { r.RELRO = "partial" }},
		{name: "not position-independent", change: with("-no-pie", "-fno-pic", "-mcmodel=small"), want: []string{"vm/pharo: position-independent"}},
		{name: "not position-independent is fine", change: with("-no-pie", "-fno-pic"), rules: func(r *Rules) { r.PIE = false }},
		{name: "text relocations", change: with("-fno-pic", "-mcmodel=large", "-Wl,-z,notext"), want: []string{"vm/pharo: no text relocations"}},
		{name: "packed relocations are read too", change: with("-Wl,--pack-dyn-relocs=relr"), rules: func(r *Rules) { r.GlibcCeiling = "2.36" }},
		{name: "packed relocations need glibc 2.36", change: with("-Wl,--pack-dyn-relocs=relr"), want: []string{"vm/pharo: glibc at most 2.34"}},
		{name: "glibc too new", change: with(calls("libc_new")), want: []string{"vm/pharo: glibc at most 2.34"}},
		{name: "glibc versions are numbers", change: with(calls("libc_new")), rules: func(r *Rules) { r.GlibcCeiling = "2.100" }},
		{name: "private glibc", change: with(calls("libc_private")), want: []string{"vm/pharo: glibc at most 2.34"}},
		{name: "interpreter", change: with("-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1"), want: []string{"vm/pharo: interpreter"}},
		{name: "build path", change: with(`-DHOSTPATH="/src/vm/interp.c"`), want: []string{"vm/pharo: no build path inside"}},
		{name: "not stripped", change: func(tree string) {
			write(t, tree, "vm/pharo", string(read(t, tree, "symbols/pharo.debug")))
		}, want: []string{"vm/pharo: stripped"}},
		{name: "excluded plugin built in, name and table", rules: func(r *Rules) {
			r.Kept, r.Excluded = []string{"FilePlugin", "SqueakSSL"}, append(r.Excluded, "SocketPlugin")
		}, want: []string{"SocketPlugin: excluded plugin"}},
		{name: "excluded plugin built in, name only", change: with("-DONLYNAME"), want: []string{"MIDIPlugin: excluded plugin"}},
		{name: "excluded plugin built in, table only", change: with("-DTABLEONLY"), want: []string{"DropPlugin: excluded plugin"}},
		{name: "excluded plugin in a fixed-address VM", change: with("-no-pie", "-fno-pic", "-DTABLEONLY"), rules: func(r *Rules) { r.PIE = false },
			want: []string{"DropPlugin: excluded plugin"}},
		{name: "excluded plugin as a file", change: func(tree string) { tc.plugin(tree, "CroquetPlugin.so") }, want: []string{"CroquetPlugin: excluded plugin", "symbols/CroquetPlugin.so.debug: present"}},
		{name: "kept plugin missing", change: with("-USOCKET"), want: []string{"SocketPlugin: kept plugin", "info/plugins.txt: agrees with the VM"}},
		{name: "stray file", change: func(tree string) { write(t, tree, "vm/startup.sh", "#!/bin/sh") }, want: []string{"vm/startup.sh: expected file"}},
		{name: "stray plugin", change: func(tree string) { tc.plugin(tree, "NewPlugin.so") },
			want: []string{"symbols/NewPlugin.so.debug: present", "vm/NewPlugin.so: expected file"}},
		{name: "no executable", change: func(tree string) { remove(t, tree, "vm/pharo") }, want: []string{
			"FilePlugin: kept plugin", "SocketPlugin: kept plugin", "info/plugins.txt: agrees with the VM",
			"symbols/pharo.debug: matches its binary", "vm/pharo: present"}},
		{name: "symbols missing", change: func(tree string) { remove(t, tree, "symbols/pharo.debug") }, want: []string{"symbols/pharo.debug: present"}},
		{name: "symbols of another build", change: func(tree string) {
			tc.vm(tree, append(slices.Clone(hardened), "-Wl,--build-id=0xffff")...)
		}, want: []string{"symbols/pharo.debug: matches its binary"}},
		{name: "not ELF", change: func(tree string) { write(t, tree, "vm/SqueakSSL.so", "#!/bin/sh") }, want: []string{"vm/SqueakSSL.so: readable ELF"}},
		{name: "no section headers", change: func(tree string) {
			write(t, tree, "vm/pharo", string(sectionless(read(t, tree, "vm/pharo"))))
		}, want: []string{"FilePlugin: kept plugin", "SocketPlugin: kept plugin", "info/plugins.txt: agrees with the VM", "symbols/pharo.debug: matches its binary", "vm/pharo: readable ELF"}},
		{name: "packed", change: pack(t, "UPX!", 100), rules: func(r *Rules) { r.Packed = []string{"lzma"} }},
		{name: "packed but missing", rules: func(r *Rules) { r.Packed = []string{"lzma"} }, want: []string{"packed/lzma/pharo: present"}},
		{name: "packed by nothing", change: pack(t, "nope", 0), want: []string{"packed/lzma/pharo: packed by UPX", "packed/lzma/pharo: smaller than unpacked"}},
		{name: "runtime of another architecture", change: func(tree string) {
			arm := newToolchain(t, "linux/arm64", "musl")
			write(t, tree, "runtime/lib/ld-musl-x86_64.so.1", string(read(t, arm.dir, "libX11.so")))
		}, want: []string{"runtime/lib/ld-musl-x86_64.so.1: architecture linux/amd64", "runtime/lib/ld-musl-x86_64.so.1: stripped"}},
		{name: "runtime data", change: func(tree string) { write(t, tree, "runtime/etc/ssl/cert.pem", "-----BEGIN") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			tree := t.TempDir()
			if err := os.CopyFS(tree, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			if test.change != nil {
				test.change(tree)
			}
			rules := goodRules(tc, platform, libc)
			if test.rules != nil {
				test.rules(&rules)
			}
			rep := check(t, tree, rules)
			if got := failed(rep); !slices.Equal(got, test.want) {
				t.Errorf("failing: %q\nwant:    %q\n%s", got, test.want, rep.Failures())
			}
			for _, row := range rep.Failures().Rows {
				if row.Found == "" || row.Remedy == "" {
					t.Errorf("%+v lacks what was found or the remedy", row)
				}
			}
		})
	}
}

func TestWrongPlatformFails(t *testing.T) {
	tc := newToolchain(t, "linux/arm64", "musl")
	tree := goodTree(tc)
	got := failed(check(t, tree, goodRules(tc, "linux/amd64", "musl")))
	want := []string{"vm/SqueakSSL.so: architecture linux/amd64", "vm/pharo: architecture linux/amd64", "vm/pharo: interpreter"}
	if !slices.Equal(got, want) {
		t.Errorf("failing %q, want %q", got, want)
	}
	got = failed(check(t, goodTree(newToolchain(t, "linux/arm64", "glibc")), goodRules(tc, "linux/arm64", "musl")))
	want = []string{"vm/SqueakSSL.so: allowed libraries", "vm/SqueakSSL.so: no glibc symbols",
		"vm/pharo: allowed libraries", "vm/pharo: interpreter", "vm/pharo: no glibc symbols"}
	if !slices.Equal(got, want) {
		t.Errorf("failing %q, want %q", got, want)
	}
}

// What GCC and binutils make, with the debug link the recipe's objcopy writes.
func TestGCCAndDebugLink(t *testing.T) {
	tree := t.TempDir()
	tc := toolchain{t: t, dir: t.TempDir()}
	src := filepath.Join(tc.dir, "vm.c")
	if err := os.WriteFile(src, []byte(`#include <stdio.h>
int main(void) { return puts("hello") < 0; }`), 0o644); err != nil {
		t.Fatal(err)
	}
	full, stripped, debug := filepath.Join(tc.dir, "pharo"), filepath.Join(tree, "vm", "pharo"), filepath.Join(tree, "symbols", "pharo.debug")
	write(t, tree, "vm/pharo", "")
	write(t, tree, "symbols/pharo.debug", "")
	tc.run("gcc", "-g", "-O2", "-pie", "-fPIE", "-Wl,-z,now", "-Wl,--build-id=none", "-ffile-prefix-map="+tc.dir+"=.", "-o", full, src)
	tc.run("objcopy", "--only-keep-debug", full, debug)
	tc.run("objcopy", "--strip-all", "--add-gnu-debuglink="+debug, full, stripped)
	rules := Rules{Platform: "linux/amd64", Libc: "glibc", AllowedLibs: []string{"libc.so.6"}, GlibcCeiling: "2.34", PIE: true, RELRO: "full"}
	if rep := check(t, tree, rules); !rep.OK() {
		t.Errorf("fails:\n%s", rep)
	}
	write(t, tree, "symbols/pharo.debug", string(read(t, tree, "symbols/pharo.debug"))+"\x00")
	if got := failed(check(t, tree, rules)); !slices.Equal(got, []string{"symbols/pharo.debug: matches its binary"}) {
		t.Errorf("a symbol file with another checksum: failing %q", got)
	}
}

func TestUnknownPlatformIsAnError(t *testing.T) {
	if _, err := Check(t.Context(), t.TempDir(), Rules{Platform: "linux/riscv64", Libc: "musl"}); err == nil {
		t.Error("no error")
	}
	if _, err := Check(t.Context(), filepath.Join(t.TempDir(), "gone"), Rules{Platform: "linux/arm64", Libc: "musl"}); err == nil {
		t.Error("no error for a tree that does not exist")
	}
}

func TestCheckSize(t *testing.T) {
	b := Budget{Unpacked: 1_100_000, Compressed: 750_000}
	if rep := CheckSize("scratch", "linux/arm64", 1_100_000, 750_000, b); !rep.OK() {
		t.Errorf("exactly on budget fails: %s", rep)
	}
	rep := CheckSize("scratch", "linux/arm64", 1_100_001, 1, b)
	err := rep.Err()
	if err == nil {
		t.Fatal("over budget passes")
	}
	for _, want := range []string{"scratch linux/arm64", "unpacked size", "1100.0 kB", "images/scratch.yaml"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %q", err, want)
		}
	}
	if rep := CheckSize("alpine", "linux/amd64", 1<<40, 1<<40, Budget{}); len(rep.Rows) != 0 {
		t.Errorf("no budget gives %s", rep)
	}
}

func TestReportForms(t *testing.T) {
	rep := Report{Rows: []Row{
		{Artefact: "vm/pharo", Rule: "stripped", Found: "none", OK: true},
		{Artefact: "vm/SqueakSSL.so", Rule: "search path", Found: ".", Remedy: "link with $ORIGIN"},
	}}
	want := `      ARTEFACT         RULE         FOUND
ok    vm/pharo         stripped     none
FAIL  vm/SqueakSSL.so  search path  .
      → link with $ORIGIN
`
	if got := rep.String(); got != want {
		t.Errorf("table\n%s\nwant\n%s", got, want)
	}
	if got, want := fmt.Sprint(rep.Err()), `vm/SqueakSSL.so fails gate "search path": found .: link with $ORIGIN`; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
	data, err := json.Marshal(rep)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"rows":[{"artefact":"vm/pharo","rule":"stripped","found":"none","ok":true},{"artefact":"vm/SqueakSSL.so","rule":"search path","found":".","ok":false,"remedy":"link with $ORIGIN"}]}`; string(data) != want {
		t.Errorf("JSON %s, want %s", data, want)
	}
}

func read(t *testing.T, tree, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(tree, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// sectionless zeroes what says where the section headers are, as a packer does.
func sectionless(data []byte) []byte {
	clear(data[0x28:0x30])
	clear(data[0x3c:0x40])
	return data
}

// pack puts an ELF file with a magic, and less bytes fewer than the VM has,
// where a packed one belongs.
func pack(t *testing.T, magic string, less int) func(string) {
	return func(tree string) {
		data := sectionless(read(t, tree, "vm/pharo"))
		data = append(data[:len(data)-less-len(magic)], magic...)
		write(t, tree, "packed/lzma/pharo", string(data))
	}
}

func remove(t *testing.T, tree, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(tree, filepath.FromSlash(name))); err != nil {
		t.Fatal(err)
	}
}
