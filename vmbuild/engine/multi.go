package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// multi sends each job to the engine of its platform.
type multi struct {
	name       string
	byPlatform map[string]*single
	engines    []*single // each once
}

func openMulti(ctx context.Context, s spec, opt Options) (Engine, error) {
	m := &multi{byPlatform: map[string]*single{}}
	opened := map[string]*single{}
	var names []string
	for _, p := range s.parts {
		e := opened[p.spec.text]
		if e == nil {
			got, err := p.spec.open(ctx, opt, "asked for by engine "+p.spec.text)
			if err != nil {
				m.Close()
				return nil, fmt.Errorf("engine for %s: %w", p.platform, err)
			}
			// An automatic choice may come to a list, by BUILDKIT_HOST.
			if e, _ = got.(*single); e == nil {
				got.Close()
				m.Close()
				return nil, fmt.Errorf("engine for %s: %s is a list of engines: name one of them", p.platform, p.spec.text)
			}
			opened[p.spec.text] = e
			m.engines = append(m.engines, e)
		}
		m.byPlatform[p.platform] = e
		names = append(names, p.platform+"="+e.Name())
	}
	m.name = strings.Join(names, ", ")
	return m, nil
}

func (m *multi) Name() string { return m.name }
func (m *multi) Why() string  { return "one engine per platform was asked for" }

func (m *multi) Info(ctx context.Context) (Info, error) {
	var all Info
	for _, e := range m.engines {
		info, err := e.Info(ctx)
		if err != nil {
			return Info{}, err
		}
		all.Version = cmp.Or(all.Version, info.Version)
		all.Platforms = append(all.Platforms, info.Platforms...)
	}
	slices.Sort(all.Platforms)
	all.Platforms = slices.Compact(all.Platforms)
	return all, nil
}

func (m *multi) Worker(ctx context.Context, p ocispecs.Platform) (ocispecs.Platform, error) {
	e, err := m.engineFor(p)
	if err != nil {
		return ocispecs.Platform{}, err
	}
	return e.Worker(ctx, p)
}

func (m *multi) engineFor(p ocispecs.Platform) (*single, error) {
	platform := p.OS + "/" + p.Architecture
	if e := m.byPlatform[platform]; e != nil {
		return e, nil
	}
	return nil, fmt.Errorf("no engine for %s among %s: add %s=ENGINE to -engine", platform, m.name, platform)
}

func (m *multi) Solve(ctx context.Context, req Request, out string, status chan<- *client.SolveStatus) error {
	if status != nil {
		defer close(status)
	}
	jobs := map[*single][]Job{}
	for _, j := range req.Jobs {
		e, err := m.engineFor(j.Platform)
		if err != nil {
			return fmt.Errorf("build %s: %w", j.ID, err)
		}
		jobs[e] = append(jobs[e], j)
	}
	return export(req, out, func(dir string) error {
		var once sync.Once
		var first error
		group, gctx := errgroup.WithContext(ctx)
		for e, jobs := range jobs {
			group.Go(func() error {
				part := Request{Jobs: jobs, Locals: req.Locals}
				err := e.solve(gctx, part, dir, status)
				if err != nil {
					once.Do(func() { first = err })
				}
				return err
			})
		}
		group.Wait()
		return first
	})
}

func (m *multi) DiskUsage(ctx context.Context) ([]*client.UsageInfo, error) {
	var all []*client.UsageInfo
	for _, e := range m.engines {
		du, err := e.DiskUsage(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, du...)
	}
	return all, nil
}

func (m *multi) Prune(ctx context.Context, opts ...client.PruneOption) (int64, error) {
	var freed int64
	var errs []error
	for _, e := range m.engines {
		n, err := e.Prune(ctx, opts...)
		freed += n
		errs = append(errs, err)
	}
	return freed, errors.Join(errs...)
}

func (m *multi) Close() error {
	var errs []error
	for _, e := range m.engines {
		errs = append(errs, e.Close())
	}
	return errors.Join(errs...)
}
