package catalog

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// kept decides and lists the plugins kept, blank-separated.
func kept(t *testing.T, c *Catalog, profile, source string) (string, error) {
	t.Helper()
	p, err := c.Profile(profile)
	if err != nil {
		t.Fatal(err)
	}
	decisions, err := c.Decide(p, c.Sources[source])
	var names []string
	for _, d := range decisions {
		if d.Keep {
			names = append(names, d.Plugin.Name)
		}
	}
	return strings.Join(names, " "), err
}

func TestDecide(t *testing.T) {
	// Of real.plugins.yaml; OldPlugin (sound) is broken.
	for _, tc := range []struct{ name, profile, want string }{
		{"default keep", "default: keep", "FilePlugin MIDIPlugin PipePlugin SocketPlugin"},
		{"default leave-out", "default: leave-out", ""},
		{"group", "default: keep\nleave-out: [{names: [sound], why: w}]", "FilePlugin PipePlugin SocketPlugin"},
		{"own name beats group", "default: leave-out\nkeep: [{names: [net, core], why: w}]\nleave-out: [{names: [PipePlugin], why: w}]", "FilePlugin SocketPlugin"},
		{"own name beats group left out", "default: keep\nkeep: [{names: [MIDIPlugin], why: w}]\nleave-out: [{names: [sound], why: w}]", "FilePlugin MIDIPlugin PipePlugin SocketPlugin"},
		{"group left out beats group kept", "default: leave-out\nkeep: [{names: [core], why: w}]\nleave-out: [{names: [net], why: w}]", "FilePlugin"},
		{"extends", "extends: quiet\nleave-out: [{names: [PipePlugin], why: w}]", "FilePlugin SocketPlugin"},
		{"rule beats the rule of what it extends", "extends: quiet\nkeep: [{names: [sound], why: w}]", "FilePlugin MIDIPlugin PipePlugin SocketPlugin"},
		{"rule of what it extends beats a new default", "extends: named\ndefault: leave-out", "FilePlugin"},
		{"group another source has", "default: keep\nleave-out: [{names: [rare], why: w}]", "FilePlugin MIDIPlugin PipePlugin SocketPlugin"},
		{"plugin another source has, left out", "default: keep\nleave-out: [{names: [OnlyOtherPlugin], why: w}]", "FilePlugin MIDIPlugin PipePlugin SocketPlugin"},
		{"broken in a kept group", "default: keep\nkeep: [{names: [sound], why: w}]", "FilePlugin MIDIPlugin PipePlugin SocketPlugin"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			files := good()
			files["profiles/mine.yaml"] = "name: mine\n" + tc.profile + "\n"
			files["profiles/named.yaml"] = "name: named\ndefault: keep\nkeep: [{names: [FilePlugin], why: w}]\n"
			files["sources/other.plugins.yaml"] = "groups: {rare: x}\nplugins:\n  OnlyOtherPlugin: {kind: internal, groups: [rare], does: x}\n"
			got, err := kept(t, load(t, files), "mine", "real")
			if err != nil {
				t.Fatal(err)
			}
			if got != tc.want {
				t.Errorf("kept %q, want %q", got, tc.want)
			}
		})
	}
}

