package vmbuild

import (
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"pharovm/vmbuild/plan"
	"pharovm/vmbuild/report"
)

// SortedKeys are a map's keys in order, for printing.
func SortedKeys[V any](m map[string]V) []string { return plan.SortedKeys(m) }

// Digests are the digests of the images that were made, by their name in dist/oci.
func (r *Result) Digests() map[string]string {
	out := map[string]string{}
	for _, m := range r.Images {
		out[m.ID] = m.Digest
	}
	return out
}

// shown is an image's name in reports, which never pass a stand-in for the real.
func (m Made) shown() string {
	if m.StandIn {
		return m.Name + " (stand-in)"
	}
	return m.Name
}

// report prints what was made and writes it to dist/, beside what earlier
// targets made and compared with the last run.
func (p *Project) report(r *Result, took time.Duration) error {
	rep := &report.Report{}
	for _, b := range r.Builds {
		entry, err := measure(r.Plan, b)
		if err != nil {
			return err
		}
		entry.Engine, entry.Seconds = r.Engine, b.Took.Seconds()
		rep.Builds = append(rep.Builds, entry)
	}
	for _, m := range r.Images {
		entry := report.Image{
			Name: m.shown(), Platform: m.Platform, Build: m.Build, Digest: m.Digest,
			Base: report.Size(m.Size.Base), Own: report.Size(m.Size.Own),
			Budget: report.Size{Unpacked: int64(m.Budget.Unpacked), Compressed: int64(m.Budget.Compressed)},
		}
		if m.Budget.TLS > 0 {
			entry.Budget = report.Size{Compressed: int64(m.Budget.Compressed + m.Budget.TLS)}
		}
		entry.BaseName = m.On
		rep.Images = append(rep.Images, entry)
	}
	for _, b := range r.Boots {
		entry := report.Boot{Name: b.Image, Platform: b.Platform, How: b.How, FirstOutput: b.Took.Seconds(), ExitCode: b.ExitCode, OK: b.Err == nil}
		if b.Err != nil {
			entry.Problem = b.Err.Error()
		}
		rep.Boots = append(rep.Boots, entry)
	}
	checks := 0
	// An interruption comes too late: what the report is about is there.
	err := p.exclusively(context.Background(), func() error {
		last, err := report.Load(p.Dist)
		if err != nil {
			return err
		}
		rep.Compare(last)
		rep.Merge(last)
		if err := rep.Write(p.Dist); err != nil {
			return err
		}
		checks, err = p.writeGates(r)
		return err
	})
	if err != nil {
		return err
	}
	p.logf("\n%s", rep.Table())
	p.logf("%d gates passed, listed in %s", checks, filepath.Join(p.Dist, "gates.txt"))
	p.logf("done in %.1f s; report in %s", took.Seconds(), filepath.Join(p.Dist, "report.md"))
	return nil
}

// writeGates lists every check of every VM and image in dist/gates.txt.
func (p *Project) writeGates(r *Result) (checks int, err error) {
	var text strings.Builder
	for _, b := range r.Builds {
		fmt.Fprintf(&text, "%s\n%s\n", b.ID, b.Gates)
		checks += len(b.Gates.Rows)
	}
	for _, m := range r.Images {
		fmt.Fprintf(&text, "%s\n%s\n", m.ID, m.Gates)
		checks += len(m.Gates.Rows)
	}
	if err := report.Replace(filepath.Join(p.Dist, "gates.txt"), []byte(text.String())); err != nil {
		return checks, fmt.Errorf("writing the list of gates: %w", err)
	}
	return checks, nil
}

// measure reads a VM tree's sizes, in bytes.
func measure(pl *plan.Plan, b Built) (report.Build, error) {
	out := report.Build{
		ID: b.ID, Source: pl.Source.Name, Version: pl.Source.Version, Profile: pl.Profile, Libc: b.Libc, Platform: b.Platform,
		Cached: b.Reused, VM: report.VM{Packed: map[string]int64{}},
	}
	size := func(parts ...string) (int64, error) {
		info, err := os.Stat(filepath.Join(append([]string{b.Tree}, parts...)...))
		if err != nil {
			return 0, fmt.Errorf("measuring %s: %w", b.ID, err)
		}
		return info.Size(), nil
	}
	var err error
	if out.VM.Stripped, err = size("vm", "pharo"); err != nil {
		return out, err
	}
	for _, m := range b.Pack {
		if out.VM.Packed[m], err = size("packed", m, "pharo"); err != nil {
			return out, err
		}
	}
	if out.VM.Compressed, err = gzipped(filepath.Join(b.Tree, "vm", "pharo")); err != nil {
		return out, fmt.Errorf("measuring %s: %w", b.ID, err)
	}
	sizes, err := pluginSizes(b.Tree)
	if err != nil {
		return out, err
	}
	for _, kind := range []string{"internal", "external"} {
		for _, name := range pl.Kept(kind) {
			out.Plugins = append(out.Plugins, report.Plugin{Name: name, Kind: kind, Bytes: sizes[name]})
		}
	}
	return out, nil
}

// gzipped is how many bytes of a pull a file would be if it were not packed.
func gzipped(name string) (int64, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	var n counter
	w := gzip.NewWriter(&n)
	if _, err := w.Write(data); err != nil {
		return 0, err
	}
	err = w.Close()
	return int64(n), err
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// pluginSizes reads what the compile step measured: code and data of each
// plugin's object files, in bytes.
func pluginSizes(tree string) (map[string]int64, error) {
	data, err := os.ReadFile(filepath.Join(tree, "info", "plugin-sizes.txt"))
	if err != nil {
		return nil, fmt.Errorf("measuring plugins: %w", err)
	}
	out := map[string]int64{}
	for line := range strings.Lines(string(data)) {
		name, n, _ := strings.Cut(strings.TrimSpace(line), " ")
		bytes, err := strconv.ParseInt(n, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("measuring plugins: %s: %w", line, err)
		}
		out[name] += bytes
	}
	return out, nil
}

// plain removes what a VM under qemu or a terminal adds to lines.
func plain(text string) []string {
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(text, "\r", "")), "\n")
	return slices.DeleteFunc(lines, func(l string) bool { return strings.TrimSpace(l) == "" })
}
