package gate

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// vmSource is a VM in miniature: it has what the gates look at and needs no
// libc, so that it links for every platform without a sysroot. The export
// tables have the shape that Slang generates.
const vmSource = `
extern int libc_call(void);
typedef void *table[][3];
static int primitiveFileOpen(void) { return libc_call(); }
static const char *getModuleName(void) { return "FilePlugin VMMaker.oscog-eem.2944 " "(i)"; }
static char _m[] = "FilePlugin";
void *FilePlugin_exports[][3] = {
	{(void*)_m, "getModuleName", (void*)getModuleName},
	{(void*)_m, "primitiveFileOpen\000\001", (void*)primitiveFileOpen},
	{0, 0, 0}};
#ifdef SOCKET
static const char *socketName(void) { return "SocketPlugin VMMaker.oscog-eem.2944 " "(i)"; }
static char _s[] = "SocketPlugin";
void *SocketPlugin_exports[][3] = {
	{(void*)_s, "getModuleName", (void*)socketName},
	{(void*)_s, "primitiveSocketCreate\000\000", (void*)primitiveFileOpen},
	{0, 0, 0}};
#else
void *SocketPlugin_exports[][3] = {{0, 0, 0}};
#endif
#ifdef ONLYNAME
static const char *midiName = "MIDIPlugin VMMaker.oscog-eem.2944 (i)";
#else
static const char *midiName = "MIDIPlugin is not here";
#endif
#ifdef TABLEONLY
static char _d[] = "DropPlugin";
void *Drop_exports[][3] = {{(void*)_d, "primitiveDrop\000\000", (void*)primitiveFileOpen}, {0, 0, 0}};
#else
void *Drop_exports[][3] = {{0, 0, 0}};
#endif
#ifdef HOSTPATH
static const char *file = HOSTPATH;
#else
static const char *file = "../src/vm/interp.c /usr/src/x";
#endif
void **volatile tables[] = {FilePlugin_exports[0], SocketPlugin_exports[0], Drop_exports[0]};
const char *volatile sink;
void _start(void) { sink = midiName; sink = file; for (;;) ((int (*)(void))tables[0][2])(); }
`

const pluginSource = `
extern int libc_call(void);
const char *getModuleName(void) { return "SqueakSSL VMMaker.oscog-eem.2944 (e)"; }
int primitiveConnect(void) { return libc_call(); }
`

// toolchain compiles for one platform and libc with clang and lld.
type toolchain struct {
	t              *testing.T
	dir            string
	target, interp string
	libc           string // name of the C library
}

func newToolchain(t *testing.T, platform, libc string) toolchain {
	tc := toolchain{t: t, dir: t.TempDir(), interp: targets[platform+"/"+libc].interp}
	arch := map[string]string{"linux/amd64": "x86_64", "linux/arm64": "aarch64"}[platform]
	tc.target = arch + map[string]string{"musl": "-linux-musl", "glibc": "-linux-gnu"}[libc]
	tc.libc = map[string]string{"musl": "libc.so", "glibc": "libc.so.6"}[libc]
	versions := ""
	if libc == "glibc" {
		versions = "GLIBC_2.17 { global: libc_call; };\nGLIBC_2.36 { global: libc_new; };\nGLIBC_PRIVATE { global: libc_private; };"
	}
	tc.library("libc_stub.so", tc.libc, versions)
	tc.library("libX11.so", "libX11.so.6", "")
	return tc
}

// library makes a shared object to link against, with versioned symbols.
func (tc toolchain) library(name, soname, versions string) {
	tc.t.Helper()
	args := []string{"-shared", "-Wl,-soname," + soname}
	if versions != "" {
		script := filepath.Join(tc.dir, "versions")
		if err := os.WriteFile(script, []byte(versions), 0o644); err != nil {
			tc.t.Fatal(err)
		}
		args = append(args, "-Wl,--version-script="+script)
	}
	tc.clang(filepath.Join(tc.dir, name), "int libc_call(void){return 0;} int libc_new(void){return 0;} int libc_private(void){return 0;} int draw(void){return 0;}", args...)
}

