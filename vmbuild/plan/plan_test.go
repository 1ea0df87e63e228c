package plan

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pharovm/vmbuild/catalog"
)

var update = flag.Bool("update", false, "write the golden files anew")

func load(t *testing.T) *catalog.Catalog {
	t.Helper()
	c, err := catalog.Load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// sample is what is found out about the sample source.
func sample() Facts {
	return Facts{Source: Source{
		Version: "1.0.0", Release: "1.0.0", Origin: "this project's sample", Verified: "part of this project", Epoch: 1763683200,
	}}
}

// noRegistry is what is found out where no registry is in reach.
func noRegistry() Facts {
	f := sample()
	f.Missing = map[string]string{"alpine": "registry index.docker.io is not reachable: no such host"}
	f.Bases = map[string]string{
		"alpine": "a stand-in made of Debian bookworm's musl and busybox", "debian": "bootstrapped from the packages of Debian bookworm",
		"debian-slim": "bootstrapped from the packages of Debian bookworm",
	}
	return f
}

func planned(t *testing.T, c *catalog.Catalog, r Request, f Facts) *Plan {
	t.Helper()
	if r.Source == "" {
		r.Source = "sample"
	}
	if r.Profile == "" {
		r.Profile = "server"
	}
	p, err := New(c, r, f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func asJSON(t *testing.T, p *Plan) []byte {
	t.Helper()
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(p); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func asTable(t *testing.T, p *Plan) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := p.Table(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// golden compares with a file in testdata. When the catalogue was changed on
// purpose: go test ./vmbuild/plan -update, and read the difference.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return
	}
	gotLines, wantLines := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range gotLines {
		if i >= len(wantLines) || gotLines[i] != wantLines[i] {
			t.Fatalf("%s differs from line %d on:\ngot  %s\nwant %s\nif that is meant: go test ./vmbuild/plan -update", file, i+1, gotLines[i], slices.Concat(wantLines, []string{""})[min(i, len(wantLines))])
		}
	}
	t.Fatalf("%s has more lines than the plan", file)
}

func TestGolden(t *testing.T) {
	c := load(t)
	for name, facts := range map[string]Facts{"sample": sample(), "no-registry": noRegistry()} {
		t.Run(name, func(t *testing.T) {
			p := planned(t, c, Request{}, facts)
			golden(t, name+".json", asJSON(t, p))
			golden(t, name+".txt", asTable(t, p))
		})
	}
}

// TestTableFits reads well in a terminal of 100 columns.
func TestTableFits(t *testing.T) {
	for _, facts := range []Facts{sample(), noRegistry()} {
		for i, line := range strings.Split(string(asTable(t, planned(t, load(t), Request{}, facts))), "\n") {
			if utf8.RuneCountInString(line) > tableWidth {
				t.Errorf("line %d has %d columns: %s", i+1, utf8.RuneCountInString(line), line)
			}
			if strings.TrimRight(line, " ") != line {
				t.Errorf("line %d ends in a blank: %q", i+1, line)
			}
		}
	}
}

// TestTableTellsAll finds in the table whatever decides what is built.
func TestTableTellsAll(t *testing.T) {
	f := sample()
	f.Source.Commit, f.Source.Dirty = "0123456789abcdef0123456789abcdef01234567", true
	p := planned(t, load(t), Request{}, f)
	text := strings.Join(strings.Fields(string(asTable(t, p))), " ")
	want := []string{p.Source.Version, p.Source.Commit, "the checkout has changes of its own", p.Source.Origin, p.Source.Verified}
	for _, q := range p.Patches {
		want = append(want, strings.TrimSuffix(q.File, ".patch"), q.Title)
	}
	for _, d := range p.Plugins {
		want = append(want, d.Plugin.Name)
		if !d.Keep {
			want = append(want, d.Why)
		}
	}
	for _, b := range p.Builders {
		want = append(want, b.Base.Ref, b.Base.Digest, "builder "+b.Name+": first choice", strings.Join(b.Packages, " "))
	}
	for _, b := range p.Builds {
		want = append(want, b.ID, b.Triple, strings.Join(b.CFlags, " "), strings.Join(b.LinkFlags, " "), strings.Join(b.ModuleLinkFlags, " "), b.BuildType)
		for _, o := range b.CMake {
			if !strings.HasPrefix(o.Name, "BUILD_PLUGIN_") {
				want = append(want, o.String())
			}
		}
		for _, s := range b.Steps {
			want = append(want, strings.ReplaceAll(s, b.Triple, "<triple>"))
		}
	}
	for _, i := range p.Images {
		want = append(want, "image "+i.Name, i.Title, i.TLS, i.User, "upx "+i.UPX)
		if i.Base != nil {
			want = append(want, i.Base.Ref, i.Base.Digest)
		}
	}
	for _, w := range want {
		if !strings.Contains(text, strings.Join(strings.Fields(w), " ")) {
			t.Errorf("the table does not tell %q", w)
		}
	}
}

func TestNewIsPure(t *testing.T) {
	c := load(t)
	first := asJSON(t, planned(t, c, Request{}, noRegistry()))
	// Planning something else between must leave no trace in the catalogue.
	planned(t, c, Request{Images: []string{"debian"}, Profile: "full", Platforms: []string{"linux/arm64"}}, sample())
	if again := asJSON(t, planned(t, c, Request{}, noRegistry())); !bytes.Equal(first, again) {
		t.Error("the same request gives another plan the second time")
	}
	if again := asJSON(t, planned(t, load(t), Request{}, noRegistry())); !bytes.Equal(first, again) {
		t.Error("the same request gives another plan from a catalogue loaded anew")
	}
}

func TestImagesOfOneLibcShareTheBuild(t *testing.T) {
	p := planned(t, load(t), Request{Images: []string{"alpine", "scratch", "alpine"}}, sample())
	var builds, images []string
	for _, b := range p.Builds {
		builds = append(builds, b.ID)
	}
	for _, i := range p.Images {
		images = append(images, i.ID+" "+i.Build)
	}
	if want := []string{"sample-server-musl-linux-amd64", "sample-server-musl-linux-arm64"}; !slices.Equal(builds, want) {
		t.Errorf("builds %v, want %v", builds, want)
	}
	want := []string{
		"alpine-linux-amd64 sample-server-musl-linux-amd64", "alpine-linux-arm64 sample-server-musl-linux-arm64",
		"scratch-linux-amd64 sample-server-musl-linux-amd64", "scratch-linux-arm64 sample-server-musl-linux-arm64",
	}
	if !slices.Equal(images, want) {
		t.Errorf("images %v, want %v", images, want)
	}
	if len(p.Indexes) != 2 || !slices.Equal(p.Indexes[0].Images, []string{"alpine-linux-amd64", "alpine-linux-arm64"}) {
		t.Errorf("indexes %+v", p.Indexes)
	}
}

// TestPackMethods packs a shared build in every way that one of its images wants.
func TestPackMethods(t *testing.T) {
	c := load(t)
	c.Images["alpine"].UPX.Value, c.Images["scratch"].UPX.Value = "none", "best"
	for _, tc := range []struct {
		images []string
		want   []string
	}{
		{[]string{"alpine"}, nil},
		{[]string{"alpine", "scratch"}, []string{"best"}},
		{[]string{"scratch", "scratch-tls"}, []string{"best", "lzma"}},
	} {
		p := planned(t, c, Request{Images: tc.images, Platforms: []string{"linux/amd64"}}, sample())
		if got := p.Builds[0].Pack; !slices.Equal(got, tc.want) {
			t.Errorf("%v: packed as %v, want %v", tc.images, got, tc.want)
		}
	}
}

// TestPluginOptions switches every plugin of the source on or off, by name.
func TestPluginOptions(t *testing.T) {
	p := planned(t, load(t), Request{}, sample())
	for _, b := range p.Builds {
		got := map[string]string{}
		for _, o := range b.CMake {
			got[o.Name] = o.Value
		}
		for _, d := range p.Plugins {
			want := map[bool]string{true: "ON", false: "OFF"}[d.Keep]
			if got["BUILD_PLUGIN_"+d.Plugin.Name] != want {
				t.Errorf("%s: BUILD_PLUGIN_%s=%s, want %s", b.ID, d.Plugin.Name, got["BUILD_PLUGIN_"+d.Plugin.Name], want)
			}
		}
	}
}

func TestPlatforms(t *testing.T) {
	both := []string{"linux/amd64", "linux/arm64"}
	for _, tc := range []struct{ names, want []string }{
		{nil, both},
		{[]string{"linux/arm64", "linux/amd64", "linux/arm64"}, both},
		{[]string{"linux/arm64"}, []string{"linux/arm64"}},
	} {
		got, err := Platforms(tc.names)
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%v: %v, %v", tc.names, got, err)
		}
	}
	if got, _ := Platforms(nil); len(got) > 0 {
		got[0] = "changed"
		if catalog.Platforms[0] == "changed" {
			t.Error("a caller can change the list of all platforms")
		}
	}
}

func TestBuilderFor(t *testing.T) {
	missing := func(names ...string) Facts {
		f := sample()
		f.Missing = map[string]string{}
		for _, n := range names {
			f.Missing[n] = n + " is far away"
		}
		return f
	}
	for _, tc := range []struct {
		name   string
		images []string
		facts  Facts
		want   map[string]string // why, by builder
	}{
		{"first choice", []string{"alpine", "scratch"}, missing(), map[string]string{"alpine": "first choice"}},
		{"each its own", []string{"alpine", "debian"}, missing(), map[string]string{"alpine": "first choice", "debian": "first choice"}},
		{"stand-in", []string{"alpine"}, missing("alpine"), map[string]string{"debian": "stands in for alpine (alpine): alpine is far away"}},
		{"both", []string{"alpine", "debian", "scratch"}, missing("alpine"),
			map[string]string{"debian": "first choice of debian; stands in for alpine (alpine, scratch): alpine is far away"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := planned(t, load(t), Request{Images: tc.images}, tc.facts)
			if len(p.Builders) != len(tc.want) {
				t.Errorf("%d builders, want %d", len(p.Builders), len(tc.want))
			}
			for _, b := range p.Builders {
				if b.Why != tc.want[b.Name] {
					t.Errorf("%s: %q, want %q", b.Name, b.Why, tc.want[b.Name])
				}
			}
		})
	}
	// With Debian standing in there is no TLS for musl, so scratch-tls changes its libc.
	if p := planned(t, load(t), Request{Images: []string{"scratch-tls"}}, missing("alpine")); p.Builds[0].Libc != "glibc" {
		t.Errorf("scratch-tls from Debian is built for %s", p.Builds[0].Libc)
	}
	if p := planned(t, load(t), Request{Images: []string{"scratch-tls"}}, missing()); p.Builds[0].Libc != "musl" {
		t.Errorf("scratch-tls from Alpine is built for %s", p.Builds[0].Libc)
	}
}

func TestNewMistakes(t *testing.T) {
	missing := func(names ...string) Facts {
		f := sample()
		f.Missing = map[string]string{}
		for _, n := range names {
			f.Missing[n] = n + " is far away"
		}
		return f
	}
	twoBuilders := func(c *catalog.Catalog) {
		c.Images["scratch"].Builder.Value = "debian"
	}
	const remedy = ": reach a registry or name another base, as `mage doctor` says"
	for _, tc := range []struct {
		name    string
		request Request
		facts   Facts
		change  func(*catalog.Catalog)
		want    string
	}{
		{name: "image", request: Request{Images: []string{"debain"}}, want: `unknown image "debain": did you mean debian? (allowed: alpine, debian, scratch, scratch-tls)`},
		{name: "platform", request: Request{Platforms: []string{"linux/amd46"}}, want: `unknown platform "linux/amd46": did you mean linux/amd64? (allowed: linux/amd64, linux/arm64)`},
		{name: "profile", request: Request{Profile: "serve"}, want: `unknown profile "serve": did you mean server? (allowed: alpine-2020, full, minimal, server)`},
		{name: "source", request: Request{Source: "smaple"}, want: `unknown source "smaple": did you mean sample? (allowed: opensmalltalk, sample)`},
		{name: "no stand-in", request: Request{Images: []string{"debian"}}, facts: missing("debian"),
			want: "image debian: its builder debian cannot be had and nothing stands in for it: debian is far away" + remedy},
		{name: "stand-in without a base", request: Request{Images: []string{"scratch"}}, facts: missing("alpine", "debian"),
			want: "image scratch: neither its builder alpine nor debian, which stands in for it, can be had: alpine: alpine is far away; debian: debian is far away" + remedy},
		{name: "two builders for one libc", request: Request{Images: []string{"alpine", "scratch"}}, change: twoBuilders,
			want: "image scratch wants its musl VM from the builder debian, but another image has it from alpine, and images of one libc share the VM: give both the same builder, or ask for one of them alone"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := load(t)
			if tc.change != nil {
				tc.change(c)
			}
			r := tc.request
			if r.Source == "" {
				r.Source = "sample"
			}
			if r.Profile == "" {
				r.Profile = "server"
			}
			f := tc.facts
			if f.Source.Release == "" {
				f = sample()
			}
			if p, err := New(c, r, f); err == nil || err.Error() != tc.want || p != nil {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}
