// Package patch applies git-style unified diffs to a tree of files.
//
// A series is applied in memory first, so a patch that does not fit changes
// nothing. Context must match exactly: hunks may move, but there is no fuzz.
package patch

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/bluekeyes/go-gitdiff/gitdiff"
)

// Patch is one .patch file.
type Patch struct {
	Name string // how messages call it, e.g. "patches/opensmalltalk/0001-error-macro.patch"
	Data []byte // a unified diff as `git diff` or `git format-patch` prints it
}

// File is a regular file or a symbolic link (then Data is its target).
type File struct {
	Data []byte
	Mode fs.FileMode // 0644, 0755 or fs.ModeSymlink|0777
}

// Reader returns the file at a slash-separated path, and fs.ErrNotExist when
// there is none there; a directory counts as none.
type Reader func(name string) (File, error)

// Change is what one patch did to one file.
type Change struct {
	Patch   string
	Path    string
	From    string // the former path, when the patch renames
	Action  string // "change", "create", "delete", "rename" or "mode"
	Offsets []int  // for each hunk, how many lines away from its stated place it applied
}

// Applied is the outcome of a series.
type Applied struct {
	Files   map[string]*File // new content by path; nil for a file that is gone
	Changes []Change         // in the order of the series
}

// Apply applies the series in order on what read returns and writes nothing.
// Every hunk of a patch that does not apply is reported, as *HunkError or
// *FileError, joined; later patches are then not tried.
func Apply(series []Patch, read Reader) (*Applied, error) {
	done := &Applied{Files: map[string]*File{}}
	overlay := func(name string) (File, error) {
		if f, ok := done.Files[name]; ok {
			if f == nil {
				return File{}, fs.ErrNotExist
			}
			return *f, nil
		}
		return read(name)
	}
	for _, p := range series {
		files, _, err := gitdiff.Parse(bytes.NewReader(p.Data))
		if err != nil {
			return nil, fmt.Errorf("patch %s: not a unified diff: %w", p.Name, err)
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("patch %s: holds no diff", p.Name)
		}
		at := hunkLines(p.Data)
		var errs []error
		for _, f := range files {
			n := min(len(f.TextFragments), len(at))
			one := applier{patch: p.Name, diff: f, lines: at[:n], read: overlay}
			at = at[n:]
			stripPrefix(f, p.Data)
			if err := one.apply(done); err != nil {
				errs = append(errs, err)
			}
		}
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
	}
	return done, nil
}

// hunkLines returns the line numbers of the hunk headers in a patch.
func hunkLines(data []byte) []int {
	var at []int
	seen := false
	for i, line := range bytes.Split(data, []byte("\n")) {
		seen = seen || bytes.HasPrefix(line, []byte("--- "))
		if seen && bytes.HasPrefix(line, []byte("@@ -")) {
			at = append(at, i+1)
		}
	}
	return at
}

// stripPrefix drops the a/ and b/ of a plain `diff -u`, which the parser drops
// only below a "diff --git" line. Absolute names are kept, to be refused.
func stripPrefix(f *gitdiff.File, data []byte) {
	for line := range bytes.Lines(data) {
		for _, name := range []string{f.OldName, f.NewName} {
			if l := strings.TrimSpace(string(line)); strings.HasPrefix(l, "diff --git ") && name != "" &&
				(strings.HasSuffix(l, "/"+name) || strings.Contains(l, "/"+name+" ")) {
				return
			}
		}
	}
	for _, name := range []*string{&f.OldName, &f.NewName} {
		if _, rest, ok := strings.Cut(*name, "/"); ok && !path.IsAbs(*name) {
			*name = rest
		}
	}
}

// applier applies the part of one patch that is about one file.
type applier struct {
	patch string
	diff  *gitdiff.File
	lines []int // line in the patch of each hunk
	read  Reader
}

func (a *applier) fail(name, problem string) error {
	return &FileError{Patch: a.patch, Path: name, Problem: problem}
}

