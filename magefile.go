//go:build mage

// Small Pharo VMs and their base images, for amd64 and arm64, musl and glibc.
//
// A flag counts for every target on the line, and is also an environment
// variable: -source is VMBUILD_SOURCE. Targets that build print digests to standard
// output, everything else to standard error.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/magefile/mage/mg"

	"pharovm/vmbuild"
)

type (
	// VM builds virtual machines and their base images.
	VM mg.Namespace
	// Profile shows which plugins a VM keeps.
	Profile mg.Namespace
	// Cache shows and frees what engines and builds keep for the next run.
	Cache mg.Namespace
)

// Alpine builds the VM for musl and its base image on Alpine Linux.
func (VM) Alpine(ctx context.Context, source, version, profile, platform, engine, progress *string) error {
	return build(ctx, flags{source: source, version: version, profile: profile, platform: platform, engine: engine, progress: progress}, "alpine")
}

// Debian builds the VM for glibc and its base image on Debian.
func (VM) Debian(ctx context.Context, source, version, profile, platform, engine, progress *string) error {
	return build(ctx, flags{source: source, version: version, profile: profile, platform: platform, engine: engine, progress: progress}, "debian")
}

// Scratch builds the VM for musl and its base image that holds nothing else.
func (VM) Scratch(ctx context.Context, source, version, profile, platform, engine, progress *string) error {
	return build(ctx, flags{source: source, version: version, profile: profile, platform: platform, engine: engine, progress: progress}, "scratch")
}

// ScratchTLS builds the same with TLS libraries, for musl where the builder is Alpine's, else for glibc.
func (VM) ScratchTLS(ctx context.Context, source, version, profile, platform, engine, progress *string) error {
	return build(ctx, flags{source: source, version: version, profile: profile, platform: platform, engine: engine, progress: progress}, "scratch-tls")
}

// All builds every base image.
func (VM) All(ctx context.Context, source, version, profile, platform, engine, progress *string) error {
	return build(ctx, flags{source: source, version: version, profile: profile, platform: platform, engine: engine, progress: progress})
}

// Multiarch joins what dist/ holds into one index for each image.
func Multiarch(ctx context.Context, source, version, profile, platform, engine, progress *string) error {
	// The flags are those of the targets that build, on the same line.
	return run(ctx, func(ctx context.Context, p *vmbuild.Project) error {
		digests, err := p.Multiarch(ctx)
		if err != nil {
			return err
		}
		return printDigests(digests)
	})
}

// Plan prints all that would be done, without an engine or the network (-json for machines, -image for some images).
func Plan(ctx context.Context, source, version, profile, platform, engine, progress, image *string, json *bool) error {
	return run(ctx, func(ctx context.Context, p *vmbuild.Project) error {
		f := flags{source: source, version: version, profile: profile, platform: platform}
		pl, err := p.Plan(ctx, f.options(words(flag(image, "VMBUILD_IMAGE"))...))
		if err != nil {
			return err
		}
		if json != nil && *json {
			return printJSON(pl)
		}
		return pl.Table(os.Stdout)
	})
}

// Doctor says what is there, what is missing, what that stops, and how to mend it.
func Doctor(ctx context.Context, engine *string) error {
	return run(ctx, func(ctx context.Context, p *vmbuild.Project) error {
		return p.Doctor(ctx, flags{engine: engine}.options(), os.Stdout)
	})
}

// List prints the profiles, and how many plugins each keeps.
func (Profile) List(ctx context.Context, source *string) error {
	return run(ctx, func(ctx context.Context, p *vmbuild.Project) error {
		return p.ProfileList(flags{source: source}.options(), os.Stdout)
	})
}

// Show prints every plugin of a source, whether the profile keeps it, why, and its size where a build is there to measure.
func (Profile) Show(ctx context.Context, source, profile *string, json *bool) error {
	return run(ctx, func(ctx context.Context, p *vmbuild.Project) error {
		shown, err := p.ProfileShow(flags{source: source, profile: profile}.options())
		if err != nil {
			return err
		}
		if json != nil && *json {
			return printJSON(shown)
		}
		return shown.Table(os.Stdout)
	})
}

