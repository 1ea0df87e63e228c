// Package plan turns a request and the catalogue into everything that will be
// done, as data: builds, images and indexes with every flag, patch, plugin
// decision, base and step. It is pure: no engine, network, clock or file is
// touched, and the same request gives the same plan.
package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"pharovm/vmbuild/catalog"
)

// Request is what a user asked for. Empty fields mean the default.
type Request struct {
	Images    []string // names; none means every image of the catalogue
	Platforms []string // none means both
	Source    string   // name of a catalogue source
	Profile   string   // name, or path of the user's own
}

// Facts are what has been found out about the world before planning.
type Facts struct {
	Source Source
	// Missing says, by base name, why a base cannot be had; a builder on such a
	// base gives way to the image's stand-in.
	Missing map[string]string
	// Bases says, by base name, what is used in place of the pinned reference.
	Bases map[string]string
}

// Plan is all that a request comes to.
type Plan struct {
	Source   Source             `json:"source"`
	Profile  string             `json:"profile"`
	Plugins  []catalog.Decision `json:"plugins"`
	Patches  []*catalog.Patch   `json:"patches"`
	Builders []Builder          `json:"builders"`
	Builds   []Build            `json:"builds"`
	Images   []Image            `json:"images"`
	Indexes  []Index            `json:"indexes"`
}

// Source is the state of a source that is going to be built.
type Source struct {
	Name     string `json:"name"`
	Title    string `json:"title"`
	Runs     string `json:"runs"` // which Pharo versions, for people
	Version  string `json:"version"`
	Release  string `json:"release"` // the upstream version that patches are chosen for
	Commit   string `json:"commit,omitempty"`
	Dirty    bool   `json:"dirty,omitempty"`
	Origin   string `json:"origin"`
	Verified string `json:"verified"`
	Epoch    int64  `json:"epoch"` // SOURCE_DATE_EPOCH: seconds since 1970
	License  string `json:"license"`
}

// Base is a published image and how it is had.
type Base struct {
	Name   string `json:"name"`
	Ref    string `json:"ref"`
	Digest string `json:"digest"`
	Use    string `json:"use,omitempty"` // what is used in its place
}

// Builder is an environment for compiling, and why it was chosen.
type Builder struct {
	Name     string   `json:"name"`
	Why      string   `json:"why"`
	Base     Base     `json:"base"`
	Packages []string `json:"packages"`
	Manager  string   `json:"manager"` // apt or apk
	Release  string   `json:"release"`
	Snapshot string   `json:"snapshot,omitempty"`
}

// Option is one CMake cache entry.
type Option struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func (o Option) String() string { return "-D" + o.Name + "=" + o.Value }

// Build is one VM tree: source × profile × libc × platform.
type Build struct {
	ID              string              `json:"id"`
	Libc            string              `json:"libc"`
	Platform        string              `json:"platform"`
	Triple          string              `json:"triple"`
	Builder         string              `json:"builder"`
	Layout          string              `json:"layout"`
	BuildType       string              `json:"buildType"`
	CMake           []Option            `json:"cmake"`
	CFlags          []string            `json:"cFlags"`
	LinkFlags       []string            `json:"linkFlags"`
	ModuleLinkFlags []string            `json:"moduleLinkFlags"` // of external plugins
	Sysroot         []string            `json:"sysroot"`         // packages
	Runtime         map[string][]string `json:"runtime"`         // by part: files taken from the sysroot
	Pack            []string            `json:"pack"`            // UPX methods that images of this build want
	Libraries       []string            `json:"libraries"`       // sonames the VM may need
	GlibcCeiling    string              `json:"glibcCeiling,omitempty"`
	Steps           []string            `json:"steps"`
}

