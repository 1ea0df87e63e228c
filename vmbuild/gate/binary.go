package gate

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/go-version"
)

// object is an ELF file that was read whole.
type object struct {
	*elf.File
	data []byte
}

// load reads an ELF file. Whatever is in it, it gives an object or an error:
// debug/elf promises no more than to try, so a panic of its counts as an error.
func load(name string) (obj *object, err error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return parse(data)
}

func parse(data []byte) (obj *object, err error) {
	defer recovered(&err)
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errNotELF, err)
	}
	return &object{f, data}, nil
}

func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: %v", errNotELF, p)
	}
}

// guard runs the checks of one artefact; what makes debug/elf panic fails the
// artefact instead of the program.
func (c *checker) guard(name string, checks func() error) {
	err := func() (err error) {
		defer recovered(&err)
		return checks()
	}()
	if err != nil {
		c.add(name, "readable ELF", false, err.Error(), "build again; if it stays, the file is damaged")
	}
}

// binary tries every gate on the executable or a shared object of vm/.
func (c *checker) binary(name string, exec bool) {
	c.guard(name, func() error {
		obj, err := load(c.path(name))
		if err != nil {
			return err
		}
		c.machine(name, obj)
		c.stripped(name, obj)
		if err := c.dynamic(name, obj, exec); err != nil {
			return err
		}
		if err := c.glibc(name, obj); err != nil {
			return err
		}
		if err := c.hardening(name, obj, exec); err != nil {
			return err
		}
		c.hostPaths(name, obj)
		if exec {
			for _, p := range builtins(obj) {
				if _, ok := c.found[p.Name]; !ok {
					c.found[p.Name] = p.String()
				}
			}
		}
		return nil
	})
}

func (c *checker) machine(name string, obj *object) {
	found := fmt.Sprintf("%s %s %s %s", obj.Machine, obj.Class, obj.Data, obj.OSABI)
	// GCC and lld write ELFOSABI_LINUX when ifuncs or unique symbols are used.
	ok := obj.Machine.String() == c.target.machine && obj.Class == elf.ELFCLASS64 && obj.Data == elf.ELFDATA2LSB &&
		(obj.OSABI == elf.ELFOSABI_NONE || obj.OSABI == elf.ELFOSABI_LINUX)
	c.add(name, "architecture "+c.rules.Platform, ok, found, "compile it with the wrapper of this platform's triple")
}

func (c *checker) stripped(name string, obj *object) {
	var left []string
	for _, s := range obj.Sections {
		if s.Type == elf.SHT_SYMTAB || strings.HasPrefix(s.Name, ".debug_") || strings.HasPrefix(s.Name, ".zdebug_") {
			left = append(left, s.Name)
		}
	}
	c.add(name, "stripped", len(left) == 0, orNone(strings.Join(left, " ")), "strip it with `strip --strip-all` once its symbols are kept")
}

// dynamic covers interpreter, libraries and search paths.
func (c *checker) dynamic(name string, obj *object, exec bool) error {
	var interp string
	dynamic := false
	for _, p := range obj.Progs {
		switch p.Type {
		case elf.PT_DYNAMIC:
			dynamic = true
		case elf.PT_INTERP:
			data, err := readAll(obj, p)
			if err != nil {
				return err
			}
			interp = string(bytes.TrimRight(data, "\x00"))
		}
	}
	// Without the section debug/elf reports no libraries, which would pass.
	if dynamic && obj.SectionByType(elf.SHT_DYNAMIC) == nil {
		return fmt.Errorf("%w: no section headers: libraries and hardening cannot be checked", errNotELF)
	}
	if exec {
		c.add(name, "interpreter", interp == c.target.interp, orNone(interp), "link it dynamically for "+c.rules.Libc+": want "+c.target.interp)
	}
	libs, err := obj.DynString(elf.DT_NEEDED)
	if err != nil {
		return err
	}
	wrong := slices.DeleteFunc(slices.Clone(libs), func(l string) bool { return slices.Contains(c.rules.AllowedLibs, l) })
	shown := libs
	if len(wrong) > 0 {
		shown = wrong
	}
	c.add(name, "allowed libraries", len(wrong) == 0, orNone(strings.Join(shown, " ")),
		"link without it, or allow it in the catalogue and ship it; allowed are "+orNone(strings.Join(c.rules.AllowedLibs, " ")))
	var paths []string
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		got, err := obj.DynString(tag)
		if err != nil {
			return err
		}
		paths = append(paths, got...)
	}
	ok := !slices.ContainsFunc(paths, func(p string) bool { return p != "$ORIGIN" })
	c.add(name, "search path", ok, orNone(strings.Join(paths, " ")), "link with -Wl,-rpath,'$ORIGIN' or none: set CMAKE_SKIP_RPATH=ON")
	return nil
}

func readAll(obj *object, p *elf.Prog) ([]byte, error) {
	if p.Off > uint64(len(obj.data)) || p.Filesz > uint64(len(obj.data))-p.Off {
		return nil, fmt.Errorf("%w: segment %s lies outside the file", errNotELF, p.Type)
	}
	return obj.data[p.Off : p.Off+p.Filesz], nil
}