func TestDecideMistakes(t *testing.T) {
	for _, tc := range []struct{ name, profile, want string }{
		{"leaves out what a kept plugin needs", "default: keep\nleave-out:\n  - names: [FilePlugin]\n    why: w",
			"profiles/mine.yaml:4: it leaves out FilePlugin, which PipePlugin needs: keep FilePlugin, or leave out PipePlugin too"},
		{"default leaves out what a kept plugin needs", "default: leave-out\nkeep: [{names: [PipePlugin], why: w}]",
			"profiles/mine.yaml: it leaves out FilePlugin, which PipePlugin needs: keep FilePlugin, or leave out PipePlugin too"},
		{"keeps what the source lacks", "default: keep\nkeep:\n  - names: [OnlyOtherPlugin]\n    why: w",
			"profiles/mine.yaml:4: it keeps OnlyOtherPlugin, which the source real does not have: allowed: FilePlugin, MIDIPlugin, OldPlugin, PipePlugin, SocketPlugin"},
		{"keeps what is broken", "default: keep\nkeep:\n  - names: [OldPlugin]\n    why: w",
			"profiles/mine.yaml:4: it keeps OldPlugin, which cannot be built from real: it calls a lost library: take it out of `keep`"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			files := good()
			files["profiles/mine.yaml"] = "name: mine\n" + tc.profile + "\n"
			_, err := kept(t, load(t, files), "mine", "real")
			if err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

// TestDecideReasons is what `profile:show` and the plan print beside a plugin.
func TestDecideReasons(t *testing.T) {
	files := good()
	files["profiles/mine.yaml"] = "name: mine\nextends: quiet\nkeep:\n  - names:\n      - MIDIPlugin\n    why: bells\n"
	c := load(t, files)
	decisions, err := c.Decide(c.Profiles["mine"], c.Sources["real"])
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Decision{
		"FilePlugin": {Keep: true, Why: "default of profile full", From: "profiles/full.yaml"},
		"MIDIPlugin": {Keep: true, Why: "bells", From: "profiles/mine.yaml:5"},
		"OldPlugin":  {Keep: false, Why: "nobody listens", From: "profiles/quiet.yaml:4"},
	}
	for _, d := range decisions {
		w, ok := want[d.Plugin.Name]
		if ok && (d.Keep != w.Keep || d.Why != w.Why || d.From != w.From) {
			t.Errorf("%s: got %v %q %q, want %v %q %q", d.Plugin.Name, d.Keep, d.Why, d.From, w.Keep, w.Why, w.From)
		}
	}

	full, err := c.Decide(c.Profiles["full"], c.Sources["real"])
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(full, func(d Decision) bool { return d.Plugin.Name == "OldPlugin" })
	if d := full[i]; d.Keep || d.Why != "cannot be built: it calls a lost library" {
		t.Errorf("a broken plugin: %+v", d)
	}
}

// TestAlpine2020 leaves out the nine plugins that the Alpine images of 2020 left
// out and, beside them, only what cannot be built at all.
func TestAlpine2020(t *testing.T) {
	nine := []string{
		"CroquetPlugin", "DSAPrims", "DropPlugin", "InternetConfigPlugin", "JoystickTabletPlugin",
		"MIDIPlugin", "SecurityPlugin", "SerialPlugin", "StarSqueakPlugin",
	}
	c := real(t)
	src := c.Sources["opensmalltalk"]
	decisions, err := c.Decide(c.Profiles["alpine-2020"], src)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, d := range decisions {
		if !d.Keep && d.Plugin.Broken == "" {
			out = append(out, d.Plugin.Name)
		}
		if !d.Keep && d.Plugin.Broken != "" && !slices.Contains(nine, d.Plugin.Name) && !strings.HasPrefix(d.Why, "cannot be built: ") {
			t.Errorf("%s is left out for another reason than that it is broken: %s", d.Plugin.Name, d.Why)
		}
	}
	want := slices.DeleteFunc(slices.Clone(nine), func(n string) bool { return src.Plugins[n] == nil || src.Plugins[n].Broken != "" })
	slices.Sort(out)
	if !slices.Equal(out, want) {
		t.Errorf("left out %v\nwant     %v", out, want)
	}
	for _, n := range nine {
		if src.Plugins[n] == nil {
			t.Errorf("the source does not list %s", n)
		}
	}
}

func TestProfileByPath(t *testing.T) {
	c := load(t, good())
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	mine := write("mine.yaml", "name: mine\nextends: quiet\nleave-out:\n  - names: [net]\n    why: no wires\n")
	got, err := kept(t, c, mine, "real")
	if err != nil || got != "FilePlugin" {
		t.Errorf("kept %q, %v", got, err)
	}
	if c.Profiles["mine"] != nil {
		t.Error("a user's profile went into the catalogue")
	}
	for _, tc := range []struct{ name, path, want string }{
		{"unknown name", "quite", `unknown profile "quite": did you mean quiet? (allowed: full, quiet)`},
		{"no such file", filepath.Join(dir, "none.yaml"), "reading the profile " + filepath.Join(dir, "none.yaml") + ": open " + filepath.Join(dir, "none.yaml") +
			": no such file or directory: name one of full, quiet, or the path of your own"},
		{"unknown plugin", write("typo.yaml", "name: typo\ndefault: keep\nleave-out:\n  - names: [SoketPlugin]\n    why: w\n"),
			filepath.Join(dir, "typo.yaml") + `:4: no source has a plugin or group "SoketPlugin": did you mean SocketPlugin?`},
		{"unknown key", write("key.yaml", "name: key\ndefaults: keep\n"), filepath.Join(dir, "key.yaml") + `:2: unknown key "defaults": did you mean default? (allowed: default, description, extends, keep, leave-out, name)`},
		{"extends itself", write("quiet.yaml", "name: quiet\nextends: quiet\n"), filepath.Join(dir, "quiet.yaml") + ":2: profiles extend each other in a circle: quiet → quiet: take one `extends` out"},
		{"extends an unknown one", write("lost.yaml", "name: lost\nextends: mine\n"), filepath.Join(dir, "lost.yaml") + `:2: it extends "mine", which is no profile: allowed: full, quiet`},
		{"name that no image can have", write("My Own.yaml", "name: My Own\ndefault: keep\n"),
			filepath.Join(dir, "My Own.yaml") + `:1: the name "My Own" cannot be part of an image's name: use a-z, 0-9, and . - _ after the first`},
		{"name is not the file's", write("a.yml", "name: b\ndefault: keep\n"), filepath.Join(dir, "a.yml") + `:1: the name is "b" but the file is called a.yml: make them the same`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if p, err := c.Profile(tc.path); err == nil || err.Error() != tc.want || p != nil {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestSuggest(t *testing.T) {
	plugins := strings.Fields("AioPlugin BitBltPlugin FilePlugin FloatMathPlugin LargeIntegers LocalePlugin SocketPlugin SqueakSSL ZipPlugin")
	for _, tc := range []struct {
		name  string
		known []string
		want  string
	}{
		{"soket", []string{"socket", "file"}, "did you mean socket? (allowed: file, socket)"},
		{"SOCKETPLUGIN", plugins, "did you mean SocketPlugin?"},
		{"Large", plugins, "did you mean LargeIntegers?"},
		{"xyz", []string{"b", "a"}, "allowed: a, b"},
		{"", []string{"b", "a"}, "allowed: a, b"},
		{"x", nil, "there are none"},
	} {
		if got := Suggest(tc.name, tc.known); got != tc.want {
			t.Errorf("Suggest(%q): %q, want %q", tc.name, got, tc.want)
		}
	}
}

// TestTextJSON is what machines read of a plan: quoted as JSON has it, not as Go does.
func TestTextJSON(t *testing.T) {
	for _, want := range []string{">= 1, < 2", "a\x7f\a\u00e9\U0001f600\"\\"} {
		data, err := json.Marshal(Text{Value: want})
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if err := json.Unmarshal(data, &got); err != nil || got != want {
			t.Errorf("%q becomes %s, which reads as %q, %v", want, data, got, err)
		}
	}
}

func TestPatchFor(t *testing.T) {
	for _, tc := range []struct {
		constraint, version string
		want                bool
	}{
		{">= 20210325, < 20220601", "20210325", true},
		{">= 20210325, < 20220601", "20220601", false},
		{">= 12.0, < 13.0", "12.0.5", true},
		{">= 12.0, < 13.0", "v12.0.5", true},
		{">= 12.0, < 13.0", "12.0.5-beta", true},
		{">= 12.0, < 13.0", "v12.0.5-beta+7.g0123abc", true},
		{">= 12.0, < 13.0", "12.0.5+7.g0123abc", true},
		{">= 12.0, < 13.0", "13.0.0-alpha", false},
		{"~> 12.0.4", "12.0.5-beta", true},
		{"~> 12.0.4", "12.1.0", false},
		{"= 12.0.5", "12.0.5+7.g0123abc", true},
		{"= 12.0.5-beta", "12.0.5-beta", true},
		{"= 12.0.5-beta", "12.0.5-alpha", false},
		{">= 12.0.5-beta, < 13", "12.0.5-alpha", false},
		{">= 12.0.5-beta, < 13", "12.0.5", true},
		{"!= 12.0.5", "12.0.6", true},
	} {
		files := replaced(t, "patches/real/series.yaml", ">= 1.0, < 3.0", tc.constraint)
		got, err := load(t, files).Sources["real"].PatchesFor(tc.version)
		if err != nil || (len(got) == 1) != tc.want {
			t.Errorf("a patch for %s in version %s: %v, %v; want %v", tc.constraint, tc.version, len(got) == 1, err, tc.want)
		}
	}
	if _, err := load(t, good()).Sources["real"].PatchesFor("newest"); err == nil || !strings.HasPrefix(err.Error(), `choosing patches for version "newest": `) {
		t.Errorf("a version that cannot be ordered: %v", err)
	}
}

func TestLibcWith(t *testing.T) {
	c := load(t, replaced(t, "images/scratch.yaml", "runtime: [libc]", "runtime: [libc, tls]"))
	for builder, want := range map[string]string{"alpine": "musl", "debian": "glibc"} {
		if got, err := c.Images["scratch"].LibcWith(c.Builders[builder]); err != nil || got != want {
			t.Errorf("with TLS on %s: %s, %v; want %s", builder, got, err, want)
		}
	}
	c = load(t, replaced(t, "images/builders/alpine.yaml", ", tls: [/usr/lib/libssl.so.3]", ""))
	img := c.Images["scratch"]
	img.Runtime = []Text{{Value: "tls"}}
	_, err := img.LibcWith(c.Builders["alpine"])
	const want = "image scratch: builder alpine has not what it takes ([tls] for [musl glibc]): add it to images/builders/alpine.yaml, or choose another builder"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// FuzzProfile reads a profile as a user may write one: it is taken or refused
// with the file's name, and whatever is taken can be applied.
func FuzzProfile(f *testing.F) {
	for _, text := range []string{
		"name: mine\nextends: full\nleave-out:\n  - names: [sound]\n    why: w\n",
		"name: mine\ndefault: keep\nkeep:\n  -\n", "name: ~\ndefault: ~\n", "keep: [[]]", "&a {name: *a}", "<<: {name: mine}", "- name", "name: |\n  mine\n",
		"? [name]\n: mine", "name: !!str mine\n---\nname: other", "\x00", "name: \"\\ud800\"", "keep: [{names: ~, why: 1}]", "*x: y", "{name: mine, name: mine}", "name:\n\t- x",
	} {
		f.Add(text)
	}
	c, err := Load(filesystem(good()))
	if err != nil {
		f.Fatal(err)
	}
	file := filepath.ToSlash(filepath.Join(f.TempDir(), "mine.yaml"))
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := c.Profile(file)
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, file+":") && strings.TrimSpace(line) != "" {
					t.Errorf("the mistake does not name the file: %q", err)
				}
			}
			return
		}
		for _, s := range c.Sources {
			_, _ = c.Decide(p, s)
		}
	})
}
