package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"

	units "github.com/docker/go-units"
	"github.com/goccy/go-yaml/ast"
)

// Image is a base image to publish: a VM on a base, for every platform.
type Image struct {
	Name        Text              `yaml:"name"`
	Title       string            `yaml:"title"`
	Description string            `yaml:"description"`
	Libc        []Text            `yaml:"libc"`    // in order of preference; the builder must provide the runtime for it
	Base        Text              `yaml:"base"`    // an entry of images.lock.yaml; empty for an image from scratch
	Builder     Text              `yaml:"builder"` // first choice
	StandIn     Text              `yaml:"stand-in"`
	Runtime     []Text            `yaml:"runtime"` // parts of the builder's distribution put inside: libc, tls
	TLS         string            `yaml:"tls"`     // where TLS libraries and CA certificates come from, for people
	UPX         Text              `yaml:"upx"`     // none, best or lzma
	Env         map[string]string `yaml:"env"`
	Budget      map[string]Budget `yaml:"budget"` // by platform
	// BudgetFor are the profiles that the budget binds; others are as large as
	// what they keep.
	BudgetFor []Text `yaml:"budget-for"`

	file string
}

// Budget limits what an image may weigh above its base, in bytes. The layer of
// TLS libraries and certificates is counted apart, since its size is its
// distribution's doing and not the VM's.
type Budget struct {
	Unpacked   Size `yaml:"unpacked" json:"unpacked"`
	Compressed Size `yaml:"compressed" json:"compressed"`
	TLS        Size `yaml:"tls" json:"tls,omitempty"` // compressed
}

// Size is a number of bytes, written in YAML with a decimal unit: 1.1 MB.
type Size int64

// UnmarshalYAML reads "750 kB".
func (s *Size) UnmarshalYAML(node ast.Node) error {
	var text Text
	if err := text.UnmarshalYAML(node); err != nil {
		return err
	}
	n, err := units.FromHumanSize(text.Value)
	if err != nil {
		return &Error{Line: text.Line, Msg: fmt.Sprintf("%q is no size: write it like 750 kB or 1.1 MB", text.Value)}
	}
	*s = Size(n)
	return nil
}

// Builder is an environment that VMs are compiled in: a distribution, its
// packages, and what a sysroot of each libc is made of.
type Builder struct {
	Name     Text                `yaml:"name"`
	Title    string              `yaml:"title"`
	Base     Text                `yaml:"base"`     // an entry of images.lock.yaml
	Manager  Text                `yaml:"manager"`  // apt or apk
	Release  string              `yaml:"release"`  // the distribution's release, as its mirrors spell it
	Snapshot string              `yaml:"snapshot"` // apt: the day of snapshot.debian.org that packages come from
	Packages []string            `yaml:"packages"`
	Sysroots map[string]*Sysroot `yaml:"sysroots"` // by libc

	file string
}

// Sysroot is the target side of a toolchain for one libc.
type Sysroot struct {
	Packages []string `yaml:"packages"`
	// GlibcCeiling is the newest glibc symbol version a VM linked against this
	// sysroot may need: the floor of the distributions it runs on.
	GlibcCeiling string `yaml:"glibc-ceiling"`
	// Runtime lists, by part (libc, tls), the files that an image from scratch
	// takes from the sysroot. {arch}, {triple} and {loader} stand
	// for the platform's.
	Runtime map[string][]string `yaml:"runtime"`
}

// Base is a published image that others build on, pinned by digest.
type Base struct {
	Ref       string // docker.io/library/alpine:3.22
	Digest    string // of the multi-platform index
	Bootstrap string // how to make one where no registry is in reach: a Debian release name, or empty
}