func (a *applier) apply(done *Applied) error {
	d := a.diff
	from, to := d.OldName, d.NewName
	if d.IsNew {
		from = ""
	}
	if d.IsDelete {
		to = ""
	}
	name := to
	if name == "" {
		name = from
	}
	for _, n := range []string{from, to} {
		if n == "" {
			continue
		}
		if err := a.checkPath(n); err != nil {
			return err
		}
	}
	switch {
	case name == "":
		return a.fail(name, "names no file")
	case d.IsBinary:
		return a.fail(name, "is a binary change: only text can be patched")
	case special(d.NewMode) || special(d.OldMode):
		return a.fail(name, "is about a symbolic link or a submodule: only regular files can be patched")
	}

	change := Change{Patch: a.patch, Path: name, Action: "change"}
	if d.IsNew {
		return a.create(done, change)
	}
	old, err := a.read(from)
	switch {
	case errors.Is(err, fs.ErrNotExist) && d.IsDelete:
		return &FileError{Patch: a.patch, Path: from, Problem: "is to be deleted and does not exist", AlreadyApplied: true}
	case errors.Is(err, fs.ErrNotExist):
		return a.fail(from, "is to be changed and does not exist in this source")
	case err != nil:
		return fmt.Errorf("patch %s: read %s: %w", a.patch, from, err)
	case old.Mode&fs.ModeSymlink != 0:
		return a.fail(from, "is a symbolic link: only regular files can be patched")
	}
	if from != to && to != "" {
		if _, err := a.read(to); err == nil {
			return a.fail(to, "is the new name of "+from+" and already exists")
		}
		change.Action, change.From = "rename", from
	}

	data, offsets, err := a.hunks(name, old.Data)
	if err != nil {
		return err
	}
	change.Offsets = offsets
	if d.IsDelete {
		if len(data) != 0 {
			return a.fail(from, "is to be deleted and holds more than the patch removes")
		}
		change.Action = "delete"
		done.Files[from] = nil
		done.Changes = append(done.Changes, change)
		return nil
	}
	mode := old.Mode
	if d.NewMode != 0 {
		mode = fileMode(d.NewMode)
	}
	if change.Action == "change" && len(d.TextFragments) == 0 {
		change.Action = "mode"
	}
	if change.Action == "rename" && !d.IsCopy {
		done.Files[from] = nil
	}
	done.Files[to] = &File{Data: data, Mode: mode}
	done.Changes = append(done.Changes, change)
	return nil
}

func (a *applier) create(done *Applied, change Change) error {
	var data []byte
	for _, h := range a.diff.TextFragments {
		data = append(data, side(h, gitdiff.Line.New)...)
	}
	old, err := a.read(change.Path)
	switch {
	case err == nil:
		return &FileError{Patch: a.patch, Path: change.Path, Problem: "is to be created and already exists",
			AlreadyApplied: bytes.Equal(old.Data, data)}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("patch %s: read %s: %w", a.patch, change.Path, err)
	}
	change.Action = "create"
	done.Files[change.Path] = &File{Data: data, Mode: fileMode(a.diff.NewMode)}
	done.Changes = append(done.Changes, change)
	return nil
}

// checkPath refuses names that could lead out of the tree.
func (a *applier) checkPath(name string) error {
	switch {
	case !fs.ValidPath(name) || name == "." || !filepath.IsLocal(filepath.FromSlash(name)) || strings.ContainsAny(name, "\\\x00"):
		return a.fail(name, "is not a path inside the source: absolute paths and .. are refused")
	case strings.EqualFold(strings.SplitN(name, "/", 2)[0], ".git"):
		return a.fail(name, "lies in .git, which is not source")
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, err := a.read(dir); err == nil {
			return a.fail(name, dir+" is not a directory: paths through files or symbolic links are refused")
		}
	}
	return nil
}

// special tells modes of symbolic links and submodules; the parser leaves git's own bits in a FileMode.
func special(m fs.FileMode) bool {
	return m&0o170000 == 0o120000 || m&0o170000 == 0o160000
}

func fileMode(m fs.FileMode) fs.FileMode {
	if m&0o111 != 0 {
		return 0o755
	}
	return 0o644
}
