package patch

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// ApplyDir applies the series to the directory dir. Nothing is written unless
// all of it applies; each file is then written beside and renamed. Symbolic
// links that lead out of dir are never followed.
func ApplyDir(dir string, series []Patch) (*Applied, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("apply patches: %w", err)
	}
	defer root.Close()
	done, err := Apply(series, func(name string) (File, error) { return readFile(root, name) })
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(done.Files)) {
		if err := writeFile(root, name, done.Files[name]); err != nil {
			return nil, fmt.Errorf("apply patches in %s: %w", dir, err)
		}
	}
	return done, nil
}

func readFile(root *os.Root, name string) (File, error) {
	local := filepath.FromSlash(name)
	info, err := root.Lstat(local)
	if err != nil {
		// A parent that is a file makes Lstat fail with ENOTDIR; it is reported for the parent itself.
		if strings.Contains(name, "/") && !os.IsNotExist(err) {
			if p, perr := root.Lstat(filepath.FromSlash(path.Dir(name))); perr == nil && !p.IsDir() {
				return File{}, fs.ErrNotExist
			}
		}
		return File{}, err
	}
	switch {
	case info.IsDir():
		return File{}, fs.ErrNotExist
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := root.Readlink(local)
		return File{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}, err
	case !info.Mode().IsRegular():
		return File{}, fmt.Errorf("%s is not a regular file", name)
	}
	data, err := root.ReadFile(local)
	return File{Data: data, Mode: fileMode(info.Mode())}, err
}

func writeFile(root *os.Root, name string, f *File) error {
	local := filepath.FromSlash(name)
	if f == nil {
		return root.Remove(local)
	}
	if dir := filepath.Dir(local); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	beside := local + ".patched~"
	if err := root.WriteFile(beside, f.Data, f.Mode); err != nil {
		return err
	}
	if err := root.Chmod(beside, f.Mode); err != nil {
		return err
	}
	if err := root.Rename(beside, local); err != nil {
		root.Remove(beside)
		return err
	}
	return nil
}
