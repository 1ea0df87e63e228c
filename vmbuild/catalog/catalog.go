// Package catalog reads what users may change (sources/, profiles/, images/,
// patches/) into typed, validated values.
//
// Everything here is pure: the catalogue is read from an [fs.FS] once, checked
// as a whole, and never written. A mistake is an [*Error] that names file and
// line and ends in the values that would have been right.
package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// Platforms are the platforms the project builds for, in the order in which
// they are printed.
var Platforms = []string{"linux/amd64", "linux/arm64"}

// Libcs are the C libraries a VM can be linked against.
var Libcs = []string{"glibc", "musl"}

// Catalog is everything the project knows how to build.
type Catalog struct {
	Sources  map[string]*Source
	Profiles map[string]*Profile
	Images   map[string]*Image
	Builders map[string]*Builder
	Bases    map[string]*Base
}

// Load reads and checks the catalogue below the root of fsys. All mistakes are
// reported at once, joined.
func Load(fsys fs.FS) (*Catalog, error) {
	c := &Catalog{
		Sources: map[string]*Source{}, Profiles: map[string]*Profile{},
		Images: map[string]*Image{}, Builders: map[string]*Builder{}, Bases: map[string]*Base{},
	}
	// Elsewhere everything is missing, and one word about it is enough.
	if err := each(fsys, "sources", func(string) error { return nil }); err != nil {
		return nil, err
	}
	err := errors.Join(
		c.loadBases(fsys),
		each(fsys, "sources", func(file string) error { return c.loadSource(fsys, file) }),
		each(fsys, "profiles", func(file string) error { return c.loadProfile(fsys, file) }),
		each(fsys, "images/builders", func(file string) error { return c.loadBuilder(fsys, file) }),
		each(fsys, "images", func(file string) error { return c.loadImage(fsys, file) }),
	)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(c.Images)) {
		errs = append(errs, c.checkImage(c.Images[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Profiles)) {
		errs = append(errs, c.checkProfile(c.Profiles[name]))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, nil
}

// each calls load for every definition in dir: NAME.yaml, but not the files
// that belong to one (NAME.plugins.yaml, NAME.lock.yaml).
func each(fsys fs.FS, dir string, load func(file string) error) error {
	files, err := fs.Glob(fsys, path.Join(dir, "*.yaml"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("reading the catalogue: no %s/*.yaml here: run this in the project's folder, or name it with VMBUILD_DIR", dir)
	}
	var errs []error
	for _, file := range files {
		if strings.HasSuffix(file, ".plugins.yaml") || strings.HasSuffix(file, ".lock.yaml") {
			continue
		}
		errs = append(errs, load(file))
	}
	return errors.Join(errs...)
}

// named checks that a definition's name is its file's.
func named(file string, name Text) error {
	if want := strings.TrimSuffix(path.Base(file), ".yaml"); name.Value != want {
		return &Error{file, max(name.Line, 1), fmt.Sprintf("the name is %q but the file is called %s: make them the same", name.Value, path.Base(file))}
	}
	// Names become parts of file names, image names and tags.
	if strings.Trim(name.Value, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" || strings.Trim(name.Value[:1], ".-_") == "" {
		return &Error{file, name.Line, fmt.Sprintf("the name %q cannot be part of an image's name: use a-z, 0-9, and . - _ after the first", name.Value)}
	}
	return nil
}

// Lookup finds an entry by name; the error for an unknown one ends in the
// nearest right name.
func Lookup[T any](kind string, entries map[string]T, name string) (T, error) {
	if v, ok := entries[name]; ok {
		return v, nil
	}
	var zero T
	return zero, fmt.Errorf("unknown %s %q: %s", kind, name, Suggest(name, slices.Collect(maps.Keys(entries))))
}
