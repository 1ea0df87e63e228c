// Package report tells what a run made: how large, how fast, how much of it
// came from the cache, and what changed since the last run; as a table for the
// terminal, as JSON for machines, as Markdown and as an SVG chart.
//
// All sizes are bytes and are shown in decimal units (1 MB = 1,000,000 bytes).
// Times are here and nowhere that decides an image's digest.
package report

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Version is the version of the JSON form; it goes up when a field changes its
// meaning.
const Version = 1

// Report is what report.json holds. Lists are sorted when it is written.
type Report struct {
	Version int     `json:"version"`
	Builds  []Build `json:"builds"`
	Images  []Image `json:"images"`
	Boots   []Boot  `json:"boots,omitempty"`
}

// Build is one VM tree.
type Build struct {
	ID       string   `json:"id"` // "opensmalltalk-server-musl-linux-arm64"
	Source   string   `json:"source"`
	Version  string   `json:"version"` // of the source
	Profile  string   `json:"profile"`
	Libc     string   `json:"libc"`
	Platform string   `json:"platform"`
	Engine   string   `json:"engine"`
	Cached   bool     `json:"cached"` // nothing had to be compiled
	Seconds  float64  `json:"seconds"`
	VM       VM       `json:"vm"`
	Plugins  []Plugin `json:"plugins,omitempty"`
}

// VM is the size of a VM executable in its forms, in bytes.
type VM struct {
	Stripped   int64            `json:"stripped"`
	Compressed int64            `json:"compressed,omitempty"` // gzip of the stripped one
	Packed     map[string]int64 `json:"packed,omitempty"`     // by UPX method
	Change     *int64           `json:"change,omitempty"`     // of Stripped, since the last run
}

// Plugin is one plugin a build kept. Bytes is 0 when it was not measured.
type Plugin struct {
	Name  string `json:"name"`
	Kind  string `json:"kind"` // "internal" or "external"
	Bytes int64  `json:"bytes,omitempty"`
}

// Size is in bytes: Unpacked on disk, Compressed as a registry sends it.
type Size struct {
	Unpacked   int64 `json:"unpacked"`
	Compressed int64 `json:"compressed"`
}

// Image is one image on one platform.
type Image struct {
	Name     string `json:"name"` // "alpine"
	Platform string `json:"platform"`
	Build    string `json:"build"` // ID of the build inside
	Digest   string `json:"digest"`
	BaseName string `json:"baseName,omitempty"`
	Base     Size   `json:"base"`
	Own      Size   `json:"own"`
	Budget   Size   `json:"budget"`           // for Own; 0 is none
	Change   *Size  `json:"change,omitempty"` // of Own, since the last run
}

// Total is the base and what is ours together.
func (i Image) Total() Size {
	return Size{i.Base.Unpacked + i.Own.Unpacked, i.Base.Compressed + i.Own.Compressed}
}

// Boot is one start of a VM.
type Boot struct {
	Name        string  `json:"name"` // image or build
	Platform    string  `json:"platform"`
	How         string  `json:"how"` // "native", "qemu", "docker"
	Case        string  `json:"case,omitempty"`
	FirstOutput float64 `json:"firstOutput"` // seconds until the first output
	ExitCode    int     `json:"exitCode"`
	Resident    int64   `json:"resident,omitempty"` // bytes, 0 when not known
	OK          bool    `json:"ok"`
	Problem     string  `json:"problem,omitempty"`
}

// Compare notes what changed since last; nil is no last run.
func (r *Report) Compare(last *Report) {
	if last == nil {
		return
	}
	for i := range r.Builds {
		b := &r.Builds[i]
		if j := slices.IndexFunc(last.Builds, func(o Build) bool { return o.ID == b.ID }); j >= 0 {
			change := b.VM.Stripped - last.Builds[j].VM.Stripped
			b.VM.Change = &change
		}
	}
	for i := range r.Images {
		m := &r.Images[i]
		// The same image with another VM is no earlier state of this one.
		if j := slices.IndexFunc(last.Images, func(o Image) bool { return o.key() == m.key() && o.Build == m.Build }); j >= 0 {
			old := last.Images[j].Own
			m.Change = &Size{m.Own.Unpacked - old.Unpacked, m.Own.Compressed - old.Compressed}
		}
	}
}

