package vmbuild

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/moby/buildkit/client"

	"pharovm/vmbuild/report"
)

// kept are the parts of the cache folder, and what each holds.
var kept = []struct{ dir, what string }{
	{"builds", "VM trees"},
	{"layers", "compressed layers and archives"},
	{"sources", "staged sources"},
	{"bases", "base images and builder roots"},
	{"engine", "the private engine and its cache"},
}

// CacheUsage prints what the engine and the cache folder hold, in bytes.
func (p *Project) CacheUsage(ctx context.Context, spec string, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, k := range kept {
		n, err := folderSize(filepath.Join(p.Cache, k.dir))
		if err != nil {
			return fmt.Errorf("measuring the cache: %w", err)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", k.what, report.Bytes(n), filepath.Join(p.Cache, k.dir))
	}
	e, err := p.engine(ctx, Options{Engine: spec})
	if err != nil {
		return errors.Join(w.Flush(), err)
	}
	defer e.Close()
	records, err := e.DiskUsage(ctx)
	if err != nil {
		return errors.Join(w.Flush(), err)
	}
	var all, free int64
	for _, r := range records {
		all += r.Size
		if !r.InUse {
			free += r.Size
		}
	}
	fmt.Fprintf(w, "engine %s\t%s\t%d records; %s could be freed\n", e.Name(), report.Bytes(all), len(records), report.Bytes(free))
	return w.Flush()
}

// CachePrune frees the VM trees, and with all also the staged sources and bases.
// Then it frees the engine's whole cache that no build uses at the moment,
// toolchains included, so that the next build makes them again. An engine that
// is not ours alone, Docker or a shared BuildKit, holds other projects' cache
// too: it is pruned only if spec names it.
func (p *Project) CachePrune(ctx context.Context, spec string, all bool) error {
	return errors.Join(p.freeFolders(all), p.pruneEngine(ctx, spec, all))
}

// freeFolders empties what is ours, unless a run uses it.
func (p *Project) freeFolders(all bool) error {
	builds := filepath.Join(p.Cache, "builds")
	if err := os.MkdirAll(builds, 0o755); err != nil {
		return fmt.Errorf("freeing the cache: %w", err)
	}
	lock := p.users()
	free, err := lock.TryLock()
	if err != nil {
		return fmt.Errorf("locking the cache folder: %w", err)
	}
	if !free {
		return fmt.Errorf("another run uses %s, and nothing there was freed: try again when it has ended", p.Cache)
	}
	defer lock.Unlock()
	dirs := []string{"builds", "layers"}
	if all {
		dirs = append(dirs, "sources", "bases")
	}
	for _, dir := range dirs {
		path := filepath.Join(p.Cache, dir)
		n, err := folderSize(path)
		if err != nil {
			return fmt.Errorf("measuring the cache: %w", err)
		}
		entries, err := os.ReadDir(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("freeing %s: %w", path, err)
		}
		for _, e := range entries {
			// A run that waits for the lock has its file open.
			if e.Name() == usersLock {
				continue
			}
			if err := os.RemoveAll(filepath.Join(path, e.Name())); err != nil {
				return fmt.Errorf("freeing %s: %w", path, err)
			}
		}
		p.logf("%s: %s freed", path, report.Bytes(n))
	}
	return nil
}

func (p *Project) pruneEngine(ctx context.Context, spec string, all bool) error {
	e, err := p.engine(ctx, Options{Engine: spec})
	if err != nil {
		return err
	}
	defer e.Close()
	if (spec == "" || spec == "auto") && e.Name() != "private" {
		name := "docker"
		if os.Getenv("BUILDKIT_HOST") != "" {
			name = `"$BUILDKIT_HOST"`
		}
		p.logf("engine %s: left alone, as its cache may not be ours only; to free all of it: mage cache:prune -engine=%s", e.Name(), name)
		return nil
	}
	var opts []client.PruneOption
	if all {
		opts = append(opts, client.PruneAll)
	}
	freed, err := e.Prune(ctx, opts...)
	if err != nil {
		return err
	}
	p.logf("engine %s: %s freed", e.Name(), report.Bytes(freed))
	return nil
}

func folderSize(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone since, or never there
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return nil
	})
	return total, err
}