func (c *Catalog) loadBases(fsys fs.FS) error {
	const file = "images/images.lock.yaml"
	var lock struct {
		Bases map[string]*struct {
			Ref       string `yaml:"ref"`
			Digest    Text   `yaml:"digest"`
			Bootstrap string `yaml:"bootstrap"`
		} `yaml:"bases"`
	}
	if err := decode(fsys, file, &lock); err != nil {
		return err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(lock.Bases)) {
		b := lock.Bases[name]
		if b.Ref == "" {
			errs = append(errs, &Error{file, b.Digest.Line, fmt.Sprintf("base %s needs a ref, such as docker.io/library/debian:12", name)})
		}
		if !isDigest(b.Digest.Value) {
			errs = append(errs, &Error{file, b.Digest.Line, fmt.Sprintf("base %s: %q is no digest: write sha256: and 64 hexadecimal digits", name, b.Digest.Value)})
		}
		c.Bases[name] = &Base{b.Ref, b.Digest.Value, b.Bootstrap}
	}
	return errors.Join(errs...)
}

func (c *Catalog) loadBuilder(fsys fs.FS, file string) error {
	b := &Builder{}
	if err := decode(fsys, file, b); err != nil {
		return err
	}
	b.file = file
	err := errors.Join(named(file, b.Name), oneOf(file, "manager", b.Manager, "apk", "apt"),
		oneOf(file, "base", b.Base, slices.Collect(maps.Keys(c.Bases))...))
	for _, libc := range slices.Sorted(maps.Keys(b.Sysroots)) {
		err = errors.Join(err, oneOf(file, "sysroot", Text{libc, 0}, Libcs...))
	}
	c.Builders[b.Name.Value] = b
	return err
}

func (c *Catalog) loadImage(fsys fs.FS, file string) error {
	i := &Image{}
	if err := decode(fsys, file, i); err != nil {
		return err
	}
	i.file = file
	if err := named(file, i.Name); err != nil {
		return err
	}
	c.Images[i.Name.Value] = i
	return nil
}

func (c *Catalog) checkImage(i *Image) error {
	builders := slices.Collect(maps.Keys(c.Builders))
	errs := []error{oneOf(i.file, "builder", i.Builder, builders...), oneOf(i.file, "upx", i.UPX, "best", "lzma", "none")}
	if i.StandIn.Value != "" {
		errs = append(errs, oneOf(i.file, "stand-in", i.StandIn, builders...))
	}
	if i.Base.Value != "" {
		errs = append(errs, oneOf(i.file, "base", i.Base, slices.Collect(maps.Keys(c.Bases))...))
	}
	if len(i.Libc) == 0 {
		errs = append(errs, &Error{i.file, 0, "name at least one libc: " + Suggest("", Libcs)})
	}
	for _, l := range i.Libc {
		errs = append(errs, oneOf(i.file, "libc", l, Libcs...))
	}
	for _, r := range i.Runtime {
		errs = append(errs, oneOf(i.file, "runtime", r, "libc", "tls"))
	}
	for _, p := range Platforms {
		if b := i.Budget[p]; b.Unpacked <= 0 || b.Compressed <= 0 {
			errs = append(errs, &Error{i.file, 0, fmt.Sprintf("no budget for %s: write one, such as {unpacked: 1.1 MB, compressed: 0.75 MB}", p)})
		}
	}
	for _, p := range i.BudgetFor {
		errs = append(errs, oneOf(i.file, "budget-for", p, slices.Collect(maps.Keys(c.Profiles))...))
	}
	for _, p := range slices.Sorted(maps.Keys(i.Budget)) {
		errs = append(errs, oneOf(i.file, "platform", Text{p, 0}, Platforms...))
	}
	return errors.Join(errs...)
}

// LibcWith picks the first of the image's libcs for which builder b has every
// runtime part the image takes.
func (i *Image) LibcWith(b *Builder) (string, error) {
	for _, libc := range i.Libc {
		root, ok := b.Sysroots[libc.Value]
		if !ok {
			continue
		}
		lacks := func(part Text) bool { return len(root.Runtime[part.Value]) == 0 }
		if !slices.ContainsFunc(i.Runtime, lacks) {
			return libc.Value, nil
		}
	}
	return "", fmt.Errorf("image %s: builder %s has not what it takes (%v for %v): add it to %s, or choose another builder",
		i.Name, b.Name, i.Runtime, i.Libc, path.Join("images/builders", b.Name.Value+".yaml"))
}
