// Package recipe turns a build of the plan into LLB, BuildKit's build graph. It
// is pure: the same build and the same inputs give the same graph, byte for
// byte, so that the graph's digest names the result.
//
// A graph uses only what every BuildKit of the last years has: images, local
// folders, commands, copies and cache mounts. The shell scripts it runs lie in
// scripts/, one for each step.
package recipe

import (
	"context"
	"crypto/sha256"
	_ "embed" // scripts
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/client/llb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"pharovm/vmbuild/plan"
)

// The scripts of the steps that every builder shares.
var (
	//go:embed scripts/compile.sh
	compileScript string
	//go:embed scripts/pack.sh
	packScript string
	//go:embed scripts/relink.sh
	relinkScript string
)

// The scripts of each package manager.
var (
	//go:embed scripts/toolchain-apt.sh
	toolchainApt string
	//go:embed scripts/toolchain-apk.sh
	toolchainApk string
	//go:embed scripts/sysroot-apt.sh
	sysrootApt string
	//go:embed scripts/sysroot-apk.sh
	sysrootApk string

	managers = map[string]struct{ toolchain, sysroot string }{
		"apt": {toolchainApt, sysrootApt},
		"apk": {toolchainApk, sysrootApk},
	}
)

// Root is the file system that a builder starts from: a published image, or a
// tarball in a local folder.
type Root struct {
	Image string // reference with digest
	Local string // name of an llb.Local, when there is no Image
	File  string // the tarball's name in it
	// Digest is that of the published image which the root is, whichever host it
	// came from and in whichever form; empty when it is no such image.
	Digest string
}

// Input is what a recipe needs beside the build itself.
type Input struct {
	Plan   *plan.Plan
	Root   Root
	Source string // name of the llb.Local that holds the staged, patched source
	// Mirror and Security replace the package archives that the plan's builder
	// pins; OwnArchives keeps those that the root itself names.
	Mirror, Security string
	OwnArchives      bool
	Worker           ocispecs.Platform // what the engine runs natively
	// Salt makes every compile step a new one, with an empty ccache; only
	// benchmarks give one.
	Salt  string
	Proxy llb.ProxyEnv // never part of a cache key of BuildKit's, nor of Key
}

// Build is the graph of one build: its result is the VM tree.
func Build(ctx context.Context, in Input, b *plan.Build) (*llb.Definition, error) {
	builder := in.Plan.Builder(b.Builder)
	if builder == nil {
		return nil, fmt.Errorf("making the recipe of %s: the plan has no builder %s", b.ID, b.Builder)
	}
	if _, ok := managers[builder.Manager]; !ok {
		return nil, fmt.Errorf("making the recipe of %s: no scripts for the package manager %q of the builder %s: use apk or apt", b.ID, builder.Manager, b.Builder)
	}
	r := maker{Input: in, build: b, builder: builder}
	// Folders are named by the digest of what they hold, so that two runs may
	// share a step whichever of them hands it over; the random ID that LLB gives
	// a folder otherwise would also make every graph a new one.
	def, err := r.pack(r.compile()).Marshal(ctx, llb.Platform(in.Worker), llb.LocalUniqueID("pharovm"))
	if err != nil {
		return nil, fmt.Errorf("making the recipe of %s: %w", b.ID, err)
	}
	return def, nil
}

// Key names the result of one build: equal keys mean equal VM trees. It is a
// digest of the graph without the proxies and the hosts of pinned roots, which
// change how things are fetched and not what they are.
func Key(ctx context.Context, in Input, b *plan.Build) (string, error) {
	in.Proxy = llb.ProxyEnv{}
	if _, d, ok := strings.Cut(in.Root.Image, "@"); ok {
		in.Root.Digest = d
	}
	if in.Root.Digest != "" {
		in.Root = Root{Image: "root@" + in.Root.Digest}
	}
	def, err := Build(ctx, in, b)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, op := range def.Def {
		fmt.Fprintf(h, "%d\n", len(op))
		h.Write(op)
	}
	return hex.EncodeToString(h.Sum(nil))[:32], nil
}

type maker struct {
	Input
	build   *plan.Build
	builder *plan.Builder
}

// StepPrefix begins the progress names of the steps that are a build's own.
func StepPrefix(b *plan.Build) string { return "[" + b.Libc + " " + b.Platform + "] " }

// RootStep is the progress name of the step that gets a builder's base.
func RootStep(b *plan.Builder) string { return "[builder " + b.Name + "] root" }

func (m maker) name(step string) llb.ConstraintsOpt {
	return llb.WithCustomName(StepPrefix(m.build) + step)
}

