package plan

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	units "github.com/docker/go-units"
)

// Table prints the plan for people.
func (p *Plan) Table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	s := p.Source
	fmt.Fprintf(w, "source\t%s %s: %s\n", s.Name, s.Version, s.Title)
	fmt.Fprintf(w, "  from\t%s (%s)\n", s.Origin, s.Verified)
	if s.Commit != "" {
		fmt.Fprintf(w, "  commit\t%s\n", s.Commit)
	}
	if s.Dirty {
		fmt.Fprintf(w, "  dirty\tthe checkout has changes of its own, so its version says so\n")
	}
	fmt.Fprintf(w, "  epoch\t%d (SOURCE_DATE_EPOCH)\n", s.Epoch)
	fmt.Fprintf(w, "patches\t%d\n", len(p.Patches))
	for _, q := range p.Patches {
		fmt.Fprintf(w, "  %s\t%s\n", q.File, q.Title)
	}

	fmt.Fprintf(w, "profile\t%s: %d plugins kept, %d left out\n", p.Profile, len(p.Kept("")), len(p.LeftOut()))
	fmt.Fprintf(w, "  built in\t%s\n", list(p.Kept("internal")))
	fmt.Fprintf(w, "  beside\t%s\n", list(p.Kept("external")))
	for _, reason := range p.reasons() {
		fmt.Fprintf(w, "  left out\t%s\n", reason)
	}

	for _, b := range p.Builders {
		fmt.Fprintf(w, "builder\t%s: %s\n", b.Name, b.Why)
		fmt.Fprintf(w, "  base\t%s\n", b.Base)
		fmt.Fprintf(w, "  packages\t%s\n", strings.Join(b.Packages, " "))
		if b.Snapshot != "" {
			fmt.Fprintf(w, "  archive\tsnapshot.debian.org of %s, unless VMBUILD_APT_MIRROR names another\n", b.Snapshot)
		}
	}

	fmt.Fprintf(w, "builds\t%d, in parallel\n", len(p.Builds))
	for _, b := range p.Builds {
		fmt.Fprintf(w, "  %s\t%s, builder %s", b.ID, b.Triple, b.Builder)
		if b.GlibcCeiling != "" {
			fmt.Fprintf(w, ", glibc %s or newer", b.GlibcCeiling)
		}
		fmt.Fprintln(w)
	}
	for _, group := range p.sameFlags() {
		b := group[0]
		fmt.Fprintf(w, "  flags of\t%s\n", strings.Join(idsOf(group), ", "))
		var options []string
		for _, o := range b.CMake {
			if !strings.HasPrefix(o.Name, "BUILD_PLUGIN_") {
				options = append(options, o.String())
			}
		}
		fmt.Fprintf(w, "  cmake\t-DCMAKE_BUILD_TYPE=%s %s and BUILD_PLUGIN_<name> of all %d plugins\n", b.BuildType, strings.Join(options, " "), len(p.Plugins))
		fmt.Fprintf(w, "  compile\t%s\n", strings.Join(b.CFlags, " "))
		fmt.Fprintf(w, "  link\t%s\n", strings.Join(b.LinkFlags, " "))
	}
	for _, b := range p.Builds {
		for i, step := range b.Steps {
			label := ""
			if i == 0 {
				label = "steps of " + b.ID
			}
			fmt.Fprintf(w, "  %s\t%d. %s\n", label, i+1, step)
		}
	}

	fmt.Fprintf(w, "images\t%d, in %d indexes\n", len(p.Images), len(p.Indexes))
	for _, i := range p.Images {
		base := "scratch"
		if i.Base != nil {
			base = i.Base.String()
		}
		fmt.Fprintf(w, "  %s\ton %s\n", i.ID, base)
		fmt.Fprintf(w, "  \tVM %s, upx %s, user %s, at most %s unpacked and %s compressed above its base\n", i.Build, i.UPX, i.User,
			units.HumanSize(float64(i.Budget.Unpacked)), units.HumanSize(float64(i.Budget.Compressed)))
		fmt.Fprintf(w, "  \tTLS: %s\n", i.TLS)
	}
	return w.Flush()
}

func (b Base) String() string {
	if b.Use != "" {
		return fmt.Sprintf("%s in place of %s", b.Use, b.Ref)
	}
	return b.Ref + "@" + b.Digest
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, " ")
}

// reasons are the plugins left out, those with the same reason together.
func (p *Plan) reasons() []string {
	var order []string
	names := map[string][]string{}
	for _, d := range p.Plugins {
		if d.Keep {
			continue
		}
		if !slices.Contains(order, d.Why) {
			order = append(order, d.Why)
		}
		names[d.Why] = append(names[d.Why], d.Plugin.Name)
	}
	var out []string
	for _, why := range order {
		out = append(out, strings.Join(names[why], " ")+": "+why)
	}
	return out
}

// sameFlags groups builds that are compiled alike.
func (p *Plan) sameFlags() [][]Build {
	var groups [][]Build
next:
	for _, b := range p.Builds {
		for i, g := range groups {
			if slices.Equal(g[0].CMake, b.CMake) && slices.Equal(g[0].CFlags, b.CFlags) && slices.Equal(g[0].LinkFlags, b.LinkFlags) {
				groups[i] = append(g, b)
				continue next
			}
		}
		groups = append(groups, []Build{b})
	}
	return groups
}

func idsOf(builds []Build) []string {
	var out []string
	for _, b := range builds {
		out = append(out, b.ID)
	}
	return out
}
