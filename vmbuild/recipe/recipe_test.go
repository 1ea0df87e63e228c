package recipe

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"pharovm/vmbuild/catalog"
	"pharovm/vmbuild/plan"
)

var update = flag.Bool("update", false, "write the golden files anew")

// planned is the plan of the sample; without Alpine, Debian stands in.
func planned(t *testing.T, alpine bool, change func(*catalog.Catalog)) *plan.Plan {
	t.Helper()
	c, err := catalog.Load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(c)
	}
	f := plan.Facts{Source: plan.Source{Version: "1.0.0", Release: "1.0.0", Epoch: 1763683200}}
	if !alpine {
		f.Missing = map[string]string{"alpine": "far away"}
	}
	p, err := plan.New(c, plan.Request{Source: "sample", Profile: "server"}, f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const musl = "sample-server-musl-linux-arm64"

// input is a build on Debian from a tarball, as where no registry is in reach.
func input(t *testing.T) Input {
	return Input{
		Plan: planned(t, false, nil), Root: Root{Local: "root-0123456789abcdef", File: "rootfs.tar.zst"}, Source: "source-0123456789abcdef",
		Worker: ocispecs.Platform{OS: "linux", Architecture: "amd64"},
	}
}

// alpineInput is a build on Alpine from a published image.
func alpineInput(t *testing.T) Input {
	in := input(t)
	in.Plan = planned(t, true, nil)
	base := in.Plan.Builder("alpine").Base
	in.Root = Root{Image: base.Ref + "@" + base.Digest}
	return in
}

func build(t *testing.T, in Input, id string) *llb.Definition {
	t.Helper()
	def, err := Build(context.Background(), in, in.Plan.Build(id))
	if err != nil {
		t.Fatal(err)
	}
	return def
}

type step struct {
	op   *pb.Op
	name string
}

// steps takes a definition apart, inputs before what needs them.
func steps(t *testing.T, def *llb.Definition) []step {
	t.Helper()
	var out []step
	for _, data := range def.Def {
		var op pb.Op
		if err := op.Unmarshal(data); err != nil {
			t.Fatal(err)
		}
		out = append(out, step{&op, def.Metadata[digest.FromBytes(data)].Description["llb.customname"]})
	}
	return out
}

// command finds the step of a command by its progress name.
func command(t *testing.T, def *llb.Definition, name string) *pb.ExecOp {
	t.Helper()
	var found *pb.ExecOp
	var names []string
	for _, s := range steps(t, def) {
		if e := s.op.GetExec(); e != nil {
			names = append(names, s.name)
			if strings.Contains(s.name, name) {
				found = e
			}
		}
	}
	if found == nil {
		t.Fatalf("no command %q among %q", name, names)
	}
	return found
}

func env(e *pb.ExecOp, name string) string {
	for _, v := range e.Meta.Env {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

// dump prints a definition for people: digests become step numbers, and a
// script is called by its file's name.
func dump(t *testing.T, def *llb.Definition) string {
	t.Helper()
	number := map[string]int{}
	for i, data := range def.Def {
		number[digest.FromBytes(data).String()] = i + 1
	}
	var w strings.Builder
	for i, s := range steps(t, def) {
		fmt.Fprintf(&w, "%d. %s\n", i+1, s.name)
		if p := s.op.Platform; p != nil {
			fmt.Fprintf(&w, "   on %s/%s\n", p.OS, p.Architecture)
		}
		input := func(k int64) string {
			if k < 0 {
				return "nothing"
			}
			in := s.op.Inputs[k]
			return fmt.Sprintf("step %d output %d", number[in.Digest], in.Index)
		}
		switch op := s.op.Op.(type) {
		case *pb.Op_Source:
			fmt.Fprintf(&w, "   source %s\n", op.Source.Identifier)
			for _, k := range plan.SortedKeys(op.Source.Attrs) {
				fmt.Fprintf(&w, "     %s=%s\n", k, op.Source.Attrs[k])
			}
		case *pb.Op_File:
			for _, a := range op.File.Actions {
				c := a.GetCopy()
				fmt.Fprintf(&w, "   copy %s of %s to %s in %s, unpack %v\n", c.Src, input(a.SecondaryInput), c.Dest, input(a.Input), c.AttemptUnpackDockerCompatibility)
			}
		case *pb.Op_Exec:
			m := op.Exec.Meta
			args := slices.Clone(m.Args)
			for k, a := range args {
				args[k] = scriptName(t, a)
			}
			fmt.Fprintf(&w, "   run %s in %s, network %s\n", strings.Join(args, " "), m.Cwd, op.Exec.Network)
			for _, v := range m.Env {
				fmt.Fprintf(&w, "     env %s\n", strings.ReplaceAll(v, "\n", "\n         "))
			}
			for _, mount := range op.Exec.Mounts {
				fmt.Fprintf(&w, "     mount %s from %s", mount.Dest, input(mount.Input))
				if mount.Readonly {
					w.WriteString(", read-only")
				}
				if mount.CacheOpt != nil {
					fmt.Fprintf(&w, ", cache %s %s", mount.CacheOpt.ID, mount.CacheOpt.Sharing)
				}
				if mount.Output >= 0 {
					fmt.Fprintf(&w, ", output %d", mount.Output)
				}
				w.WriteString("\n")
			}
		case nil:
			fmt.Fprintf(&w, "   result: %s\n", input(0))
		default:
			t.Fatalf("an operation that not every BuildKit has: %T", op)
		}
	}
	return w.String()
}

// scriptName names the scripts that make up a text; any other text is itself.
func scriptName(t *testing.T, text string) string {
	t.Helper()
	var names []string
	for _, f := range scriptFiles(t) {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if before, after, ok := strings.Cut(text, string(data)); ok {
			text = before + after
			names = append(names, filepath.Base(f))
		}
	}
	if text != "" {
		names = append(names, text)
	}
	// A script that links makes sense only after the one that unpacks.
	slices.SortFunc(names, func(a, b string) int { return -strings.Compare(a, b) })
	return strings.Join(names, " then ")
}

func scriptFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("scripts/*.sh")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	return files
}

// TestGolden shows the whole graph of a build. When a recipe was changed on
// purpose: go test ./vmbuild/recipe -update, and read the difference.
func TestGolden(t *testing.T) {
	for name, in := range map[string]Input{"debian": input(t), "alpine": alpineInput(t)} {
		t.Run(name, func(t *testing.T) {
			got := dump(t, build(t, in, musl))
			file := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("the graph is not the one in %s; if that is meant: go test ./vmbuild/recipe -update\n%s", file, got)
			}
		})
	}
}

func TestNetwork(t *testing.T) {
	for _, id := range []string{musl, "sample-server-glibc-linux-amd64"} {
		def := build(t, input(t), id)
		for name, want := range map[string]pb.NetMode{
			"configure and compile": pb.NetMode_NONE, "strip and pack": pb.NetMode_NONE, "] install": pb.NetMode_UNSET, "[sysroot": pb.NetMode_UNSET,
		} {
			if got := command(t, def, name).Network; got != want {
				t.Errorf("%s: %s runs with network %s, want %s", id, name, got, want)
			}
		}
	}
}

func TestArchives(t *testing.T) {
	const snapshot = "http://snapshot.debian.org/archive/"
	day := input(t).Plan.Builder("debian").Snapshot
	if day == "" {
		t.Fatal("the Debian builder pins no day")
	}
	for _, tc := range []struct {
		name             string
		change           func(*Input)
		mirror, security string
	}{
		{"the day that is pinned", func(*Input) {}, snapshot + "debian/" + day, snapshot + "debian-security/" + day},
		{"an override", func(in *Input) { in.Mirror, in.Security = "http://mirror/debian", "http://mirror/security" }, "http://mirror/debian", "http://mirror/security"},
		{"an override without security", func(in *Input) { in.Mirror = "http://mirror/debian" }, "http://mirror/debian", ""},
		{"those of the root", func(in *Input) { in.OwnArchives = true }, "", ""},
		{"an override beats those of the root", func(in *Input) { in.OwnArchives, in.Mirror = true, "http://mirror/debian" }, "http://mirror/debian", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := input(t)
			tc.change(&in)
			e := command(t, build(t, in, musl), "] install")
			if m, s := env(e, "MIRROR"), env(e, "SECURITY"); m != tc.mirror || s != tc.security {
				t.Errorf("MIRROR=%s SECURITY=%s, want %s and %s", m, s, tc.mirror, tc.security)
			}
			if env(e, "RELEASE") != "bookworm" {
				t.Errorf("RELEASE=%s", env(e, "RELEASE"))
			}
		})
	}
	in := alpineInput(t)
	if m := env(command(t, build(t, in, musl), "] install"), "MIRROR"); m != "" {
		t.Errorf("Alpine's packages come from %q, want those that its image names", m)
	}
	in.Mirror = "http://mirror/alpine"
	e := command(t, build(t, in, musl), "] install")
	if m, r := env(e, "MIRROR"), env(e, "RELEASE"); m != "http://mirror/alpine" || r != in.Plan.Builder("alpine").Release {
		t.Errorf("Alpine: MIRROR=%s RELEASE=%s", m, r)
	}
}