// Image is one platform of a base image.
type Image struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Title       string            `json:"title"`
	Platform    string            `json:"platform"`
	Build       string            `json:"build"`
	Base        *Base             `json:"base,omitempty"` // nil: from scratch
	Runtime     []string          `json:"runtime,omitempty"`
	UPX         string            `json:"upx"`
	User        string            `json:"user"`
	Entrypoint  []string          `json:"entrypoint"`
	WorkingDir  string            `json:"workingDir"`
	Env         map[string]string `json:"env,omitempty"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Budget      catalog.Budget    `json:"budget"`
	TLS         string            `json:"tls"`
}

// Index joins the images of one name.
type Index struct {
	Name   string   `json:"name"`
	Images []string `json:"images"`
}

// Where a VM lies in every image, and as whom it runs.
const (
	VMDir      = "/opt/pharo"
	WorkingDir = "/pharo"
	User       = "65532:65532"
	// SourceAnnotation and ProfileAnnotation say which VM an image holds, so that
	// images of different VMs are never joined into one index.
	SourceAnnotation  = "org.pharo.vm.source"
	ProfileAnnotation = "org.pharo.vm.profile"
	// FormatsLabel lists the image formats that the VM accepts, so that a tool
	// can refuse an application before it is deployed.
	FormatsLabel = "org.pharo.vm.image-formats"
)

// New makes the plan of a request.
func New(c *catalog.Catalog, r Request, f Facts) (*Plan, error) {
	src, err := catalog.Lookup("source", c.Sources, r.Source)
	if err != nil {
		return nil, err
	}
	profile, err := c.Profile(r.Profile)
	if err != nil {
		return nil, err
	}
	platforms, err := Platforms(r.Platforms)
	if err != nil {
		return nil, err
	}
	images, err := imagesOf(c, r.Images)
	if err != nil {
		return nil, err
	}
	decisions, err := c.Decide(profile, src)
	if err != nil {
		return nil, err
	}
	patches, err := src.PatchesFor(f.Source.Release)
	if err != nil {
		return nil, err
	}
	p := &Plan{Source: f.Source, Profile: profile.Name.Value, Plugins: decisions, Patches: slices.Concat([]*catalog.Patch{}, patches)}
	p.Source.Name, p.Source.Title, p.Source.License, p.Source.Runs = src.Name.Value, src.Title, src.License, src.Runs

	var chosen choices
	for _, img := range images {
		b, why, err := builderFor(c, img, f)
		if err != nil {
			return nil, err
		}
		libc, err := img.LibcWith(b)
		if err != nil {
			return nil, err
		}
		p.addBuilder(c, b, f)
		chosen.add(b.Name.Value, why, img.Name.Value)
		index := Index{Name: img.Name.Value}
		for _, platform := range platforms {
			build := p.addBuild(src, b, libc, platform)
			if build.Builder != b.Name.Value {
				return nil, fmt.Errorf("image %s wants its %s VM from the builder %s, but another image has it from %s, and images of one libc share the VM: give both the same builder, or ask for one of them alone",
					img.Name, libc, b.Name, build.Builder)
			}
			if m := img.UPX.Value; m != "none" && !slices.Contains(build.Pack, m) {
				build.Pack = append(build.Pack, m)
				slices.Sort(build.Pack)
			}
			i := p.image(c, src, img, build, f)
			p.Images = append(p.Images, i)
			index.Images = append(index.Images, i.ID)
		}
		p.Indexes = append(p.Indexes, index)
	}
	for i := range p.Builders {
		p.Builders[i].Why = chosen.why(p.Builders[i].Name)
	}
	for i := range p.Builds {
		p.Builds[i].Steps = p.steps(&p.Builds[i])
	}
	return p, nil
}

// SortedKeys are a map's keys in order; whatever is printed or hashed goes
// through it.
func SortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Platforms checks platform names and puts them in order, without doubles.
func Platforms(names []string) ([]string, error) {
	if len(names) == 0 {
		return slices.Clone(catalog.Platforms), nil
	}
	for _, n := range names {
		if !slices.Contains(catalog.Platforms, n) {
			return nil, fmt.Errorf("unknown platform %q: %s", n, catalog.Suggest(n, catalog.Platforms))
		}
	}
	var out []string
	for _, p := range catalog.Platforms {
		if slices.Contains(names, p) {
			out = append(out, p)
		}
	}
	return out, nil
}

func imagesOf(c *catalog.Catalog, names []string) ([]*catalog.Image, error) {
	if len(names) == 0 {
		names = SortedKeys(c.Images)
	}
	var out []*catalog.Image
	for _, n := range names {
		img, err := catalog.Lookup("image", c.Images, n)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(out, img) {
			out = append(out, img)
		}
	}
	return out, nil
}

func (f Facts) base(c *catalog.Catalog, name string) Base {
	b := c.Bases[name]
	return Base{Name: name, Ref: b.Ref, Digest: b.Digest, Use: f.Bases[name]}
}

// Triple is the target name that compilers use for a libc and platform.
func Triple(libc, platform string) string {
	return Machine(platform) + map[string]string{"musl": "-linux-musl", "glibc": "-linux-gnu"}[libc]
}

// Machine is the processor's name as uname prints it.
func Machine(platform string) string {
	if platform == "linux/arm64" {
		return "aarch64"
	}
	return "x86_64"
}

// Loader is the dynamic loader that a VM of a libc and platform names, where the
// platform's ABI puts it.
func Loader(libc, platform string) string {
	switch {
	case libc == "musl":
		return "/lib/ld-musl-" + Machine(platform) + ".so.1"
	case platform == "linux/arm64":
		return "/lib/ld-linux-aarch64.so.1"
	default:
		return "/lib64/ld-linux-x86-64.so.2"
	}
}

func slug(platform string) string { return strings.ReplaceAll(platform, "/", "-") }

// addBuild finds or adds the build for a libc and platform: images of one libc
// share it.
func (p *Plan) addBuild(src *catalog.Source, b *catalog.Builder, libc, platform string) *Build {
	id := strings.Join([]string{src.Name.Value, p.Profile, libc, slug(platform)}, "-")
	for i := range p.Builds {
		if p.Builds[i].ID == id {
			return &p.Builds[i]
		}
	}
	root := b.Sysroots[libc]
	build := Build{
		ID: id, Libc: libc, Platform: platform, Triple: Triple(libc, platform), Builder: b.Name.Value,
		Layout: src.Layout.Value, BuildType: src.BuildType, CFlags: slices.Concat(src.CFlags, src.LibcFlags[libc]), LinkFlags: src.LinkFlags, ModuleLinkFlags: src.ModuleLinkFlags,
		Sysroot: root.Packages, Libraries: src.Libraries, GlibcCeiling: root.GlibcCeiling,
		Runtime: map[string][]string{}, Pack: []string{},
	}
	expand := strings.NewReplacer("{arch}", Machine(platform), "{triple}", build.Triple, "{loader}", Loader(libc, platform))
	for part, files := range root.Runtime {
		for _, f := range files {
			build.Runtime[part] = append(build.Runtime[part], expand.Replace(f))
		}
	}
	for _, name := range SortedKeys(src.CMake) {
		build.CMake = append(build.CMake, Option{name, p.Source.expand(src.CMake[name])})
	}
	for _, d := range p.Plugins {
		value := "OFF"
		if d.Keep {
			value = "ON"
		}
		build.CMake = append(build.CMake, Option{"BUILD_PLUGIN_" + d.Plugin.Name, value})
	}
	p.Builds = append(p.Builds, build)
	return &p.Builds[len(p.Builds)-1]
}

func (p *Plan) image(c *catalog.Catalog, src *catalog.Source, img *catalog.Image, b *Build, f Facts) Image {
	i := Image{
		ID: img.Name.Value + "-" + slug(b.Platform), Name: img.Name.Value, Title: img.Title, Platform: b.Platform, Build: b.ID,
		UPX: img.UPX.Value, User: User, Entrypoint: []string{VMDir + "/pharo"}, WorkingDir: WorkingDir, Env: img.Env,
		TLS: img.TLS,
	}
	if slices.ContainsFunc(img.BudgetFor, func(t catalog.Text) bool { return t.Value == p.Profile }) {
		i.Budget = img.Budget[b.Platform]
	}
	for _, r := range img.Runtime {
		i.Runtime = append(i.Runtime, r.Value)
	}
	var formats []string
	for _, n := range src.ImageFormats {
		formats = append(formats, fmt.Sprint(n))
	}
	i.Annotations = map[string]string{
		"org.opencontainers.image.title":       img.Title,
		"org.opencontainers.image.description": img.Description,
		"org.opencontainers.image.version":     p.Source.Version,
		"org.opencontainers.image.licenses":    src.License,
		"org.opencontainers.image.source":      src.Homepage,
		SourceAnnotation:                       src.Name.Value,
		ProfileAnnotation:                      p.Profile,
	}
	if p.Source.Commit != "" {
		revision := p.Source.Commit
		if p.Source.Dirty {
			revision += "-dirty"
		}
		i.Annotations["org.opencontainers.image.revision"] = revision
	}
	maps.DeleteFunc(i.Annotations, func(_, v string) bool { return v == "" })
	// Labels too: `docker inspect` does not show annotations.
	i.Labels = maps.Clone(i.Annotations)
	i.Labels[FormatsLabel] = strings.Join(formats, " ")
	if img.Base.Value != "" {
		base := f.base(c, img.Base.Value)
		i.Base = &base
		i.Annotations["org.opencontainers.image.base.name"] = base.Ref
	}
	return i
}

// expand fills the placeholders that a source's CMake options may have: they
// carry into the VM what its own build would ask git for.
func (s Source) expand(value string) string {
	at := time.Unix(s.Epoch, 0).UTC()
	commit := s.Commit[:min(12, len(s.Commit))]
	if s.Dirty {
		commit += "-dirty"
	}
	return strings.NewReplacer("{version}", s.Version, "{commit}", commit,
		"{minute}", at.Format("200601021504"), "{date}", at.Format(time.RFC1123)).Replace(value)
}

// Kept are the plugins of one kind that the plan keeps, sorted.
func (p *Plan) Kept(kind string) []string { return p.plugins(true, kind) }

// LeftOut are the plugins that the plan leaves out, sorted.
func (p *Plan) LeftOut() []string { return p.plugins(false, "") }

func (p *Plan) plugins(keep bool, kind string) []string {
	var out []string
	for _, d := range p.Plugins {
		if d.Keep == keep && (kind == "" || d.Plugin.Kind.Value == kind) {
			out = append(out, d.Plugin.Name)
		}
	}
	return out
}

// Build finds a build by ID.
func (p *Plan) Build(id string) *Build {
	for i := range p.Builds {
		if p.Builds[i].ID == id {
			return &p.Builds[i]
		}
	}
	return nil
}

// Builder finds a builder by name.
func (p *Plan) Builder(name string) *Builder {
	for i := range p.Builders {
		if p.Builders[i].Name == name {
			return &p.Builders[i]
		}
	}
	return nil
}

func (p *Plan) steps(b *Build) []string {
	steps := []string{
		fmt.Sprintf("toolchain: %s, %s", b.Builder, count(len(p.Builder(b.Builder).Packages), "package")),
		fmt.Sprintf("sysroot %s: %s", b.Triple, strings.Join(b.Sysroot, " ")),
		fmt.Sprintf("source %s %s, %s", p.Source.Name, p.Source.Version, count(len(p.Patches), "patch")),
		fmt.Sprintf("configure: cmake, %s", count(len(b.CMake), "option")),
		"compile: no network, ccache",
		"strip: symbols kept beside",
	}
	for _, m := range b.Pack {
		steps = append(steps, "pack: upx "+m)
	}
	return append(steps, "gates")
}
