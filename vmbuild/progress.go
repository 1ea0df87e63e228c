package vmbuild

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
	"golang.org/x/sync/errgroup"

	"pharovm/vmbuild/catalog"
)

// progressModes are the ways progress can be shown.
var progressModes = []string{"auto", "plain", "tty", "rawjson", "quiet"}

func checkProgress(mode string) error {
	if !slices.Contains(progressModes, mode) {
		return fmt.Errorf("unknown progress mode %q: %s", mode, catalog.Suggest(mode, progressModes))
	}
	return nil
}

// watch runs an engine's work while it shows its progress to the user and
// writes all of it to the file log. It returns how long each step took that was
// not there already, by name.
func watch(ctx context.Context, mode string, to io.Writer, log string, work func(ctx context.Context, status chan<- *client.SolveStatus) error) (map[string]time.Duration, error) {
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		return nil, fmt.Errorf("making the output folder: %w: name another with VMBUILD_DIST", err)
	}
	// Another run that still writes to the last log keeps it, out of sight.
	_ = os.Remove(log)
	file, err := os.Create(log)
	if err != nil {
		return nil, fmt.Errorf("making the log: %w", err)
	}
	defer file.Close()
	whole, err := progressui.NewDisplay(file, progressui.PlainMode)
	if err != nil {
		return nil, fmt.Errorf("writing the log: %w", err)
	}
	shown, err := display(to, mode)
	if err != nil {
		return nil, err
	}

	status := make(chan *client.SolveStatus)
	toShow, toLog := make(chan *client.SolveStatus), make(chan *client.SolveStatus)
	var printers errgroup.Group
	took := map[string]time.Duration{}
	printers.Go(func() error {
		defer close(toShow)
		defer close(toLog)
		for s := range status {
			for _, v := range s.Vertexes {
				if v.Started != nil && v.Completed != nil && !v.Cached {
					took[v.Name] = v.Completed.Sub(*v.Started)
				}
			}
			toShow <- s
			toLog <- s
		}
		return nil
	})
	// Printing goes on after a cancelled build, so that its last lines are seen.
	background := context.WithoutCancel(ctx)
	printers.Go(func() error { return drain(shown, background, toShow) })
	printers.Go(func() error { return drain(whole, background, toLog) })
	err = work(ctx, status)
	if perr := printers.Wait(); err == nil && perr != nil {
		return took, fmt.Errorf("showing progress: %w", perr)
	}
	return took, err
}

func drain(d progressui.Display, ctx context.Context, ch chan *client.SolveStatus) error {
	_, err := d.UpdateFrom(ctx, ch)
	for range ch { // a printer that gave up must not block the build
	}
	return err
}

func display(to io.Writer, mode string) (progressui.Display, error) {
	if err := checkProgress(mode); err != nil {
		return progressui.Display{}, err
	}
	file, ok := to.(*os.File)
	if !ok && mode == "auto" {
		mode = "plain"
	}
	if ok {
		d, err := progressui.NewDisplay(file, progressui.DisplayMode(mode))
		if err != nil {
			return d, fmt.Errorf("showing progress as %s: %w: use -progress=plain", mode, err)
		}
		return d, nil
	}
	return progressui.NewDisplay(to, progressui.DisplayMode(mode))
}