// dtRELR is the tag of packed relative relocations, which debug/elf does not
// name; glibc's loader reads them from version relrSince.
const (
	dtRELR    = elf.DynTag(36)
	relrSince = "2.36"
)

// glibc holds the newest symbol version asked of glibc against the ceiling.
func (c *checker) glibc(name string, obj *object) error {
	var needs []elf.DynamicVersionNeed
	if obj.SectionByType(elf.SHT_GNU_VERNEED) != nil {
		var err error
		if needs, err = obj.DynamicVersionNeeds(); err != nil {
			return err
		}
	}
	// Packed relocations need a loader that reads them, marked or not.
	if c.rules.Libc == "glibc" && hasTag(obj, dtRELR) {
		needs = append(needs, elf.DynamicVersionNeed{Needs: []elf.DynamicVersionDep{{Dep: "GLIBC_ABI_DT_RELR"}}})
	}
	var newest *version.Version
	private := ""
	for _, n := range needs {
		for _, dep := range n.Needs {
			v, ok := strings.CutPrefix(dep.Dep, "GLIBC_")
			switch {
			case !ok:
				continue
			case v == "ABI_DT_RELR":
				v = relrSince
			case v == "PRIVATE":
				private = dep.Dep
				continue
			}
			parsed, err := version.NewVersion(v)
			if err != nil {
				return fmt.Errorf("symbol version %q: %w", dep.Dep, err)
			}
			if newest == nil || parsed.GreaterThan(newest) {
				newest = parsed
			}
		}
	}
	found := private
	if newest != nil {
		found = strings.TrimSpace(private + " GLIBC_" + newest.Original())
	}
	if c.rules.Libc != "glibc" {
		c.add(name, "no glibc symbols", found == "", orNone(found), "compile it against the musl sysroot")
		return nil
	}
	if c.rules.GlibcCeiling == "" {
		return nil
	}
	ceiling, err := version.NewVersion(c.rules.GlibcCeiling)
	if err != nil {
		return fmt.Errorf("glibc ceiling %q: %w", c.rules.GlibcCeiling, err)
	}
	ok := private == "" && (newest == nil || !newest.GreaterThan(ceiling))
	c.add(name, "glibc at most "+c.rules.GlibcCeiling, ok, orNone(found), "build against an older sysroot, or avoid the newer function")
	return nil
}

// hardening covers what the kernel and loader are asked to protect.
func (c *checker) hardening(name string, obj *object, exec bool) error {
	stack, relro := "no PT_GNU_STACK", false
	for _, p := range obj.Progs {
		switch p.Type {
		case elf.PT_GNU_STACK:
			stack = p.Flags.String()
		case elf.PT_GNU_RELRO:
			relro = true
		}
	}
	c.add(name, "stack not executable", stack == "PF_W+PF_R", stack, "link with -Wl,-z,noexecstack and mark assembler files with .note.GNU-stack")

	flags, flags1 := dynFlag(obj, elf.DT_FLAGS), dynFlag(obj, elf.DT_FLAGS_1)
	now := flags&uint64(elf.DF_BIND_NOW) != 0 || flags1&uint64(elf.DF_1_NOW) != 0 || hasTag(obj, elf.DT_BIND_NOW)
	found := "none"
	if relro {
		found = "partial"
		if now {
			found = "full"
		}
	}
	if want := c.rules.RELRO; want != "" {
		c.add(name, "RELRO "+want, found == "full" || found == want, found, "link with -Wl,-z,relro,-z,now")
	}
	if exec && c.rules.PIE {
		c.add(name, "position-independent", obj.Type == elf.ET_DYN, obj.Type.String(), "compile with -fPIE and link with -pie")
	}
	text := hasTag(obj, elf.DT_TEXTREL) || flags&uint64(elf.DF_TEXTREL) != 0
	c.add(name, "no text relocations", !text, orNone(map[bool]string{true: "DT_TEXTREL"}[text]), "compile everything with -fPIC or -fPIE")
	return nil
}

func dynFlag(obj *object, tag elf.DynTag) (all uint64) {
	values, err := obj.DynValue(tag)
	if err != nil {
		return 0
	}
	for _, v := range values {
		all |= v
	}
	return all
}

func hasTag(obj *object, tag elf.DynTag) bool {
	values, err := obj.DynValue(tag)
	return err == nil && len(values) > 0
}

// hostPaths looks for strings that begin with a folder of the build machine.
func (c *checker) hostPaths(name string, obj *object) {
	var found []string
	for _, prefix := range c.rules.HostPaths {
		for rest, at := obj.data, 0; ; {
			i := bytes.Index(rest, []byte(prefix))
			if i < 0 {
				break
			}
			at += i
			if at == 0 || !isPathByte(obj.data[at-1]) {
				end := at
				for end < len(obj.data) && isPathByte(obj.data[end]) {
					end++
				}
				found = append(found, string(obj.data[at:end]))
				break // one of each is enough to act on
			}
			at += len(prefix)
			rest = obj.data[at:]
		}
	}
	c.add(name, "no build path inside", len(found) == 0, orNone(strings.Join(found, " ")), "compile with -ffile-prefix-map=FOLDER=.")
}

func isPathByte(b byte) bool {
	return b == '/' || b == '.' || b == '-' || b == '_' || b == '+' || b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
}