func (tc toolchain) clang(out, source string, args ...string) {
	tc.t.Helper()
	cmd := exec.CommandContext(tc.t.Context(), "clang", append([]string{"--target=" + tc.target, "-Os", "-fPIC", "-nostdlib", "-fuse-ld=lld",
		"-Wl,--hash-style=gnu", "-Wl,--build-id=0x1234567890abcdef", "-o", out, "-x", "c", "-", "-x", "none"}, args...)...)
	cmd.Stdin = strings.NewReader(source)
	if msg, err := cmd.CombinedOutput(); err != nil {
		tc.t.Fatalf("clang %s: %v\n%s", strings.Join(args, " "), err, msg)
	}
}

// run is for the tools a gate's input comes from.
func (tc toolchain) run(name string, args ...string) {
	tc.t.Helper()
	if msg, err := exec.CommandContext(tc.t.Context(), name, args...).CombinedOutput(); err != nil {
		tc.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, msg)
	}
}

// hardened is how the executable is linked when nothing is to be wrong with it.
var hardened = []string{"-pie", "-DSOCKET", "-Wl,-z,now", "-Wl,-z,noexecstack"}

// vm links the executable into tree/vm.
func (tc toolchain) vm(tree string, args ...string) {
	tc.t.Helper()
	tc.clang(file(tc.t, tree, "vm/pharo"), vmSource, append([]string{"-Wl,-s", "-Wl,--dynamic-linker=" + tc.interp, tc.stub()}, args...)...)
}

// plugin links an external plugin into tree/vm.
func (tc toolchain) plugin(tree, name string, args ...string) {
	tc.t.Helper()
	tc.clang(file(tc.t, tree, "vm/"+name), pluginSource, append([]string{"-Wl,-s", "-shared", "-Wl,-z,now", "-Wl,-z,noexecstack", tc.stub()}, args...)...)
}

func (tc toolchain) stub() string { return filepath.Join(tc.dir, "libc_stub.so") }

// goodTree makes a tree that passes goodRules.
func goodTree(tc toolchain) string {
	tree := tc.t.TempDir()
	tc.vm(tree, hardened...)
	tc.plugin(tree, "SqueakSSL.so")
	// Linked again with symbols and under the same build-id: what splitting one
	// link would give, without an objcopy that knows both architectures.
	tc.clang(file(tc.t, tree, "symbols/pharo.debug"), vmSource, append([]string{"-g", "-fdebug-compilation-dir=.", tc.stub()}, hardened...)...)
	tc.clang(file(tc.t, tree, "symbols/SqueakSSL.so.debug"), pluginSource, "-g", "-fdebug-compilation-dir=.", "-shared", tc.stub())
	write(tc.t, tree, "info/plugins.txt", "FilePlugin internal\nSocketPlugin internal\nSqueakSSL external\n")
	return tree
}

func goodRules(tc toolchain, platform, libc string) Rules {
	return Rules{
		Platform: platform, Libc: libc, AllowedLibs: []string{tc.libc}, GlibcCeiling: "2.34", PIE: true, RELRO: "full",
		Kept: []string{"FilePlugin", "SocketPlugin", "SqueakSSL"}, Excluded: []string{"MIDIPlugin", "DropPlugin", "CroquetPlugin"},
	}
}

func write(t *testing.T, tree, name, data string) {
	t.Helper()
	if err := os.WriteFile(file(t, tree, name), []byte(data), 0o755); err != nil {
		t.Fatal(err)
	}
}

// file gives the host path of name in tree, whose folder exists.
func file(t *testing.T, tree, name string) string {
	t.Helper()
	f := filepath.Join(tree, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
		t.Fatal(err)
	}
	return f
}