// Demo builds the project's own sample VM with whatever is in reach, and boots it on each platform.
func Demo(ctx context.Context, engine, progress *string) error {
	return run(ctx, func(ctx context.Context, p *vmbuild.Project) error {
		digests, err := p.Demo(ctx, flags{engine: engine, progress: progress}.options())
		if err != nil {
			return err
		}
		return printDigests(digests)
	})
}

// Du prints what the engine's cache and ours take.
func (Cache) Du(ctx context.Context, engine *string) error {
	return run(ctx, func(ctx context.Context, p *vmbuild.Project) error {
		return p.CacheUsage(ctx, flag(engine, "VMBUILD_ENGINE"), os.Stdout)
	})
}

// Prune frees the VMs kept and all of the private engine's cache, toolchains included, or of the engine that -engine names (-all: sources and bases too).
func (Cache) Prune(ctx context.Context, engine *string, all *bool) error {
	return run(ctx, func(ctx context.Context, p *vmbuild.Project) error {
		return p.CachePrune(ctx, flag(engine, "VMBUILD_ENGINE"), all != nil && *all)
	})
}

// flags are what targets that build take; a flag that is not given comes from
// its environment variable.
type flags struct{ source, version, profile, platform, engine, progress *string }

func (f flags) options(images ...string) vmbuild.Options {
	return vmbuild.Options{
		Images: images, Platforms: words(flag(f.platform, "VMBUILD_PLATFORM")),
		Source: flag(f.source, "VMBUILD_SOURCE"), Version: flag(f.version, "VMBUILD_VERSION"),
		Profile: flag(f.profile, "VMBUILD_PROFILE"), Engine: flag(f.engine, "VMBUILD_ENGINE"),
		Progress: flag(f.progress, "VMBUILD_PROGRESS"), StandIn: truth("VMBUILD_STAND_IN"),
		Offline: truth("VMBUILD_OFFLINE"),
	}
}

// flag is a flag's value: as mage read it, else as another target on the line
// has it, else from its environment variable.
func flag(value *string, variable string) string {
	if value != nil {
		return *value
	}
	name := "-" + strings.ToLower(strings.TrimPrefix(variable, "VMBUILD_")) + "="
	for _, arg := range os.Args[1:] {
		if v, ok := strings.CutPrefix(arg, name); ok {
			return v
		}
	}
	return os.Getenv(variable)
}

// truth tells whether a variable is set to anything but no.
func truth(variable string) bool {
	switch strings.ToLower(os.Getenv(variable)) {
	case "", "0", "false", "no", "off":
		return false
	}
	return true
}

func words(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

func build(ctx context.Context, f flags, images ...string) error {
	return run(ctx, func(ctx context.Context, p *vmbuild.Project) error {
		result, err := p.Build(ctx, f.options(images...))
		if err != nil {
			return err
		}
		return printDigests(result.Digests())
	})
}

// run opens the project and ends a target: an interrupted one with the exit
// code that shells expect.
func run(ctx context.Context, target func(context.Context, *vmbuild.Project) error) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	ended, stopEnded := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stopEnded()
	interrupted := func() error {
		code := 130
		if ended.Err() != nil {
			code = 143
		}
		return mg.Fatal(code, "interrupted: nothing half-done was left behind")
	}
	// Mage waits for 5 seconds, and then ends with another exit code.
	defer context.AfterFunc(ctx, func() {
		time.Sleep(4500 * time.Millisecond)
		fmt.Fprintln(os.Stderr, "Error:", interrupted())
		os.Exit(mg.ExitStatus(interrupted()))
	})()
	p, err := vmbuild.Open("", os.Stderr)
	if err == nil {
		err = target(ctx, p)
	}
	if err != nil && ctx.Err() != nil {
		return interrupted()
	}
	return err
}

func printDigests(digests map[string]string) error {
	for _, name := range vmbuild.SortedKeys(digests) {
		if _, err := fmt.Printf("%s %s\n", name, digests[name]); err != nil {
			return err
		}
	}
	return nil
}

func printJSON(v any) error {
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
