package plan

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	units "github.com/docker/go-units"

	"pharovm/vmbuild/catalog"
)

// tableWidth is how many columns the table keeps to, as far as its words allow.
const tableWidth = 100

// Table prints the plan for people: a section for each kind of thing, each with
// its own alignment, long lists wrapped.
func (p *Plan) Table(out io.Writer) error {
	var t table
	p.sourceTable(&t)
	p.pluginTable(&t)
	for _, b := range p.Builders {
		t.heading("builder %s: %s", b.Name, b.Why)
		t.row("base", "%s", b.Base)
		t.row("pin", "%s", b.Base.pin())
		t.row("packages", "%s", list(b.Packages))
		if b.Snapshot != "" {
			own := ""
			if b.Base.Use != "" {
				own = "; a base bootstrapped here keeps its own archive"
			}
			t.row("archive", "snapshot.debian.org of %s, unless VMBUILD_APT_MIRROR names another%s", b.Snapshot, own)
		}
	}
	p.buildTable(&t)
	p.imageTable(&t)
	t.flush()
	_, err := io.WriteString(out, t.text.String())
	return err
}

func (p *Plan) sourceTable(t *table) {
	s := p.Source
	t.heading("source %s %s: %s", s.Name, s.Version, s.Title)
	t.row("runs", "%s", s.Runs)
	t.row("from", "%s", s.Origin)
	if s.Verified != "" {
		t.row("verified", "%s", s.Verified)
	}
	if s.Commit != "" {
		t.row("commit", "%s", s.Commit)
	}
	if s.Dirty {
		t.row("dirty", "the checkout has changes of its own, so its version says so")
	}
	t.row("license", "%s", s.License)
	t.row("epoch", "%d (SOURCE_DATE_EPOCH)", s.Epoch)
	t.heading("patches: %d", len(p.Patches))
	for _, q := range p.Patches {
		t.row(strings.TrimSuffix(q.File, ".patch"), "%s", q.Title)
	}
}

func (p *Plan) pluginTable(t *table) {
	t.heading("profile %s: %s kept, %d left out", p.Profile, count(len(p.Kept("")), "plugin"), len(p.LeftOut()))
	t.row("built in", "%s", list(p.Kept("internal")))
	t.row("beside", "%s", list(p.Kept("external")))
	for _, reason := range p.reasons() {
		t.row("left out", "%s", reason)
	}
}

func (p *Plan) buildTable(t *table) {
	t.heading("builds: %d%s", len(p.Builds), map[bool]string{true: ", in parallel"}[len(p.Builds) > 1])
	for _, b := range p.Builds {
		needs := ""
		if b.GlibcCeiling != "" {
			needs = ", runs on glibc " + b.GlibcCeiling + " or newer"
		}
		t.row(b.ID, "%s, builder %s%s", b.Triple, b.Builder, needs)
	}
	for _, group := range alike(p.Builds, func(b Build) string {
		return fmt.Sprint(b.BuildType, b.CMake, b.CFlags, b.LinkFlags, b.ModuleLinkFlags, b.Libraries)
	}) {
		b := group[0]
		t.heading("flags of %s", p.which(group))
		var options []string
		for _, o := range b.CMake {
			if !strings.HasPrefix(o.Name, "BUILD_PLUGIN_") {
				options = append(options, o.String())
			}
		}
		t.row("cmake", "-DCMAKE_BUILD_TYPE=%s %s", b.BuildType, strings.Join(options, " "))
		t.row("cmake", "-DBUILD_PLUGIN_<name>=ON for the %d kept, =OFF for the %d left out", len(p.Kept("")), len(p.LeftOut()))
		t.row("compile", "%s", list(b.CFlags))
		t.row("link", "%s", list(b.LinkFlags))
		t.row("modules", "%s", list(b.ModuleLinkFlags))
		t.row("may need", "%s beside its libc", list(b.Libraries))
	}
	general := func(b Build, step string) string { return strings.ReplaceAll(step, b.Triple, "<triple>") }
	for _, group := range alike(p.Builds, func(b Build) string { return general(b, strings.Join(b.Steps, "\n")) }) {
		t.heading("steps of %s", p.which(group))
		for i, step := range group[0].Steps {
			if len(group) > 1 {
				step = general(group[0], step)
			}
			t.row(fmt.Sprintf("%d.", i+1), "%s", step)
		}
	}
}

func (p *Plan) imageTable(t *table) {
	t.heading("images: %d, in %s", len(p.Images), count(len(p.Indexes), "index"))
	for _, index := range p.Indexes {
		var images []Image
		for _, i := range p.Images {
			if slices.Contains(index.Images, i.ID) {
				images = append(images, i)
			}
		}
		for _, group := range alike(images, func(i Image) string { return strings.Join(i.facts(p), "\n") }) {
			i := group[0]
			var platforms []string
			for _, j := range group {
				platforms = append(platforms, j.Platform)
			}
			t.heading("image %s: %s; %s", i.Name, i.Title, strings.Join(platforms, ", "))
			facts := i.facts(p)
			for k := 0; k < len(facts); k += 2 {
				t.row(facts[k], "%s", facts[k+1])
			}
		}
	}
}

