package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// dialTimeout is how long an engine may take to answer before it counts as
// not there; one that is reached through a command gets helperTimeout.
const (
	dialTimeout   = 10 * time.Second
	helperTimeout = 30 * time.Second
)

// single is one BuildKit, however it is reached.
type single struct {
	c       *client.Client
	name    string
	why     string
	logHint string // where the engine's own log is, if we know
	// emulated are platforms that the engine runs by emulators of its own,
	// which its workers do not list.
	emulated []string
	close    func() error

	closeOnce sync.Once
	closeErr  error
}

func (e *single) Name() string { return e.name }
func (e *single) Why() string  { return e.why }

func (e *single) Info(ctx context.Context) (Info, error) {
	workers, err := e.c.ListWorkers(ctx)
	if err != nil {
		return Info{}, fmt.Errorf("asking engine %s for its workers: %w", e.name, err)
	}
	var info Info
	for _, w := range workers {
		info.Platforms = append(info.Platforms, platformNames(w.Platforms)...)
		info.Version = w.BuildkitVersion.Version
	}
	info.Platforms = append(info.Platforms, e.emulated...)
	slices.Sort(info.Platforms)
	info.Platforms = slices.Compact(info.Platforms)
	return info, nil
}

func (e *single) Worker(ctx context.Context, _ ocispecs.Platform) (ocispecs.Platform, error) {
	workers, err := e.c.ListWorkers(ctx)
	if err != nil {
		return ocispecs.Platform{}, fmt.Errorf("asking engine %s for its workers: %w", e.name, err)
	}
	for _, w := range workers {
		// A worker lists the platform it runs natively first.
		if len(w.Platforms) > 0 {
			return ocispecs.Platform{OS: w.Platforms[0].OS, Architecture: w.Platforms[0].Architecture}, nil
		}
	}
	return ocispecs.Platform{}, fmt.Errorf("engine %s names no platform that it runs", e.name)
}

func (e *single) Solve(ctx context.Context, req Request, out string, status chan<- *client.SolveStatus) error {
	if status != nil {
		defer close(status)
	}
	return export(req, out, func(dir string) error { return e.solve(ctx, req, dir, status) })
}

func (e *single) DiskUsage(ctx context.Context) ([]*client.UsageInfo, error) {
	du, err := e.c.DiskUsage(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking engine %s for its disk usage: %w", e.name, err)
	}
	return du, nil
}

func (e *single) Prune(ctx context.Context, opts ...client.PruneOption) (int64, error) {
	records := make(chan client.UsageInfo)
	sum := make(chan int64)
	go func() {
		var n int64
		for r := range records {
			n += r.Size
		}
		sum <- n
	}()
	err := e.c.Prune(ctx, records, opts...)
	close(records)
	freed := <-sum
	if err != nil {
		return freed, fmt.Errorf("pruning the cache of engine %s: %w", e.name, err)
	}
	return freed, nil
}

func (e *single) Close() error {
	e.closeOnce.Do(func() {
		e.closeErr = e.c.Close()
		if e.close != nil {
			e.closeErr = errors.Join(e.closeErr, e.close())
		}
	})
	return e.closeErr
}

// answers asks a BuildKit for its workers. It is the one call that every
// version has; Info came with BuildKit 0.11.
func answers(ctx context.Context, c *client.Client, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer in %v", timeout))
	defer cancel()
	workers, err := c.ListWorkers(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, dial, ok := strings.Cut(err.Error(), "Error while dialing: "); ok {
			return errors.New(strings.TrimSuffix(dial, `"`))
		}
		return err
	}
	if len(workers) == 0 {
		return errors.New("it has no worker")
	}
	return nil
}
