package gate

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"regexp"
	"sort"
)

// Builtin is a plugin found inside an executable.
type Builtin struct {
	Name string `json:"name"`
	// Exports is how many entries its export table has; 0 when only its module
	// name string was found.
	Exports int `json:"exports"`
}

func (b Builtin) String() string {
	if b.Exports == 0 {
		return "built in, by its module name"
	}
	return fmt.Sprintf("built in, %d exports", b.Exports)
}

// Builtins lists the plugins built into the VM executable at name, sorted.
//
// Slang writes for every internal plugin a table of {module name, primitive
// name, function} triples, which the VM's ioInitializeInternalPluginPrimitives
// refers to, and a module name string ending in "(i)". The tables are found by
// their shape: in a writable or relocated section, three words of which the
// first two lead to C identifiers and the third into code. That needs no
// symbols, so it works on a stripped VM. The strings are looked for as well, for
// plugins whose table a build has replaced by something else.
func Builtins(name string) (out []Builtin, err error) {
	defer recovered(&err)
	obj, err := load(name)
	if err != nil {
		return nil, fmt.Errorf("reading the plugins of %s: %w", name, err)
	}
	return builtins(obj), nil
}

// moduleName is what getModuleName answers in generated plugins:
// "FilePlugin VMMaker.oscog-eem.2850 (i)".
var moduleName = regexp.MustCompile(`([A-Za-z][A-Za-z0-9_]{2,63})[ .*]+VMMaker[^\x00]{0,80} \(i\)\x00`)

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{1,127}$`)

func builtins(obj *object) []Builtin {
	count := tables(obj)
	for _, m := range moduleName.FindAllSubmatch(obj.data, -1) {
		if name := string(m[1]); count[name] == 0 {
			count[name] = 0
		}
	}
	out := make([]Builtin, 0, len(count))
	for name, n := range count {
		out = append(out, Builtin{name, n})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// tables counts export table entries by module.
func tables(obj *object) map[string]int {
	words := relocated(obj)
	count := map[string]int{}
	for _, s := range obj.Sections {
		if s.Type != elf.SHT_PROGBITS || s.Flags&elf.SHF_ALLOC == 0 || s.Flags&elf.SHF_EXECINSTR != 0 {
			continue
		}
		data := fileBytes(obj, s.Offset, s.Size)
		at := func(i uint64) uint64 {
			if v, ok := words[s.Addr+i]; ok {
				return v
			}
			return obj.ByteOrder.Uint64(data[i:])
		}
		for i := uint64(0); i+24 <= uint64(len(data)); i += 8 {
			if !isCode(obj, at(i+16)) {
				continue
			}
			module, primitive := cString(obj, at(i)), cString(obj, at(i+8))
			if identifier.MatchString(module) && identifier.MatchString(primitive) {
				count[module]++
			}
		}
	}
	return count
}

// relocated gives the words that relative relocations fill in when a
// position-independent executable is loaded at 0.
func relocated(obj *object) map[uint64]uint64 {
	words := map[uint64]uint64{}
	for _, s := range obj.Sections {
		if s.Type != elf.SHT_RELA {
			continue
		}
		data := fileBytes(obj, s.Offset, s.Size)
		for ; len(data) >= 24; data = data[24:] {
			kind := uint32(binary.LittleEndian.Uint64(data[8:]))
			relative := obj.Machine == elf.EM_X86_64 && elf.R_X86_64(kind) == elf.R_X86_64_RELATIVE ||
				obj.Machine == elf.EM_AARCH64 && elf.R_AARCH64(kind) == elf.R_AARCH64_RELATIVE
			if relative {
				words[binary.LittleEndian.Uint64(data)] = binary.LittleEndian.Uint64(data[16:])
			}
		}
	}
	return words
}

func fileBytes(obj *object, off, size uint64) []byte {
	if off > uint64(len(obj.data)) || size > uint64(len(obj.data))-off {
		return nil
	}
	return obj.data[off : off+size]
}

func isCode(obj *object, addr uint64) bool {
	for _, p := range obj.Progs {
		if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && addr >= p.Vaddr && addr-p.Vaddr < p.Filesz {
			return true
		}
	}
	return false
}

// cString reads the string at a virtual address; "" when there is none.
func cString(obj *object, addr uint64) string {
	for _, p := range obj.Progs {
		if p.Type != elf.PT_LOAD || p.Flags&elf.PF_X != 0 || addr < p.Vaddr || addr-p.Vaddr >= p.Filesz {
			continue
		}
		data := fileBytes(obj, p.Off, p.Filesz)
		if data == nil {
			return ""
		}
		data = data[addr-p.Vaddr:]
		for i, b := range data {
			if b == 0 {
				return string(data[:i])
			}
			if i > 127 {
				break
			}
		}
		return ""
	}
	return ""
}
