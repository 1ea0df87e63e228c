// Package gate says whether a VM tree is fit to ship: architecture, libraries,
// hardening, plugins, host paths, symbols and sizes, all read from the ELF files
// themselves and never from what a build claims about them.
//
// A tree that fails gives a Report with failing rows, not an error: every gate
// is tried, so that one run shows all there is to mend.
package gate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
)

// Rules are what one VM tree must satisfy; pure data from the catalogue.
type Rules struct {
	Platform string // "linux/amd64" or "linux/arm64"
	Libc     string // "musl" or "glibc"

	AllowedLibs  []string // names a DT_NEEDED may have, exactly
	GlibcCeiling string   // newest glibc symbol version allowed, "2.34"; only for glibc
	PIE          bool     // the executable must be position-independent
	RELRO        string   // "full", "partial", or "" for none asked

	Kept     []string // plugins that must be there, built in or as X.so
	Excluded []string // plugins that must be neither

	Packed    []string // methods that must be there as packed/<method>/pharo
	HostPaths []string // prefixes that give a build machine away; nil means DefaultHostPaths
}

// DefaultHostPaths are folders a build may run in and a user's machine does
// not have.
var DefaultHostPaths = []string{"/src/", "/build/", "/root/", "/work/", "/home/"}

// executable is the VM's name in vm/ and packed/<method>/.
const executable = "pharo"

// target is what Platform and Libc come to in ELF terms.
type target struct {
	machine string // elf.Machine's name
	interp  string
}

var targets = map[string]target{
	"linux/amd64/musl":  {"EM_X86_64", "/lib/ld-musl-x86_64.so.1"},
	"linux/arm64/musl":  {"EM_AARCH64", "/lib/ld-musl-aarch64.so.1"},
	"linux/amd64/glibc": {"EM_X86_64", "/lib64/ld-linux-x86-64.so.2"},
	"linux/arm64/glibc": {"EM_AARCH64", "/lib/ld-linux-aarch64.so.1"},
}

// Check tries every gate on the VM tree in the folder tree. The error is for
// rules that make no sense and for a cancelled ctx; what is wrong with the tree
// is in the Report, whose Err gives it as an error.
func Check(ctx context.Context, tree string, r Rules) (Report, error) {
	t, ok := targets[r.Platform+"/"+r.Libc]
	if !ok {
		return Report{}, fmt.Errorf("checking %s: no rules for platform %q with libc %q: use linux/amd64 or linux/arm64 with musl or glibc", tree, r.Platform, r.Libc)
	}
	if r.HostPaths == nil {
		r.HostPaths = DefaultHostPaths
	}
	c := &checker{tree: tree, rules: r, target: t, found: map[string]string{}}
	files, err := c.list()
	if err != nil {
		return Report{}, fmt.Errorf("checking %s: %w", tree, err)
	}
	for _, name := range files {
		if err := ctx.Err(); err != nil {
			return Report{}, err
		}
		c.file(name)
	}
	c.required(files)
	c.plugins()
	return Report{Rows: c.rows}, nil
}

type checker struct {
	tree   string
	rules  Rules
	target target
	rows   []Row
	found  map[string]string // plugin name → where it was found
}

func (c *checker) add(artefact, rule string, ok bool, found, remedy string) {
	row := Row{Artefact: artefact, Rule: rule, Found: found, OK: ok}
	if !ok {
		row.Remedy = remedy
	}
	c.rows = append(c.rows, row)
}

// list names every file of the tree, slash-separated and sorted.
func (c *checker) list() ([]string, error) {
	var files []string
	err := filepath.WalkDir(c.tree, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(c.tree, p)
		files = append(files, filepath.ToSlash(rel))
		return err
	})
	sort.Strings(files)
	return files, err
}

func (c *checker) path(name string) string { return filepath.Join(c.tree, filepath.FromSlash(name)) }

