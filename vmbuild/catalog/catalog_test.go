package catalog

import (
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// good is a small catalogue without a mistake.
func good() map[string]string {
	const a, b = "0123456789abcdef0123456789abcdef01234567", "89abcdef0123456789abcdef0123456789abcdef"
	const sha = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	return map[string]string{
		"images/images.lock.yaml": `bases:
  debian: {ref: "docker.io/library/debian:12", digest: "sha256:` + sha + `", bootstrap: "debian:bookworm"}
  alpine:
    ref: docker.io/library/alpine:3
    digest: sha256:` + sha + "\n",
		"images/builders/debian.yaml": `name: debian
base: debian
manager: apt
release: bookworm
packages: [clang]
sysroots:
  musl:
    packages: [musl-dev]
    runtime: {libc: ["{loader}"]}
  glibc:
    packages: [libc6-dev]
    runtime:
      libc: ["{loader}"]
      tls: ["/usr/lib/{triple}/libssl.so.3"]
`,
		"images/builders/alpine.yaml": `name: alpine
base: alpine
manager: apk
release: v3
packages: [clang]
sysroots:
  musl: {packages: [musl-dev], runtime: {libc: ["{loader}"], tls: [/usr/lib/libssl.so.3]}}
`,
		"images/scratch.yaml": `name: scratch
title: alone
libc: [musl, glibc]
builder: alpine
stand-in: debian
runtime: [libc]
upx: lzma
budget:
  linux/amd64: {unpacked: 1.1 MB, compressed: 750 kB}
  linux/arm64: {unpacked: 1.1 MB, compressed: 750 kB}
`,
		"sources/real.yaml": "name: real\nlayout: minheadless\ngit: https://example.org/vm.git\n",
		"sources/real.lock.yaml": `default: "2.0"
versions:
  "2.0": {commit: ` + a + `, tree: ` + b + `, epoch: 1}
`,
		"sources/real.plugins.yaml": `groups:
  core: what every image calls
  sound: noise
  net: wires
plugins:
  FilePlugin: {kind: internal, groups: [core], does: files}
  SocketPlugin: {kind: internal, groups: [core, net], does: sockets}
  MIDIPlugin: {kind: external, groups: [sound], does: music}
  PipePlugin: {kind: internal, groups: [net], does: pipes, needs: [FilePlugin]}
  OldPlugin: {kind: internal, groups: [sound], does: nothing, broken: it calls a lost library}
`,
		"sources/other.yaml":         "name: other\nlayout: minheadless\nlocal: testdata\n",
		"sources/other.lock.yaml":    "default: 1.0.0\nversions:\n  1.0.0: {epoch: 1}\n",
		"sources/other.plugins.yaml": "groups: {core: all}\nplugins:\n  OnlyOtherPlugin: {kind: internal, groups: [core], does: x}\n",
		"patches/real/series.yaml": `patches:
  - file: 0001-mend.patch
    title: mends
    why: it was broken
    versions: ">= 1.0, < 3.0"
`,
		"patches/real/0001-mend.patch": "--- a\n",
		"profiles/full.yaml":           "name: full\ndefault: keep\n",
		"profiles/quiet.yaml": `name: quiet
extends: full
leave-out:
  - names: [sound]
    why: nobody listens
`,
	}
}

func filesystem(files map[string]string) fs.FS {
	out := fstest.MapFS{}
	for name, text := range files {
		out[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out
}

func load(t *testing.T, files map[string]string) *Catalog {
	t.Helper()
	c, err := Load(filesystem(files))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// real is the catalogue of this project.
func real(t *testing.T) *Catalog {
	t.Helper()
	c, err := Load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLoadReal(t *testing.T) {
	c := real(t)
	for _, name := range []string{"opensmalltalk", "sample"} {
		if c.Sources[name] == nil {
			t.Errorf("no source %s", name)
		}
	}
	for _, name := range []string{"server", "minimal", "full", "alpine-2020"} {
		if c.Profiles[name] == nil {
			t.Errorf("no profile %s", name)
		}
	}
	for _, name := range []string{"alpine", "debian", "scratch", "scratch-tls"} {
		if c.Images[name] == nil {
			t.Errorf("no image %s", name)
		}
	}
	// Every image can be made with its builder, and with its stand-in.
	for _, img := range c.Images {
		for _, b := range []string{img.Builder.Value, img.StandIn.Value} {
			if b == "" {
				continue
			}
			if _, err := img.LibcWith(c.Builders[b]); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestDecideReal applies every profile to every source.
func TestDecideReal(t *testing.T) {
	c := real(t)
	for _, p := range c.Profiles {
		for _, s := range c.Sources {
			decisions, err := c.Decide(p, s)
			if err != nil {
				t.Errorf("%s of %s: %v", p.Name, s.Name, err)
			}
			if len(decisions) != len(s.Plugins) {
				t.Errorf("%s of %s: %d decisions about %d plugins", p.Name, s.Name, len(decisions), len(s.Plugins))
			}
			for _, d := range decisions {
				if d.Why == "" || d.From == "" {
					t.Errorf("%s of %s: no reason for %s: %+v", p.Name, s.Name, d.Plugin.Name, d)
				}
				if d.Keep && d.Plugin.Broken != "" {
					t.Errorf("%s of %s keeps %s, which is broken", p.Name, s.Name, d.Plugin.Name)
				}
			}
		}
	}
}

// replaced is the good catalogue with one text in one file replaced; an empty
// text replaces the whole file.
func replaced(t *testing.T, file, from, to string) map[string]string {
	t.Helper()
	files := good()
	if from == "" {
		files[file] = to
		return files
	}
	if n := strings.Count(files[file], from); n != 1 {
		t.Fatalf("%q is %d times in %s", from, n, file)
	}
	files[file] = strings.Replace(files[file], from, to, 1)
	return files
}

// TestLoadElsewhere is what a user sees who is not in the project's folder.
func TestLoadElsewhere(t *testing.T) {
	_, err := Load(fstest.MapFS{})
	if err == nil || !strings.Contains(err.Error(), "reading the catalogue: no sources/*.yaml here: run this in the project's folder, or name it with VMBUILD_DIR") {
		t.Errorf("got %v", err)
	}
}

// TestLoadAll tells every mistake at once, in the same order each time.
func TestLoadAll(t *testing.T) {
	files := good()
	files["profiles/full.yaml"] = "name: full\n"
	files["images/builders/debian.yaml"] = strings.NewReplacer("musl:", "msl:", "glibc:", "glbc:").Replace(files["images/builders/debian.yaml"])
	_, err := Load(filesystem(files))
	if err == nil {
		t.Fatal("it loads")
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 3 {
		t.Errorf("%d mistakes are told, want 3: %v", n, err)
	}
	for range 20 {
		if _, again := Load(filesystem(files)); again.Error() != err.Error() {
			t.Fatalf("first %v\nthen %v", err, again)
		}
	}
}

func TestLoadMistakes(t *testing.T) {
	load(t, good())
	for _, tc := range []struct{ name, file, from, to, want string }{
		// Keys and syntax.
		{"unknown key", "profiles/quiet.yaml", "leave-out:", "leaveout:",
			`profiles/quiet.yaml:3: unknown key "leaveout": did you mean leave-out? (allowed: default, description, extends, keep, leave-out, name)`},
		{"unknown key further down", "profiles/quiet.yaml", "why:", "because:",
			`profiles/quiet.yaml:5: unknown key "because": allowed: names, why`},
		{"unknown key of a plugin", "sources/real.plugins.yaml", "does: music", "doe: music",
			`sources/real.plugins.yaml:8: unknown key "doe": did you mean does? (allowed: broken, does, groups, kind, needs, needs-lib)`},
		{"several unknown keys", "sources/other.yaml", "", "nam: other\nlayout: minheadless\nlocl: x\n",
			"sources/other.yaml:1: unknown key \"nam\": did you mean name?\nsources/other.yaml:3: unknown key \"locl\": did you mean local?"},
		{"not YAML", "profiles/full.yaml", "", "name: full\ndefault: [keep\n", "profiles/full.yaml:2: sequence end token ']' not found"},
		{"list for a word", "profiles/full.yaml", "keep", "[keep]", "profiles/full.yaml:2: a single word or text is wanted here, not a sequence"},
		{"word for a list", "profiles/quiet.yaml", "[sound]", "sound", "profiles/quiet.yaml:4: names: a list, such as [a, b], is wanted here, not a string"},
		{"list for keys", "profiles/quiet.yaml", "", "- quiet\n", "profiles/quiet.yaml:1: this file: keys with values are wanted here, not a sequence"},
		{"tag", "profiles/full.yaml", "default: keep", "default: !yes keep", "profiles/full.yaml:2: tags are not used here: take !yes out"},
		{"name doubled as key", "sources/real.plugins.yaml", "  MIDIPlugin:", "  FilePlugin:", `sources/real.plugins.yaml:8: mapping key "FilePlugin" already defined at [6:3]`},
		{"nothing under a name", "sources/real.plugins.yaml", "  MIDIPlugin: {kind: external, groups: [sound], does: music}", "  MIDIPlugin:",
			"sources/real.plugins.yaml:8: MIDIPlugin is empty: fill it in or take it out"},
		{"name is not the file's", "profiles/quiet.yaml", "name: quiet", "name: silent",
			`profiles/quiet.yaml:1: the name is "silent" but the file is called quiet.yaml: make them the same`},
		{"empty file", "images/scratch.yaml", "", "", `images/scratch.yaml:1: the name is "" but the file is called scratch.yaml: make them the same`},
		// Profiles.
		{"unknown plugin", "profiles/quiet.yaml", "[sound]", "[sound, MidiPlugin]",
			`profiles/quiet.yaml:4: no source has a plugin or group "MidiPlugin": did you mean MIDIPlugin?`},
		{"unknown group", "profiles/quiet.yaml", "[sound]", "[sounds]",
			`profiles/quiet.yaml:4: no source has a plugin or group "sounds": did you mean sound?`},
		{"extends nothing there", "profiles/quiet.yaml", "extends: full", "extends: ful",
			`profiles/quiet.yaml:2: it extends "ful", which is no profile: did you mean full? (allowed: full, quiet)`},
		{"extends in a circle", "profiles/full.yaml", "default: keep", "extends: quiet",
			"profiles/quiet.yaml:2: profiles extend each other in a circle: full → quiet → full: take one `extends` out\n" +
				"profiles/full.yaml:2: profiles extend each other in a circle: quiet → full → quiet: take one `extends` out"},
		{"extends itself", "profiles/quiet.yaml", "extends: full", "extends: quiet",
			"profiles/quiet.yaml:2: profiles extend each other in a circle: quiet → quiet: take one `extends` out"},
		{"no default", "profiles/full.yaml", "default: keep", "description: x",
			`profiles/full.yaml: default is missing: allowed: keep, leave-out`},
		{"wrong default", "profiles/full.yaml", "default: keep", "default: leaveout",
			`profiles/full.yaml:2: default "leaveout" is not known: did you mean leave-out? (allowed: keep, leave-out)`},
		{"no reason", "profiles/quiet.yaml", "    why: nobody listens\n", "", "profiles/quiet.yaml:4: say why: every rule has a `why`"},
		{"rule about nothing", "profiles/quiet.yaml", "names: [sound]", "names: []", "profiles/quiet.yaml: a rule names no plugin or group: fill its `names`"},
		{"empty rule", "profiles/quiet.yaml", "leave-out:\n", "leave-out:\n  -\n", "profiles/quiet.yaml:4: an entry of leave-out is empty: fill it in or take it out"},
		{"named twice", "profiles/quiet.yaml", "leave-out:\n", "keep:\n  - names: [sound]\n    why: so\nleave-out:\n",
			"profiles/quiet.yaml:7: sound is named on line 4 already: name it once"},
		// Sources.
		{"unknown layout", "sources/real.yaml", "layout: minheadless", "layout: autoconf", `sources/real.yaml:2: layout "autoconf" is not known: allowed: minheadless`},
		{"default version not there", "sources/real.lock.yaml", `default: "2.0"`, `default: "2.1"`,
			`sources/real.lock.yaml:1: the default version "2.1" is not listed below: did you mean 2.0? (allowed: 2.0)`},
		{"version cannot be ordered", "sources/other.lock.yaml", "", "default: 1.0.0\nversions:\n  1.0.0: {epoch: 1}\n  newest: {epoch: 1}\n",
			`sources/other.lock.yaml: version "newest" cannot be ordered: …`},
		{"short commit", "sources/real.lock.yaml", "commit: 0123456789abcdef0123456789abcdef01234567", "commit: 0123456789",
			"sources/real.lock.yaml: version 2.0 needs the full commit and tree id, 40 hexadecimal digits each"},
		{"bad archive checksum", "sources/real.lock.yaml", "epoch: 1", "epoch: 1, archive-sha256: abc",
			"sources/real.lock.yaml: version 2.0: archive-sha256 is 64 hexadecimal digits, or absent"},
		{"no lock", "sources/more.yaml", "", "name: more\nlayout: minheadless\n", "reading the catalogue: open sources/more.lock.yaml: file does not exist\nreading the catalogue: open sources/more.plugins.yaml: file does not exist"},
		{"unknown kind", "sources/real.plugins.yaml", "kind: external", "kind: extern",
			`sources/real.plugins.yaml:8: MIDIPlugin: kind "extern" is not known: did you mean external? (allowed: external, internal)`},
		{"plugin in no group", "sources/real.plugins.yaml", "groups: [sound], does: music", "does: music", "sources/real.plugins.yaml:8: MIDIPlugin is in no group: name at least one"},
		{"plugin in an unknown group", "sources/real.plugins.yaml", "groups: [sound], does: music", "groups: [noise], does: music",
			`sources/real.plugins.yaml:8: MIDIPlugin: group "noise" is not known: allowed: core, net, sound`},
		{"plugin needs an unknown one", "sources/real.plugins.yaml", "needs: [FilePlugin]", "needs: [FilesPlugin]",
			`sources/real.plugins.yaml:9: PipePlugin needs "FilesPlugin", which is not known: did you mean FilePlugin? (allowed: FilePlugin, MIDIPlugin, OldPlugin, PipePlugin, SocketPlugin)`},
		{"plugin needs a broken one", "sources/real.plugins.yaml", "needs: [FilePlugin]", "needs: [OldPlugin]",
			"sources/real.plugins.yaml:9: PipePlugin needs OldPlugin, which is broken: mark it broken too"},
		{"group called like a plugin", "sources/real.plugins.yaml", "  net: wires", "  net: wires\n  FilePlugin: x",
			`sources/real.plugins.yaml: "FilePlugin" is the name of a group and of a plugin: rename the group`},
		// Patches.
		{"patch not there", "patches/real/series.yaml", "0001-mend.patch", "0002-mend.patch", "patches/real/series.yaml:5: patch 0002-mend.patch is listed but not in patches/real"},
		{"patch not listed", "patches/real/0002-more.patch", "", "--- a\n", "patches/real/series.yaml: 0002-more.patch lies beside this file but is not listed in it: list it or delete it"},
		{"patches but no series", "patches/other/0001.patch", "", "--- a\n", "reading the catalogue: open patches/other/series.yaml: file does not exist"},
		{"patch listed twice", "patches/real/series.yaml", "patches:\n", "patches:\n  - {file: 0001-mend.patch, title: t, why: w, versions: \">= 1.0\"}\n",
			"patches/real/series.yaml:6: patch 0001-mend.patch is listed twice: list it once"},
		{"patch elsewhere", "patches/real/series.yaml", "0001-mend.patch", "../0001-mend.patch", `patches/real/series.yaml:5: patch file "../0001-mend.patch" must be a name in patches/real`},
		{"bad version constraint", "patches/real/series.yaml", ">= 1.0, < 3.0", "since 1.0",
			`patches/real/series.yaml:5: 0001-mend.patch: malformed constraint: since 1.0: write it like ">= 20210325, < 20220601"`},
		{"patch for no version", "patches/real/series.yaml", "    versions: \">= 1.0, < 3.0\"\n", "",
			`patches/real/series.yaml: 0001-mend.patch: malformed constraint: : write it like ">= 20210325, < 20220601"`},
		{"patch without a reason", "patches/real/series.yaml", "    why: it was broken\n", "", "patches/real/series.yaml:4: 0001-mend.patch needs a title and a why"},
		// Images and builders.
		{"unknown upx", "images/scratch.yaml", "upx: lzma", "upx: lzm4", `images/scratch.yaml:7: upx "lzm4" is not known: did you mean lzma? (allowed: best, lzma, none)`},
		{"no upx", "images/scratch.yaml", "upx: lzma\n", "", `images/scratch.yaml: upx is missing: allowed: best, lzma, none`},
		{"unknown libc", "images/scratch.yaml", "[musl, glibc]", "[musl, uclibc]", `images/scratch.yaml:3: libc "uclibc" is not known: did you mean glibc? (allowed: glibc, musl)`},
		{"no libc", "images/scratch.yaml", "libc: [musl, glibc]\n", "", "images/scratch.yaml: name at least one libc: allowed: glibc, musl"},
		{"unknown builder", "images/scratch.yaml", "builder: alpine", "builder: alpin", `images/scratch.yaml:4: builder "alpin" is not known: did you mean alpine? (allowed: alpine, debian)`},
		{"unknown stand-in", "images/scratch.yaml", "stand-in: debian", "stand-in: fedora", `images/scratch.yaml:5: stand-in "fedora" is not known: allowed: alpine, debian`},
		{"unknown base", "images/scratch.yaml", "upx: lzma", "upx: lzma\nbase: debia", `images/scratch.yaml:8: base "debia" is not known: did you mean debian? (allowed: alpine, debian)`},
		{"unknown runtime", "images/scratch.yaml", "runtime: [libc]", "runtime: [shell]", `images/scratch.yaml:6: runtime "shell" is not known: allowed: libc, tls`},
		{"no budget", "images/scratch.yaml", "  linux/arm64: {unpacked: 1.1 MB, compressed: 750 kB}\n", "",
			"images/scratch.yaml: no budget for linux/arm64: write one, such as {unpacked: 1.1 MB, compressed: 0.75 MB}"},
		{"half a budget", "images/scratch.yaml", "  linux/arm64: {unpacked: 1.1 MB, compressed: 750 kB}", "  linux/arm64: {unpacked: 1.1 MB}",
			"images/scratch.yaml: no budget for linux/arm64: …"},
		{"budget for an unknown platform", "images/scratch.yaml", "budget:\n", "budget:\n  linux/arm: {unpacked: 1 MB, compressed: 1 MB}\n",
			`images/scratch.yaml: platform "linux/arm" is not known: did you mean linux/arm64? (allowed: linux/amd64, linux/arm64)`},
		{"bad size", "images/scratch.yaml", "  linux/arm64: {unpacked: 1.1 MB,", "  linux/arm64: {unpacked: small,",
			`images/scratch.yaml:10: "small" is no size: write it like 750 kB or 1.1 MB`},
		{"negative size", "images/scratch.yaml", "  linux/arm64: {unpacked: 1.1 MB,", "  linux/arm64: {unpacked: -1 MB,",
			`images/scratch.yaml:10: "-1 MB" is no size: write it like 750 kB or 1.1 MB`},
		{"bad digest", "images/images.lock.yaml", "    digest: sha256:0123", "    digest: sha256:", "images/images.lock.yaml:5: base alpine: \"sha256:456789…"},
		{"no digest", "images/images.lock.yaml", "    digest: sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n", "",
			`images/images.lock.yaml: base alpine: "" is no digest: write sha256: and 64 hexadecimal digits`},
		{"no reference", "images/images.lock.yaml", "    ref: docker.io/library/alpine:3\n", "", "images/images.lock.yaml:4: base alpine needs a ref, such as docker.io/library/debian:12"},
		{"unknown package manager", "images/builders/debian.yaml", "manager: apt", "manager: dnf", `images/builders/debian.yaml:3: manager "dnf" is not known: allowed: apk, apt`},
		{"builder on an unknown base", "images/builders/debian.yaml", "base: debian", "base: debain", `images/builders/debian.yaml:2: base "debain" is not known: did you mean debian? (allowed: alpine, debian)`},
		{"sysroot of an unknown libc", "images/builders/debian.yaml", "  glibc:", "  gnulibc:", `images/builders/debian.yaml: sysroot "gnulibc" is not known: did you mean glibc? (allowed: glibc, musl)`},
		{"empty sysroot", "images/builders/alpine.yaml", `  musl: {packages: [musl-dev], runtime: {libc: ["{loader}"], tls: [/usr/lib/libssl.so.3]}}`, "  musl:",
			"images/builders/alpine.yaml:7: musl is empty: fill it in or take it out"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := Load(filesystem(replaced(t, tc.file, tc.from, tc.to)))
			if err == nil {
				t.Fatal("it loads")
			}
			if c != nil {
				t.Error("a catalogue with a mistake is handed out")
			}
			start, part := strings.CutSuffix(tc.want, "…")
			if part && !strings.HasPrefix(err.Error(), start) || !part && err.Error() != tc.want {
				t.Errorf("got  %s\nwant %s", err, tc.want)
			}
		})
	}
}