// root is the builder's file system before anything is installed.
func (m maker) root() llb.State {
	title := llb.WithCustomName(RootStep(m.builder))
	if m.Root.Image != "" {
		return llb.Image(m.Root.Image, llb.Platform(m.Worker), title)
	}
	tarball := llb.Local(m.Root.Local, llb.IncludePatterns([]string{m.Root.File}), llb.SharedKeyHint(m.Root.Local), title)
	return llb.Scratch().Platform(m.Worker).File(
		llb.Copy(tarball, m.Root.File, "/", &llb.CopyInfo{AttemptUnpack: true}), title).
		AddEnv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

// toolchain is the root with compilers and tools; every build of the builder
// shares it.
func (m maker) toolchain() llb.State {
	mirror, security := m.archives()
	return m.root().Run(
		script(managers[m.builder.Manager].toolchain),
		llb.AddEnv("MIRROR", mirror), llb.AddEnv("SECURITY", security), llb.AddEnv("RELEASE", m.builder.Release),
		llb.AddEnv("PACKAGES", strings.Join(m.builder.Packages, " ")),
		llb.WithProxy(m.Proxy),
		llb.WithCustomNamef("[builder %s] install %d packages", m.builder.Name, len(m.builder.Packages)),
	).Root()
}

// archives are where packages come from: an override, else for apt the
// snapshot that the builder pins, else whatever the root names itself.
func (m maker) archives() (mirror, security string) {
	if m.Mirror != "" || m.OwnArchives || m.builder.Snapshot == "" {
		return m.Mirror, m.Security
	}
	const archive = "http://snapshot.debian.org/archive/"
	return archive + "debian/" + m.builder.Snapshot, archive + "debian-security/" + m.builder.Snapshot
}

// sysroot is the target side of the toolchain; images and profiles share it.
func (m maker) sysroot() llb.State {
	title := llb.WithCustomNamef("[sysroot %s] %d packages", m.build.Triple, len(m.build.Sysroot))
	return m.toolchain().Run(
		script(managers[m.builder.Manager].sysroot+relinkScript),
		llb.AddEnv("TRIPLE", m.build.Triple),
		llb.AddEnv("PACKAGES", strings.Join(m.build.Sysroot, " ")),
		llb.WithProxy(m.Proxy), title,
	).AddMount("/sysroot", llb.Scratch())
}

// compile leaves raw/ and info/.
func (m maker) compile() llb.State {
	var options []string
	for _, o := range m.build.CMake {
		options = append(options, o.String())
	}
	source := llb.Local(m.Source, llb.SharedKeyHint(m.Source), llb.WithCustomName("[source] "+m.Plan.Source.Name+" "+m.Plan.Source.Version))
	return m.toolchain().Run(
		script(m.salted(compileScript)),
		llb.AddMount("/src", source, llb.Readonly),
		llb.AddMount("/opt/sysroot", m.sysroot(), llb.Readonly),
		llb.AddMount("/build", llb.Scratch()),
		llb.AddMount("/ccache", llb.Scratch(), llb.AsPersistentCacheDir("pharovm-ccache"+m.Salt, llb.CacheMountShared)),
		llb.AddEnv("TRIPLE", m.build.Triple),
		llb.AddEnv("BUILD_TYPE", m.build.BuildType),
		llb.AddEnv("OPTIONS", strings.Join(options, "\n")),
		llb.AddEnv("C_FLAGS", strings.Join(m.build.CFlags, " ")),
		llb.AddEnv("LINK_FLAGS", strings.Join(m.build.LinkFlags, " ")),
		llb.AddEnv("MODULE_LINK_FLAGS", strings.Join(m.build.ModuleLinkFlags, " ")),
		llb.AddEnv("SOURCE_DATE_EPOCH", fmt.Sprint(m.Plan.Source.Epoch)),
		llb.Network(llb.NetModeNone),
		m.name("configure and compile"),
	).AddMount("/out", llb.Scratch())
}

// salted makes a script a new one by a comment; BuildKit would take a step that
// differs by its cache mount alone for the same.
func (m maker) salted(text string) string {
	if m.Salt == "" {
		return text
	}
	return text + "# " + m.Salt + "\n"
}

// pack leaves the VM tree.
func (m maker) pack(raw llb.State) llb.State {
	var runtime []string
	for part, files := range m.build.Runtime {
		for _, f := range files {
			runtime = append(runtime, part+" "+f)
		}
	}
	slices.Sort(runtime)
	return m.toolchain().Run(
		script(packScript),
		llb.AddMount("/raw", raw, llb.Readonly),
		llb.AddMount("/opt/sysroot", m.sysroot(), llb.Readonly),
		llb.AddEnv("METHODS", strings.Join(m.build.Pack, " ")),
		llb.AddEnv("RUNTIME", strings.Join(runtime, "\n")),
		llb.Network(llb.NetModeNone),
		m.name("strip and pack"),
	).AddMount("/out", llb.Scratch())
}

// script runs a script in one shell.
func script(text string) llb.RunOption { return llb.Args([]string{"/bin/sh", "-c", text}) }