// file sends one file of the tree to the gates for its kind.
func (c *checker) file(name string) {
	dir, rest, _ := strings.Cut(name, "/")
	info, err := os.Lstat(c.path(name))
	switch {
	case err != nil:
		c.add(name, "readable", false, err.Error(), "build again")
	case dir == "runtime" && info.Mode()&fs.ModeSymlink != 0:
	case !info.Mode().IsRegular():
		c.add(name, "regular file", false, info.Mode().Type().String(), "export files only, not links or devices")
	case dir == "vm" && rest == executable:
		// Windows has no such modes; the layers' do not come from the host.
		if info.Mode()&0o111 == 0 && runtime.GOOS != "windows" {
			c.add(name, "executable", false, info.Mode().String(), "export it with mode 0755")
		}
		c.binary(name, true)
	case dir == "vm" && c.isPlugin(rest):
		c.binary(name, false)
	case dir == "packed" && path.Base(name) == executable && strings.Count(name, "/") == 2:
		c.packed(name)
	case dir == "runtime":
		c.runtime(name)
	case dir == "symbols" && strings.HasSuffix(name, ".debug"):
		c.symbols(name)
	case dir == "info":
	default:
		c.add(name, "expected file", false, fmt.Sprintf("%d bytes", info.Size()), "leave it out of the export")
	}
}

// isPlugin says whether a file of vm/ is a kept plugin; an excluded one is too,
// so that its own gate speaks instead of "expected file".
func (c *checker) isPlugin(file string) bool {
	name, ok := strings.CutSuffix(file, ".so")
	if !ok {
		return false
	}
	for _, plugin := range append(slices.Clone(c.rules.Kept), c.rules.Excluded...) {
		if name == plugin || name == "lib"+plugin {
			c.found[plugin] = "vm/" + file
			return true
		}
	}
	return false
}

// required looks for what must be there and was not met on the way.
func (c *checker) required(files []string) {
	want := []string{"vm/" + executable}
	for _, method := range c.rules.Packed {
		want = append(want, "packed/"+method+"/"+executable)
	}
	for _, name := range want {
		if !slices.Contains(files, name) {
			c.add(name, "present", false, "missing", "look at the build's log: it did not export this file")
		}
	}
	for _, name := range files {
		if dir, rest, _ := strings.Cut(name, "/"); dir == "vm" && (rest == executable || strings.HasSuffix(rest, ".so")) {
			if debug := "symbols/" + rest + ".debug"; !slices.Contains(files, debug) {
				c.add(debug, "present", false, "missing", "keep the symbols with `objcopy --only-keep-debug` before stripping "+name)
			}
		}
	}
}

// plugins compares what was found in the tree with what the profile and the
// build's own list say.
func (c *checker) plugins() {
	c.pluginList()
	for _, plugin := range c.rules.Kept {
		w := c.found[plugin]
		c.add(plugin, "kept plugin", w != "", orNone(w), "build it in or beside the VM, or take it out of the profile")
	}
	for _, plugin := range c.rules.Excluded {
		w := c.found[plugin]
		c.add(plugin, "excluded plugin", w == "", orNone(w), "switch it off in the build, or keep it in the profile")
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// pluginList holds info/plugins.txt, if the tree has it, against the tree: a
// line is "Name internal" or "Name external".
func (c *checker) pluginList() {
	const name = "info/plugins.txt"
	data, err := os.ReadFile(c.path(name))
	if err != nil {
		return
	}
	var wrong []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 2 || c.found[fields[0]] == "" {
			wrong = append(wrong, strings.TrimSpace(line))
		}
	}
	c.add(name, "agrees with the VM", len(wrong) == 0, orNone(strings.Join(wrong, ", ")), "write it from what was linked: these lines have no plugin")
}

// Budget is what an image may weigh on one platform, in bytes above its base;
// 0 is no limit.
type Budget struct {
	Unpacked, Compressed int64
}

// CheckSize holds an image's own layers against its budget. All sizes are bytes.
func CheckSize(image, platform string, unpacked, compressed int64, b Budget) Report {
	var r Report
	for _, s := range []struct {
		rule        string
		size, limit int64
	}{{"unpacked size", unpacked, b.Unpacked}, {"compressed size", compressed, b.Compressed}} {
		if s.limit == 0 {
			continue
		}
		row := Row{Artefact: image + " " + platform, Rule: s.rule, OK: s.size <= s.limit,
			Found: fmt.Sprintf("%s of %s", kB(s.size), kB(s.limit))}
		if !row.OK {
			row.Remedy = fmt.Sprintf("leave out a plugin, pack the VM, or raise the budget in images/%s.yaml", image)
		}
		r.Rows = append(r.Rows, row)
	}
	return r
}

func kB(n int64) string { return fmt.Sprintf("%.1f kB", float64(n)/1000) }

// errNotELF is what a file that is no usable ELF file gives.
var errNotELF = errors.New("not a usable ELF file")