func key(t *testing.T, in Input, id string) string {
	t.Helper()
	k, err := Key(context.Background(), in, in.Plan.Build(id))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestProxy reaches the steps that fetch packages and no other, and never
// changes which result is asked for.
func TestProxy(t *testing.T) {
	plain := input(t)
	behind := plain
	behind.Proxy = llb.ProxyEnv{HTTPProxy: "http://proxy:3128", NoProxy: "localhost"}
	def := build(t, behind, musl)
	for name, want := range map[string]bool{"] install": true, "[sysroot": true, "configure and compile": false, "strip and pack": false} {
		e := command(t, def, name)
		if got := e.Meta.ProxyEnv.GetHttpProxy() == "http://proxy:3128"; got != want {
			t.Errorf("%s: it knows the proxy: %v, want %v", name, got, want)
		}
		if strings.Contains(strings.Join(e.Meta.Env, " "), "3128") {
			t.Errorf("%s: the proxy is part of the environment, so it decides the digest", name)
		}
	}
	if key(t, plain, musl) != key(t, behind, musl) {
		t.Error("a proxy changes the key")
	}
}

func TestSameGraphTwice(t *testing.T) {
	for _, in := range []Input{input(t), alpineInput(t)} {
		first := build(t, in, musl)
		for range 10 {
			again := build(t, in, musl)
			if !slices.EqualFunc(first.Def, again.Def, slices.Equal[[]byte]) {
				t.Fatal("two marshals of one build differ")
			}
		}
	}
	// Planning anew gives the same graph as well.
	if key(t, input(t), musl) != key(t, input(t), musl) {
		t.Error("two plans of one request differ")
	}
}

// TestKey is another one whenever anything that decides the result is.
func TestKey(t *testing.T) {
	changed := func(change func(*catalog.Catalog)) func(*Input) {
		return func(in *Input) { in.Plan = planned(t, false, change) }
	}
	plain := key(t, input(t), musl)
	for _, tc := range []struct {
		name   string
		change func(*Input)
	}{
		{"compiler flag", changed(func(c *catalog.Catalog) { c.Sources["sample"].CFlags = append(c.Sources["sample"].CFlags, "-O1") })},
		{"linker flag", changed(func(c *catalog.Catalog) { c.Sources["sample"].LinkFlags = append(c.Sources["sample"].LinkFlags, "-s") })},
		{"linker flag of plugins", changed(func(c *catalog.Catalog) {
			c.Sources["sample"].ModuleLinkFlags = append(c.Sources["sample"].ModuleLinkFlags, "-s")
		})},
		{"build type", changed(func(c *catalog.Catalog) { c.Sources["sample"].BuildType = "MinSizeRel" })},
		{"CMake option", changed(func(c *catalog.Catalog) { c.Sources["sample"].CMake["COG_JIT"] = "OFF" })},
		{"plugin", changed(func(c *catalog.Catalog) { c.Profiles["server"].LeaveOut = c.Profiles["server"].LeaveOut[1:] })},
		{"packer", changed(func(c *catalog.Catalog) { c.Images["scratch"].UPX.Value = "best" })},
		{"package of the builder", changed(func(c *catalog.Catalog) { c.Builders["debian"].Packages = c.Builders["debian"].Packages[1:] })},
		{"package of the sysroot", changed(func(c *catalog.Catalog) {
			c.Builders["debian"].Sysroots["musl"].Packages = []string{"musl-dev"}
		})},
		{"day of the archive", changed(func(c *catalog.Catalog) { c.Builders["debian"].Snapshot = "20270101T000000Z" })},
		{"source", func(in *Input) { in.Source = "source-fedcba9876543210" }},
		{"root", func(in *Input) { in.Root.Local = "root-fedcba9876543210" }},
		{"time of the source", func(in *Input) { in.Plan.Source.Epoch++ }},
	} {
		in := input(t)
		tc.change(&in)
		if key(t, in, musl) == plain {
			t.Errorf("another %s gives the same key", tc.name)
		}
	}
	if key(t, input(t), "sample-server-musl-linux-amd64") == plain {
		t.Error("another platform gives the same key")
	}
}

// TestKeyOfPublishedRoot is the same from every host that has the image, and from
// what is kept of it.
func TestKeyOfPublishedRoot(t *testing.T) {
	digest := "sha256:" + strings.Repeat("ab", 32)
	of := func(root Root) string {
		in := input(t)
		in.Root = root
		return key(t, in, musl)
	}
	home := of(Root{Image: "docker.io/library/debian:12@" + digest})
	for name, root := range map[string]Root{
		"a mirror": {Image: "mirror.example:5000/hub/library/debian@" + digest},
		"a copy":   {Local: "root-0123456789abcdef", File: "root.tar.gz", Digest: digest},
	} {
		if of(root) != home {
			t.Errorf("%s gives another key", name)
		}
	}
	if of(Root{Image: "docker.io/library/debian:12@sha256:" + strings.Repeat("cd", 32)}) == home {
		t.Error("another image gives the same key")
	}
	if of(Root{Local: "root-0123456789abcdef", File: "root.tar.gz"}) == home {
		t.Error("some root file system gives the key of an image")
	}
}

// TestToolchainIsShared: all builds of one builder have the same first steps, so
// that packages are installed once.
func TestToolchainIsShared(t *testing.T) {
	in := input(t)
	digests := map[string]bool{}
	for i := range in.Plan.Builds {
		def := build(t, in, in.Plan.Builds[i].ID)
		for _, data := range def.Def {
			d := digest.FromBytes(data)
			if strings.Contains(def.Metadata[d].Description["llb.customname"], "] install") {
				digests[d.String()] = true
			}
		}
	}
	if len(in.Plan.Builds) != 4 || len(digests) != 1 {
		t.Errorf("%d builds have %d toolchains, want 4 and 1", len(in.Plan.Builds), len(digests))
	}
}

func TestBuildMistakes(t *testing.T) {
	in := input(t)
	b := *in.Plan.Build(musl)
	b.Builder = "nix"
	if _, err := Build(context.Background(), in, &b); err == nil || err.Error() != "making the recipe of "+musl+": the plan has no builder nix" {
		t.Errorf("unknown builder: %v", err)
	}
	in.Plan.Builders[0].Manager = "dnf"
	const want = "making the recipe of " + musl + `: no scripts for the package manager "dnf" of the builder debian: use apk or apt`
	if _, err := Build(context.Background(), in, in.Plan.Build(musl)); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// TestScriptsParse with the shells that builders have: dash, and busybox's by
// the same rules.
func TestScriptsParse(t *testing.T) {
	for _, f := range scriptFiles(t) {
		for _, shell := range []string{"sh", "dash"} {
			if _, err := exec.LookPath(shell); err != nil && shell != "sh" {
				continue
			}
			if out, err := exec.Command(shell, "-n", f).CombinedOutput(); err != nil {
				t.Errorf("%s -n %s: %v: %s", shell, f, err, out)
			}
		}
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(filepath.Base(f), "relink") {
			continue // runs after another in the same shell
		}
		if !strings.Contains(string(data), "\nset -eu\n") {
			t.Errorf("%s goes on after a failure: it lacks set -eu", f)
		}
	}
}