// facts are pairs of a label and what is to say of an image, where the VM is
// named without its platform.
func (i Image) facts(p *Plan) []string {
	facts := []string{"base", "none (scratch)"}
	if i.Base != nil {
		facts = []string{"base", i.Base.String(), "pin", i.Base.pin()}
	}
	facts = append(facts,
		"VM", fmt.Sprintf("%s, upx %s, as %s", strings.TrimSuffix(i.Build, "-"+slug(i.Platform)), i.UPX, strings.Join(i.Entrypoint, " ")),
		"runs", fmt.Sprintf("as %s in %s", i.User, i.WorkingDir))
	if len(i.Runtime) > 0 {
		facts = append(facts, "adds", strings.Join(i.Runtime, " and ")+" of the builder "+p.Build(i.Build).Builder)
	}
	for _, name := range SortedKeys(i.Env) {
		facts = append(facts, "env", name+"="+i.Env[name])
	}
	budget := fmt.Sprintf("at most %s unpacked, %s compressed above its base", size(int64(i.Budget.Unpacked)), size(int64(i.Budget.Compressed)))
	if i.Budget == (catalog.Budget{}) {
		budget = "none for profile " + p.Profile
	}
	if i.Budget.TLS > 0 {
		budget += fmt.Sprintf("; its TLS layer %s", size(int64(i.Budget.TLS)))
	}
	return append(facts, "budget", budget, "TLS", i.TLS)
}

func size(n int64) string {
	return units.CustomSize("%.4g %s", float64(n), 1000, []string{"B", "kB", "MB", "GB"})
}

func (b Base) String() string {
	if b.Use != "" {
		return fmt.Sprintf("%s; in place of %s", b.Use, b.Ref)
	}
	return b.Ref
}

func (b Base) pin() string {
	if b.Use != "" {
		return b.Digest + " (not used)"
	}
	return b.Digest
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, " ")
}

func count(n int, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case strings.HasSuffix(what, "x"), strings.HasSuffix(what, "ch"):
		return fmt.Sprintf("%d %ses", n, what)
	default:
		return fmt.Sprintf("%d %ss", n, what)
	}
}

// reasons are the plugins left out, those with the same reason together.
func (p *Plan) reasons() []string {
	var left []string
	for _, group := range alike(p.Plugins, func(d catalog.Decision) string { return fmt.Sprint(d.Keep, d.Why) }) {
		if group[0].Keep {
			continue
		}
		var names []string
		for _, d := range group {
			names = append(names, d.Plugin.Name)
		}
		left = append(left, strings.Join(names, " ")+": "+group[0].Why)
	}
	return left
}

// which names builds: all of them, or one by one.
func (p *Plan) which(builds []Build) string {
	if len(builds) == len(p.Builds) && len(builds) > 1 {
		return "every build"
	}
	var ids []string
	for _, b := range builds {
		ids = append(ids, b.ID)
	}
	return strings.Join(ids, ", ")
}

// alike groups things of the same key, in the order of the first of each.
func alike[T any](things []T, key func(T) string) [][]T {
	var order []string
	groups := map[string][]T{}
	for _, thing := range things {
		k := key(thing)
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], thing)
	}
	var out [][]T
	for _, k := range order {
		out = append(out, groups[k])
	}
	return out
}

// table writes headings, and below each its rows, aligned among themselves. A
// label that repeats the one above it is left blank.
type table struct {
	text strings.Builder
	rows [][2]string
}

func (t *table) heading(format string, args ...any) {
	t.flush()
	if t.text.Len() > 0 {
		t.text.WriteByte('\n')
	}
	for i, line := range wrap(fmt.Sprintf(format, args...), tableWidth-4) {
		if i > 0 {
			t.text.WriteString("    ")
		}
		t.text.WriteString(line + "\n")
	}
}

func (t *table) row(label, format string, args ...any) {
	t.rows = append(t.rows, [2]string{label, fmt.Sprintf(format, args...)})
}

// flush writes the section's rows. Lines that go on are indented further, so
// that a row of many lines is told from many rows.
func (t *table) flush() {
	const indent, gap, more = 2, 2, 2
	wide := 0
	for _, r := range t.rows {
		wide = max(wide, utf8.RuneCountInString(r[0]))
	}
	last := ""
	for _, r := range t.rows {
		label := r[0]
		if label == last {
			label = ""
		}
		last = r[0]
		for i, line := range wrap(r[1], tableWidth-indent-wide-gap-more) {
			if i > 0 {
				label, line = "", strings.Repeat(" ", more)+line
			}
			fmt.Fprintf(&t.text, "%s\n", strings.TrimRight(fmt.Sprintf("%*s%-*s%*s%s", indent, "", wide, label, gap, "", line), " "))
		}
	}
	t.rows = nil
}

// wrap breaks text at blanks into lines of at most width characters; a longer
// word has a line of its own.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