// Merge takes over from last what this run did not make anew, so that the
// report covers everything in dist/ and not only the last target's part. VMs
// that no image holds any more, and boots of images made anew, are left out.
func (r *Report) Merge(last *Report) {
	if last == nil {
		return
	}
	anew := slices.Clone(r.Images)
	r.Images = missing(r.Images, last.Images, Image.key)
	for _, b := range missing(r.Builds, last.Builds, func(b Build) string { return b.ID })[len(r.Builds):] {
		if slices.ContainsFunc(r.Images, func(i Image) bool { return i.Build == b.ID }) {
			r.Builds = append(r.Builds, b)
		}
	}
	for _, b := range missing(r.Boots, last.Boots, Boot.key)[len(r.Boots):] {
		if !slices.ContainsFunc(anew, func(i Image) bool { return i.Name == b.Name && i.Platform == b.Platform }) {
			r.Boots = append(r.Boots, b)
		}
	}
}

func missing[T any](now, last []T, key func(T) string) []T {
	for _, l := range last {
		if !slices.ContainsFunc(now, func(n T) bool { return key(n) == key(l) }) {
			now = append(now, l)
		}
	}
	return now
}

func (i Image) key() string { return i.Name + "\x00" + i.Platform }
func (b Boot) key() string  { return b.Name + "\x00" + b.Platform + "\x00" + b.How + "\x00" + b.Case }

// Sort puts every list in the order in which it is shown.
func (r *Report) Sort() {
	slices.SortStableFunc(r.Builds, func(a, b Build) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortStableFunc(r.Images, func(a, b Image) int { return cmp.Compare(a.key(), b.key()) })
	slices.SortStableFunc(r.Boots, func(a, b Boot) int { return cmp.Compare(a.key(), b.key()) })
	for _, b := range r.Builds {
		slices.SortFunc(b.Plugins, func(a, b Plugin) int { return cmp.Compare(a.Name, b.Name) })
	}
}

// JSON is the report as report.json holds it.
func (r *Report) JSON() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	return append(data, '\n'), err
}

// Load reads dir/report.json; nil when there is none.
func Load(dir string) (*Report, error) {
	name := filepath.Join(dir, "report.json")
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the last report: %w", err)
	}
	r := &Report{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("reading the last report: %s: %w: remove it", name, err)
	}
	if r.Version != Version {
		return nil, nil
	}
	return r, nil
}

// Write sorts the report and writes report.json, report.md and report.svg into
// dir, each beside the old one and then in its place.
func (r *Report) Write(dir string) error {
	r.Version = Version
	r.Sort()
	data, err := r.JSON()
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{"report.md", []byte(r.Markdown())}, {"report.svg", r.SVG()}, {"report.json", data}} {
		if err := Replace(filepath.Join(dir, f.name), f.data); err != nil {
			return fmt.Errorf("writing the report: %w", err)
		}
	}
	return nil
}

// Replace writes a file beside name and renames it there when it is whole.
func Replace(name string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

// Bytes shows a size in decimal units: "803 B", "786.2 kB", "3.77 MB",
// "27.5 MB", "332 MB".
func Bytes(n int64) string {
	switch abs := max(n, -n); {
	case abs < 1000:
		return fmt.Sprintf("%d B", n)
	case abs < 999_950:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case abs < 9_995_000:
		return fmt.Sprintf("%.2f MB", float64(n)/1e6)
	case abs < 99_950_000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	default:
		return fmt.Sprintf("%.0f MB", float64(n)/1e6)
	}
}

func change(n int64) string {
	switch {
	case n > 0:
		return "+" + Bytes(n)
	case n < 0:
		return "−" + Bytes(-n)
	}
	return "same"
}
