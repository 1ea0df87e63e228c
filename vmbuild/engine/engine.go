// Package engine is where LLB runs: Docker's built-in BuildKit, any BuildKit
// address, one address per platform, or a private buildkitd of ours.
//
// Every engine is used through the least they all have (local sources, the
// local exporter), so that one request gives the same files wherever it runs.
package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Job is one build: its LLB, and what it is called in progress and output.
type Job struct {
	// ID names the job and the folder its result is written to. It is one
	// path element: letters, digits, '.', '_' and '-'.
	ID string
	// Platform is the platform the result is for. It chooses the engine when
	// there is one per platform; it does not say where the steps run.
	Platform ocispecs.Platform
	// Definition is the marshalled LLB whose last state is the result.
	Definition *llb.Definition
}

// Request is a set of jobs that share local sources.
type Request struct {
	Jobs []Job
	// Locals maps each llb.Local name to a folder on this machine.
	Locals map[string]string
}

// Info is what an engine says of itself.
type Info struct {
	// Version is BuildKit's version, empty where the engine does not tell
	// (Docker before 23).
	Version string
	// Platforms are those whose programs the engine can execute.
	Platforms []string
}

// Engine runs builds. It is safe for concurrent use.
type Engine interface {
	// Name is "docker", "buildkit ADDRESS", "private", or for one engine per
	// platform "linux/amd64=NAME, linux/arm64=NAME".
	Name() string
	// Why says in one sentence why this engine was chosen.
	Why() string
	// Info asks the engine what it is and can do. With one engine per
	// platform it holds what all of them can do.
	Info(ctx context.Context) (Info, error)
	// Worker is the platform that jobs for platform p run on natively: what a
	// builder's root must be made for.
	Worker(ctx context.Context, p ocispecs.Platform) (ocispecs.Platform, error)
	// Solve runs all jobs in parallel and writes the result of each to
	// out/<job ID>/, replacing what was there, once every job is done. When
	// one job fails the others are stopped, out is left as it was and the
	// error is a *StepError if a step failed. Progress goes to status, which
	// may be nil and which Solve closes.
	Solve(ctx context.Context, req Request, out string, status chan<- *client.SolveStatus) error
	// DiskUsage lists the engine's cache records.
	DiskUsage(ctx context.Context) ([]*client.UsageInfo, error)
	// Prune removes the engine's cache records and returns the bytes it freed.
	// Without options that is every record that no build uses at the moment,
	// toolchains and other projects' records included, but for BuildKit's own
	// and those that Docker's images share, which client.PruneAll adds.
	Prune(ctx context.Context, opts ...client.PruneOption) (int64, error)
	// Close lets go of the engine. A private one stops a few seconds after
	// its last user has gone.
	Close() error
}

// Options is what opening an engine may need.
type Options struct {
	// CacheDir is the user's cache folder of this project; the private engine
	// lives in its subfolder engine. Empty means VMBUILD_CACHE, else pharovm
	// in os.UserCacheDir.
	CacheDir string
	// ModuleDir is the root of the module whose go.mod pins buildkitd. Empty
	// means the nearest folder upwards that has a go.mod.
	ModuleDir string
	// Install allows the private engine to apt-get install what it lacks,
	// when it runs as root on Debian. It prints the command first.
	Install bool
	// Emulate asks for an engine that runs programs of every architecture; for
	// the private one qemu is then among what it needs.
	Emulate bool
	// Log receives lines for people: which engine, what is compiled or
	// installed. Nil discards them.
	Log io.Writer
}

func (o Options) withDefaults() (Options, error) {
	if o.Log == nil {
		o.Log = io.Discard
	}
	if o.CacheDir == "" {
		o.CacheDir = os.Getenv("VMBUILD_CACHE")
	}
	if o.CacheDir == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return o, fmt.Errorf("finding the user's cache folder: %w: set VMBUILD_CACHE", err)
		}
		o.CacheDir = filepath.Join(dir, "pharovm")
	}
	dir, err := filepath.Abs(o.CacheDir)
	if err != nil {
		return o, fmt.Errorf("finding cache folder %s: %w", o.CacheDir, err)
	}
	o.CacheDir = dir
	return o, nil
}

func (o Options) logf(format string, args ...any) {
	fmt.Fprintf(o.Log, format+"\n", args...)
}

// Open connects to the engine spec names, starting it if it is the private
// one. The empty spec and "auto" choose: the address in BUILDKIT_HOST if set
// (whoever sets it means it), else Docker if it answers, else the private
// engine on Linux. Other forms are listed in the error of a spec that is none.
// Open fails within about ten seconds when an engine does not answer.
func Open(ctx context.Context, spec string, opt Options) (Engine, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return nil, err
	}
	s, err := parseSpec(spec)
	if err != nil {
		return nil, err
	}
	return s.open(ctx, opt, "asked for by engine "+s.text)
}

// open opens the engine of s, which was chosen because of why.
func (s spec) open(ctx context.Context, opt Options, why string) (Engine, error) {
	switch s.kind {
	case kindAuto:
		return openAuto(ctx, opt)
	case kindDocker:
		return openDocker(ctx, s.addr, why)
	case kindPrivate:
		return openPrivate(ctx, opt, why)
	case kindAddress:
		return openAddress(ctx, s.addr, why)
	default:
		return openMulti(ctx, s, opt)
	}
}

// openAuto tries the engines in order, and when there is none says what was
// tried and how each can be mended.
func openAuto(ctx context.Context, opt Options) (Engine, error) {
	if addr := os.Getenv("BUILDKIT_HOST"); addr != "" {
		s, err := parseHost(addr)
		if err != nil {
			return nil, err
		}
		// Falling back from an address the user set would build in a place
		// the user did not mean.
		e, err := s.open(ctx, opt, "BUILDKIT_HOST is set to "+redact(addr))
		if err != nil {
			return nil, fmt.Errorf("%w (chosen by BUILDKIT_HOST: unset it to use another engine)", err)
		}
		return e, nil
	}
	e, dockerErr := openDocker(ctx, "", "Docker answers and has BuildKit")
	if dockerErr == nil {
		return e, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	why := "no Docker can be used"
	if e := (*dockerError)(nil); errors.As(dockerErr, &e) {
		why = "no Docker answers at " + e.host
	}
	e, privateErr := openPrivate(ctx, opt, why+" and BUILDKIT_HOST is not set")
	if privateErr == nil {
		return e, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, fmt.Errorf("no engine to build with; any one of these mends it:\n"+
		"  docker    %v\n"+
		"  address   BUILDKIT_HOST is not set: set it, or pass -engine=tcp://HOST:PORT\n"+
		"  private   %w", dockerErr, privateErr)
}

// platformNames lists platforms as os/arch[/variant], sorted, each once.
func platformNames(ps []ocispecs.Platform) []string {
	var names []string
	for _, p := range ps {
		name := p.OS + "/" + p.Architecture
		if p.Variant != "" {
			name += "/" + p.Variant
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
