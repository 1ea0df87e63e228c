package gate

import (
	"bytes"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"os"
	"path"
	"strings"
)

// packed checks an executable that UPX has packed: the sections are gone, so
// only what is left can be read; the unpacked one passed the other gates.
func (c *checker) packed(name string) {
	c.guard(name, func() error {
		obj, err := load(c.path(name))
		if err != nil {
			return err
		}
		c.machine(name, obj)
		c.add(name, "packed by UPX", bytes.Contains(obj.data, []byte("UPX!")), fmt.Sprintf("%d bytes", len(obj.data)), "pack it with upx, or take the method out of the image")
		info, err := os.Stat(c.path("vm/" + executable))
		if err != nil {
			return nil // its absence has a row of its own
		}
		c.add(name, "smaller than unpacked", int64(len(obj.data)) < info.Size(), fmt.Sprintf("%d of %d bytes", len(obj.data), info.Size()), "ship it unpacked")
		return nil
	})
}

// runtime checks files of the distribution that a scratch image carries: ELF
// files must be for this platform and stripped; others are data.
func (c *checker) runtime(name string) {
	c.guard(name, func() error {
		data, err := os.ReadFile(c.path(name))
		if err != nil {
			return err
		}
		if !bytes.HasPrefix(data, []byte(elf.ELFMAG)) {
			return nil
		}
		obj, err := parse(data)
		if err != nil {
			return err
		}
		c.machine(name, obj)
		c.stripped(name, obj)
		return nil
	})
}

// symbols checks that a debugger would take a symbol file for its binary.
func (c *checker) symbols(name string) {
	binary := "vm/" + strings.TrimSuffix(strings.TrimPrefix(name, "symbols/"), ".debug")
	c.guard(name, func() error {
		if _, err := os.Stat(c.path(binary)); err != nil {
			c.add(name, "matches its binary", false, binary+" is missing", "remove it: it belongs to no file of this tree")
			return nil
		}
		debug, err := load(c.path(name))
		if err != nil {
			return err
		}
		stripped, err := load(c.path(binary))
		if err != nil {
			return nil // the binary has a row of its own
		}
		found, ok := match(stripped, debug, path.Base(name))
		c.add(name, "matches its binary", ok, found, "keep symbols and strip from the same link; link with -Wl,--build-id")
		return nil
	})
}

// match compares build IDs where both have one, else the debug link.
func match(stripped, debug *object, name string) (string, bool) {
	if a, b := buildID(stripped), buildID(debug); a != nil && b != nil {
		if bytes.Equal(a, b) {
			return "build-id " + hex.EncodeToString(a), true
		}
		return fmt.Sprintf("build-id %x, the binary has %x", b, a), false
	}
	s := stripped.Section(".gnu_debuglink")
	if s == nil {
		return "neither build-id nor .gnu_debuglink", false
	}
	link := fileBytes(stripped, s.Offset, s.Size)
	end := bytes.IndexByte(link, 0)
	at := (end + 4) &^ 3
	if end < 0 || len(link) < at+4 {
		return "a damaged .gnu_debuglink", false
	}
	want, got := stripped.ByteOrder.Uint32(link[at:]), crc32.ChecksumIEEE(debug.data)
	if string(link[:end]) != name || want != got {
		return fmt.Sprintf("checksum %08x, the binary wants %s with %08x", got, link[:end], want), false
	}
	return fmt.Sprintf("checksum %08x", got), true
}

// buildID reads the descriptor of the GNU build-id note.
func buildID(obj *object) []byte {
	s := obj.Section(".note.gnu.build-id")
	if s == nil || s.Type == elf.SHT_NOBITS {
		return nil
	}
	note := fileBytes(obj, s.Offset, s.Size)
	if len(note) < 16 || string(note[12:16]) != "GNU\x00" {
		return nil
	}
	size := uint64(obj.ByteOrder.Uint32(note[4:]))
	if size == 0 || size > uint64(len(note)-16) {
		return nil
	}
	return note[16 : 16+size]
}
