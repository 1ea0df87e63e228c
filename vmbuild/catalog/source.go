package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	version "github.com/hashicorp/go-version"
)

// Source is a VM code base that can be built: where it comes from, how its
// build is driven, and which plugins it has.
type Source struct {
	Name            Text                `yaml:"name"`
	Title           string              `yaml:"title"`
	Homepage        string              `yaml:"homepage"`
	License         string              `yaml:"license"` // SPDX expression
	Layout          Text                `yaml:"layout"`  // which build contract the tree follows: minheadless
	Runs            string              `yaml:"runs"`    // which Pharo versions, for people
	ImageFormats    []int               `yaml:"image-formats"`
	Git             string              `yaml:"git"`     // URL; empty for a source inside this project
	Archive         string              `yaml:"archive"` // URL with {commit}
	Local           string              `yaml:"local"`   // folder in this project, for a source that is ours
	Marks           []string            `yaml:"marks"`   // files that any tree of this source has
	Paths           []string            `yaml:"paths"`   // what of the tree the build reads
	BuildType       string              `yaml:"build-type"`
	CMake           map[string]string   `yaml:"cmake"`
	CFlags          []string            `yaml:"c-flags"`
	LibcFlags       map[string][]string `yaml:"libc-flags"` // more of them, by libc
	LinkFlags       []string            `yaml:"link-flags"`
	ModuleLinkFlags []string            `yaml:"module-link-flags"` // of external plugins
	Libraries       []string            `yaml:"libraries"`         // what the executable may need beside libc, by soname

	Default  Text                `yaml:"-"`
	Versions map[string]*Version `yaml:"-"`
	Groups   map[string]string   `yaml:"-"`
	Plugins  map[string]*Plugin  `yaml:"-"`
	Patches  []*Patch            `yaml:"-"`
}

// Version is one pinned state of a source, from its lock file.
type Version struct {
	Commit        string `yaml:"commit"` // full git commit id
	Tree          string `yaml:"tree"`   // the commit's tree id: verifies an archive made from it
	Epoch         int64  `yaml:"epoch"`  // the commit's time, seconds since 1970: SOURCE_DATE_EPOCH
	ArchiveSHA256 string `yaml:"archive-sha256"`
}

// Plugin is a VM plugin: a module of primitives.
type Plugin struct {
	Name     string   `yaml:"-" json:"name"`
	Kind     Text     `yaml:"kind" json:"kind"` // internal (linked into the executable) or external (a shared object beside it)
	Groups   []string `yaml:"groups" json:"groups"`
	Does     string   `yaml:"does" json:"does"`
	Needs    []string `yaml:"needs" json:"needs,omitempty"`        // plugins
	NeedsLib []string `yaml:"needs-lib" json:"needsLib,omitempty"` // libraries opened at run time
	Broken   string   `yaml:"broken" json:"broken,omitempty"`      // why it cannot be built
}

// Patch is one change that a version of a source needs to build.
type Patch struct {
	File     string `yaml:"file" json:"file"`
	Title    string `yaml:"title" json:"title"`
	Why      string `yaml:"why" json:"why"`
	Versions Text   `yaml:"versions" json:"versions"` // hashicorp/go-version constraint

	constraint version.Constraints
	path       string
}

// Path is where the patch lies, from the catalogue's root.
func (p *Patch) Path() string { return p.path }

// For reports whether the patch belongs to this version of its source.
func (p *Patch) For(v string) (bool, error) {
	parsed, err := version.NewVersion(v)
	if err != nil {
		return false, fmt.Errorf("choosing patches for version %q: %w", v, err)
	}
	// In go-version a constraint without a pre-release never matches a version
	// with one, but a patch for 12.x is meant for 12.0.5-beta as well.
	return !slices.ContainsFunc(p.constraint, func(c *version.Constraint) bool {
		if c.Prerelease() {
			return !c.Check(parsed)
		}
		return !c.Check(parsed.Core())
	}), nil
}

func (c *Catalog) loadSource(fsys fs.FS, file string) error {
	s := &Source{}
	if err := decode(fsys, file, s); err != nil {
		return err
	}
	if err := errors.Join(named(file, s.Name), oneOf(file, "layout", s.Layout, "minheadless")); err != nil {
		return err
	}
	stem := strings.TrimSuffix(file, ".yaml")
	err := errors.Join(s.loadLock(fsys, stem+".lock.yaml"), s.loadPlugins(fsys, stem+".plugins.yaml"),
		s.loadPatches(fsys, path.Join("patches", s.Name.Value)))
	for libc := range s.LibcFlags {
		err = errors.Join(err, oneOf(file, "libc", Text{Value: libc}, Libcs...))
	}
	c.Sources[s.Name.Value] = s
	return err
}

