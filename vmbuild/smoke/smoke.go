// Package smoke boots images. An image's files are handed to the engine that
// builds, which runs them as production would: as the image's user, without a
// network, on a read-only root with a writable working folder. So a boot needs
// no Docker, and a foreign platform only what the engine already has for it.
package smoke

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"pharovm/vmbuild/engine"
)

// Boot is one image to start, and what it is to be started with.
type Boot struct {
	ID       string
	Image    v1.Image
	Platform ocispecs.Platform
	File     string   // host file that is put into the working folder
	Args     []string // after the image's entry point
	Want     string   // what its output must hold
}

// Outcome is how a boot went.
type Outcome struct {
	ID       string
	Output   string
	ExitCode int
	First    time.Duration // from the container's start to the first output
	Took     time.Duration // from the container's start to its end
	Err      error         // nil when it exited with 0 and said what was wanted
}

// Run starts every boot on e, one after the other so that times mean something.
// The error is about the engine; how each boot went is in its outcome.
func Run(ctx context.Context, e engine.Engine, boots []Boot) ([]Outcome, error) {
	work, err := os.MkdirTemp("", "pharovm-boot-")
	if err != nil {
		return nil, fmt.Errorf("making a folder to boot from: %w", err)
	}
	defer os.RemoveAll(work)
	var out []Outcome
	for _, b := range boots {
		o, err := run(ctx, e, b, filepath.Join(work, b.ID))
		if err != nil {
			return out, fmt.Errorf("booting %s: %w", b.ID, err)
		}
		out = append(out, o)
	}
	return out, nil
}

func run(ctx context.Context, e engine.Engine, b Boot, work string) (Outcome, error) {
	o := Outcome{ID: b.ID}
	config, err := b.Image.ConfigFile()
	if err != nil {
		return o, fmt.Errorf("reading its config: %w", err)
	}
	if err := os.MkdirAll(work, 0o755); err != nil {
		return o, err
	}
	if err := unpack(b.Image, filepath.Join(work, "root.tar")); err != nil {
		return o, err
	}
	const step = "start"
	def, err := graph(b, config.Config, step).Marshal(ctx, llb.Platform(b.Platform))
	if err != nil {
		return o, err
	}
	status := make(chan *client.SolveStatus)
	done := make(chan struct{})
	var text strings.Builder
	var started, first time.Time
	go func() {
		defer close(done)
		for s := range status {
			for _, v := range s.Vertexes {
				if v.Name == step && v.Started != nil && v.Completed != nil {
					started, o.Took = *v.Started, v.Completed.Sub(*v.Started)
				}
			}
			for _, l := range s.Logs {
				if first.IsZero() {
					first = l.Timestamp
				}
				text.Write(l.Data)
			}
		}
	}()
	err = e.Solve(ctx, engine.Request{
		Jobs:   []engine.Job{{ID: b.ID, Platform: b.Platform, Definition: def}},
		Locals: map[string]string{"root": work, "files": filepath.Dir(b.File)},
	}, filepath.Join(work, "out"), status)
	<-done
	if !first.IsZero() && first.After(started) {
		o.First = first.Sub(started)
	}
	o.Output = text.String()
	var failed *engine.StepError
	switch {
	case errors.As(err, &failed) && failed.Step == step:
		o.ExitCode, o.Err = failed.ExitCode, fmt.Errorf("it ended with exit code %d", failed.ExitCode)
		if failed.ExitCode == 0 {
			o.Err = failed
		}
	case err != nil:
		return o, err
	case !strings.Contains(o.Output, b.Want):
		o.Err = fmt.Errorf("it ended well but did not say %q", b.Want)
	}
	return o, nil
}

// graph is the LLB that starts b.
func graph(b Boot, c v1.Config, step string) llb.State {
	id, _, _ := strings.Cut(c.User, ":")
	name := filepath.Base(b.File)
	owner := llb.WithUIDGID(number(id), number(id))
	files := llb.Scratch().File(llb.Mkdir("/work", 0o755, owner).
		Copy(llb.Local("files", llb.IncludePatterns([]string{name})), name, "/work/"+name, &llb.CopyInfo{
			ChownOpt: &llb.ChownOpt{User: &llb.UserOpt{UID: number(id)}, Group: &llb.UserOpt{UID: number(id)}},
		}), llb.WithCustomName("files"))
	root := llb.Scratch().Platform(b.Platform).File(llb.Copy(llb.Local("root", llb.IncludePatterns([]string{"root.tar"})), "root.tar", "/", &llb.CopyInfo{AttemptUnpack: true}), llb.WithCustomName("root"))
	for _, kv := range c.Env {
		name, value, _ := strings.Cut(kv, "=")
		root = root.AddEnv(name, value)
	}
	r := root.Dir(c.WorkingDir).Run(
		llb.Args(append(append([]string{}, c.Entrypoint...), b.Args...)), llb.User(c.User), llb.ReadonlyRootFS(),
		llb.AddMount(path.Join("/", c.WorkingDir), files, llb.SourcePath("/work")), llb.Network(llb.NetModeNone), llb.IgnoreCache, llb.WithCustomName(step),
	)
	// The result is empty: only the run matters.
	return r.AddMount("/tmp", llb.Scratch())
}

func number(id string) int {
	n := 0
	fmt.Sscan(id, &n)
	return n
}

// unpack writes an image's files as one tar archive.
func unpack(img v1.Image, name string) error {
	file, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("unpacking the image: %w", err)
	}
	defer file.Close()
	r := mutate.Extract(img)
	defer r.Close()
	if _, err := io.Copy(file, r); err != nil {
		return fmt.Errorf("unpacking the image: %w", err)
	}
	return file.Close()
}
