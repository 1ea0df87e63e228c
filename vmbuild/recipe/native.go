package recipe

import (
	"context"
	_ "embed" // the script
	"fmt"
	"strings"

	"github.com/moby/buildkit/client/llb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"pharovm/vmbuild/plan"
)

//go:embed scripts/native.sh
var nativeScript string

// Native is what a build takes without cross-compiling: the graph of a
// Dockerfile that installs a compiler in a container of the target's platform
// and builds there, under qemu where that platform is not the engine's own.
// Benchmarks compare with it. The input's root is one for platform.
func Native(ctx context.Context, in Input, b *plan.Build, platform ocispecs.Platform) (*llb.Definition, error) {
	in.Worker = platform
	m := maker{Input: in, build: b, builder: in.Plan.Builder(b.Builder)}
	var options []string
	for _, o := range b.CMake {
		options = append(options, o.String())
	}
	st := m.root().Run(
		script(nativeScript),
		llb.AddMount("/src", llb.Local(in.Source, llb.SharedKeyHint(in.Source)), llb.Readonly),
		llb.AddMount("/build", llb.Scratch()),
		llb.AddEnv("OPTIONS", strings.Join(options, "\n")), llb.AddEnv("LIBC", b.Libc),
		llb.WithProxy(in.Proxy), llb.IgnoreCache,
		llb.WithCustomName("[native "+b.Libc+" "+b.Platform+"] install, configure and compile"),
	).AddMount("/out", llb.Scratch())
	def, err := st.Marshal(ctx, llb.Platform(platform))
	if err != nil {
		return nil, fmt.Errorf("making the native recipe of %s: %w", b.ID, err)
	}
	return def, nil
}
