package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"

	"github.com/docker/cli/cli/config"
	"github.com/gofrs/flock"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/moby/buildkit/solver/pb"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sync/errgroup"
)

var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

func (r Request) check() error {
	if len(r.Jobs) == 0 {
		return errors.New("nothing to build: the request has no jobs")
	}
	seen := map[string]bool{}
	for _, j := range r.Jobs {
		if !idPattern.MatchString(j.ID) {
			return fmt.Errorf("build ID %q: use letters, digits, '.', '_' and '-'", j.ID)
		}
		if seen[j.ID] {
			return fmt.Errorf("build ID %q is given twice", j.ID)
		}
		seen[j.ID] = true
		if j.Definition == nil || len(j.Definition.Def) == 0 {
			return fmt.Errorf("build %s has no steps", j.ID)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Locals)) {
		dir := r.Locals[name]
		if info, err := os.Stat(dir); err != nil {
			return fmt.Errorf("local source %s: %w", name, err)
		} else if !info.IsDir() {
			return fmt.Errorf("local source %s: %s is not a folder", name, dir)
		}
	}
	return nil
}

// export runs do with a fresh folder beside the results and, if it succeeds,
// moves each job's result from there to out. Nothing else appears in out.
func export(req Request, out string, do func(dir string) error) error {
	if err := req.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("making output folder: %w", err)
	}
	stage, done, err := newStage(out)
	if err != nil {
		return fmt.Errorf("making a folder for unfinished results in %s: %w", out, err)
	}
	defer done()
	results := filepath.Join(stage, "new")
	if err := do(results); err != nil {
		return err
	}
	for _, j := range req.Jobs {
		// A job whose result is empty has no folder to move.
		if err := os.MkdirAll(filepath.Join(results, j.ID), 0o755); err != nil {
			return fmt.Errorf("build %s: %w", j.ID, err)
		}
	}
	for _, j := range req.Jobs {
		target := filepath.Join(out, j.ID)
		if err := os.Rename(target, filepath.Join(stage, "old-"+j.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("build %s: moving the previous result away: %w", j.ID, err)
		}
		if err := os.Rename(filepath.Join(results, j.ID), target); err != nil {
			return fmt.Errorf("build %s: moving the result in place: %w", j.ID, err)
		}
	}
	return nil
}

// newStage makes a locked folder in out for unfinished results, and removes
// those left by runs that were killed: nobody holds their locks.
func newStage(out string) (dir string, done func(), err error) {
	gate := flock.New(filepath.Join(out, ".solve.lock"))
	if err := gate.Lock(); err != nil {
		return "", nil, err
	}
	defer gate.Unlock()
	old, err := filepath.Glob(filepath.Join(out, ".solve-*"))
	if err != nil {
		return "", nil, err
	}
	for _, dir := range old {
		l := flock.New(filepath.Join(dir, "lock"))
		if ok, err := l.TryLock(); err == nil && ok {
			l.Unlock()
			removeAll(dir)
		}
	}
	dir, err = os.MkdirTemp(out, ".solve-")
	if err != nil {
		return "", nil, err
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	if _, err := lock.TryLock(); err != nil {
		return "", nil, err
	}
	return dir, func() {
		lock.Unlock()
		removeAll(dir)
	}, nil
}

// removeAll removes a tree even where a result's folders are read-only.
func removeAll(dir string) error {
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// solve runs all jobs of req on one BuildKit, exporting to dir/<job ID>/.
func (e *single) solve(ctx context.Context, req Request, dir string, status chan<- *client.SolveStatus) error {
	mounts := map[string]fsutil.FS{}
	for name, folder := range req.Locals {
		m, err := fsutil.NewFS(folder)
		if err != nil {
			return fmt.Errorf("local source %s: %w", name, err)
		}
		mounts[name] = m
	}
	key, err := contentKey(ctx, req.Locals)
	if err != nil {
		return err
	}
	defs := make([]*pb.Definition, len(req.Jobs))
	for i, j := range req.Jobs {
		if defs[i], err = shareLocals(j.Definition, key); err != nil {
			return fmt.Errorf("build %s: %w", j.ID, err)
		}
	}

	seen := newTracker()
	progress := make(chan *client.SolveStatus)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for s := range progress {
			seen.add(s)
			if status == nil {
				continue
			}
			// BuildKit's client blocks on its channel: keep reading even when
			// nobody reads ours any more.
			select {
			case status <- s:
			case <-ctx.Done():
			}
		}
	}()

	var failed firstFailure
	opt := client.SolveOpt{
		Exports:     []client.ExportEntry{{Type: client.ExporterLocal, OutputDir: dir}},
		LocalMounts: mounts,
		SharedKey:   key,
		Session:     []session.Attachable{registryAccess()},
	}
	_, err = e.c.Build(ctx, opt, "", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		return solveJobs(ctx, c, req.Jobs, defs, &failed)
	}, progress)
	<-drained
	if err == nil {
		return nil
	}
	// Errors of a dead engine are many; that it does not answer is one.
	lost := ctx.Err() == nil && answers(ctx, e.c, dialTimeout) != nil
	if failed.err != nil && !lost {
		err = failed.err
	}
	return seen.explain(ctx, e.name, failed.job, lost, e.logHint, req.Jobs, defs, err)
}

// registryAccess answers the engine's questions for the user's registry
// credentials as `docker build` would, from DOCKER_CONFIG or ~/.docker.
func registryAccess() session.Attachable {
	// A file that cannot be read is the Docker CLI's to complain about.
	file := config.LoadDefaultConfigFile(io.Discard)
	return authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: authprovider.LoadAuthConfig(file),
	})
}

type firstFailure struct {
	once sync.Once
	job  string
	err  error
}

// solveJobs solves all jobs at once and joins them into one result, which the
// local exporter writes into one folder per job.
func solveJobs(ctx context.Context, c gateway.Client, jobs []Job, defs []*pb.Definition, failed *firstFailure) (*gateway.Result, error) {
	refs := make([]gateway.Reference, len(jobs))
	group, ctx := errgroup.WithContext(ctx)
	for i, job := range jobs {
		group.Go(func() error {
			err := func() error {
				// The client's imports reach the daemon only this way.
				var opts map[string]string
				if v, ok := c.BuildOpts().Opts["cache-imports"]; ok {
					opts = map[string]string{"cache-imports": v}
				}
				res, err := c.Solve(ctx, gateway.SolveRequest{Definition: defs[i], FrontendOpt: opts, Evaluate: true})
				if err != nil {
					return err
				}
				refs[i], err = res.SingleRef()
				return err
			}()
			if err != nil {
				failed.once.Do(func() { failed.job, failed.err = job.ID, err })
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	res := gateway.NewResult()
	var ps exptypes.Platforms
	for i, job := range jobs {
		res.AddRef(job.ID, refs[i])
		ps.Platforms = append(ps.Platforms, exptypes.Platform{ID: job.ID, Platform: job.Platform})
	}
	dt, err := json.Marshal(ps)
	if err != nil {
		return nil, err
	}
	res.AddMeta(exptypes.ExporterPlatformsKey, dt)
	return res, nil
}