func (s *Source) loadLock(fsys fs.FS, file string) error {
	var lock struct {
		Default  Text                `yaml:"default"`
		Versions map[string]*Version `yaml:"versions"`
	}
	if err := decode(fsys, file, &lock); err != nil {
		return err
	}
	s.Default, s.Versions = lock.Default, lock.Versions
	for _, name := range slices.Sorted(maps.Keys(s.Versions)) {
		v := s.Versions[name]
		if _, err := version.NewVersion(name); err != nil {
			return &Error{file, 0, fmt.Sprintf("version %q cannot be ordered: %v", name, err)}
		}
		if s.Git != "" && (!isHex(v.Commit, 40) || !isHex(v.Tree, 40)) {
			return &Error{file, 0, fmt.Sprintf("version %s needs the full commit and tree id, 40 hexadecimal digits each", name)}
		}
		if v.ArchiveSHA256 != "" && !isHex(v.ArchiveSHA256, 64) {
			return &Error{file, 0, fmt.Sprintf("version %s: archive-sha256 is 64 hexadecimal digits, or absent", name)}
		}
	}
	if _, ok := s.Versions[s.Default.Value]; !ok {
		return &Error{file, s.Default.Line, fmt.Sprintf("the default version %q is not listed below: %s",
			s.Default.Value, Suggest(s.Default.Value, slices.Collect(maps.Keys(s.Versions))))}
	}
	return nil
}

func (s *Source) loadPlugins(fsys fs.FS, file string) error {
	var list struct {
		Groups  map[string]string  `yaml:"groups"`
		Plugins map[string]*Plugin `yaml:"plugins"`
	}
	if err := decode(fsys, file, &list); err != nil {
		return err
	}
	s.Groups, s.Plugins = list.Groups, list.Plugins
	var errs []error
	for _, name := range s.PluginNames() {
		p := s.Plugins[name]
		p.Name = name
		errs = append(errs, oneOf(file, name+": kind", p.Kind, "internal", "external"))
		if len(p.Groups) == 0 {
			errs = append(errs, &Error{file, p.Kind.Line, name + " is in no group: name at least one"})
		}
		for _, g := range p.Groups {
			if _, ok := s.Groups[g]; !ok {
				errs = append(errs, &Error{file, p.Kind.Line, fmt.Sprintf("%s: group %q is not known: %s", name, g, Suggest(g, slices.Collect(maps.Keys(s.Groups))))})
			}
		}
		for _, n := range p.Needs {
			need, ok := s.Plugins[n]
			if !ok {
				errs = append(errs, &Error{file, p.Kind.Line, fmt.Sprintf("%s needs %q, which is not known: %s", name, n, Suggest(n, s.PluginNames()))})
			} else if need.Broken != "" && p.Broken == "" {
				errs = append(errs, &Error{file, p.Kind.Line, fmt.Sprintf("%s needs %s, which is broken: mark it broken too", name, n)})
			}
		}
	}
	for _, g := range slices.Sorted(maps.Keys(s.Groups)) {
		if _, ok := s.Plugins[g]; ok {
			errs = append(errs, &Error{file, 0, fmt.Sprintf("%q is the name of a group and of a plugin: rename the group", g)})
		}
	}
	return errors.Join(errs...)
}

func (s *Source) loadPatches(fsys fs.FS, dir string) error {
	var series struct {
		Patches []*Patch `yaml:"patches"`
	}
	file := path.Join(dir, "series.yaml")
	files, err := fs.Glob(fsys, path.Join(dir, "*.patch"))
	if err != nil {
		return err
	}
	if _, err := fs.Stat(fsys, file); errors.Is(err, fs.ErrNotExist) && len(files) == 0 {
		return nil // a source may build as it is
	}
	if err := decode(fsys, file, &series); err != nil {
		return err
	}
	listed := map[string]bool{}
	for _, p := range series.Patches {
		if p.File == "" || path.Base(p.File) != p.File {
			return &Error{file, p.Versions.Line, fmt.Sprintf("patch file %q must be a name in %s", p.File, dir)}
		}
		p.path = path.Join(dir, p.File)
		if listed[p.path] {
			return &Error{file, p.Versions.Line, fmt.Sprintf("patch %s is listed twice: list it once", p.File)}
		}
		if _, err := fs.Stat(fsys, p.path); err != nil {
			return &Error{file, p.Versions.Line, fmt.Sprintf("patch %s is listed but not in %s", p.File, dir)}
		}
		if p.constraint, err = version.NewConstraint(p.Versions.Value); err != nil {
			return &Error{file, p.Versions.Line, fmt.Sprintf("%s: %v: write it like \">= 20210325, < 20220601\"", p.File, err)}
		}
		if p.Title == "" || p.Why == "" {
			return &Error{file, p.Versions.Line, p.File + " needs a title and a why"}
		}
		listed[p.path] = true
	}
	for _, f := range files {
		if !listed[f] {
			return &Error{file, 0, fmt.Sprintf("%s lies beside this file but is not listed in it: list it or delete it", path.Base(f))}
		}
	}
	s.Patches = series.Patches
	return nil
}

// PluginNames lists the source's plugins, sorted.
func (s *Source) PluginNames() []string { return slices.Sorted(maps.Keys(s.Plugins)) }

// PatchesFor are the patches of one version, in the order of the series.
func (s *Source) PatchesFor(v string) ([]*Patch, error) {
	var out []*Patch
	for _, p := range s.Patches {
		ok, err := p.For(v)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, p)
		}
	}
	return out, nil
}
