package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pharovm/vmbuild/patch"
)

// record is what the cache keeps of a staged source, beside its directory.
type record struct {
	Resolved
	Staged string // directory in sources/
	Files  int
	Bytes  int64
}

// stage patches the content and writes it where other runs find it again.
func stage(ctx context.Context, store, index string, spec Spec, id Identity, c content, series []patch.Patch) (Resolved, error) {
	for _, mark := range spec.Marks {
		if !c.has(mark) {
			return Resolved{}, fmt.Errorf("%w: it has no %s, which every %s has: check what -source names", ErrNotSource, mark, spec.Name)
		}
	}
	if len(c.files) == 0 {
		return Resolved{}, fmt.Errorf("%w: none of %s is in it", ErrNotSource, strings.Join(spec.Paths, ", "))
	}
	done, err := patch.Apply(series, func(name string) (patch.File, error) {
		if f, ok := c.files[name]; ok {
			return f, nil
		}
		return patch.File{}, fs.ErrNotExist
	})
	if err != nil {
		return Resolved{}, err
	}
	for name, f := range done.Files {
		if f == nil {
			delete(c.files, name)
		} else {
			c.files[name] = *f
		}
	}
	for name := range c.files {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := c.files[dir]; ok {
				return Resolved{}, fmt.Errorf("%w: it has %s both as a file and as a directory", ErrNotSource, dir)
			}
		}
	}
	rec := record{Resolved: Resolved{Identity: id, Digest: digest(c.files), Changes: done.Changes}, Files: len(c.files)}
	for _, f := range c.files {
		rec.Bytes += int64(len(f.Data))
	}
	rec.Staged = fmt.Sprintf("%s-%s-%d", spec.Name, rec.Digest[:16], id.Epoch)
	rec.Dir = filepath.Join(store, rec.Staged)
	if !rec.intact() {
		if err := rec.write(ctx, store, c.files); err != nil {
			return Resolved{}, fmt.Errorf("stage: %w", err)
		}
	}
	b, err := json.Marshal(rec)
	if err != nil {
		return Resolved{}, err
	}
	if err := writeBeside(index, b); err != nil {
		return Resolved{}, fmt.Errorf("record what was staged: %w", err)
	}
	return rec.Resolved, nil
}

// reuse returns what an earlier run staged from the same inputs, if it is intact.
func reuse(index, store string) (Resolved, bool) {
	b, err := os.ReadFile(index)
	if err != nil {
		return Resolved{}, false
	}
	var rec record
	if json.Unmarshal(b, &rec) != nil || !filepath.IsLocal(rec.Staged) {
		return Resolved{}, false
	}
	rec.Dir = filepath.Join(store, rec.Staged)
	rec.Reused = true
	return rec.Resolved, rec.intact()
}

// intact tells whether the staged directory is as it was written, by number,
// sizes and times of its files.
func (r *record) intact() bool {
	var files int
	var size int64
	epoch := time.Unix(r.Epoch, 0)
	err := filepath.WalkDir(r.Dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files++
		size += info.Size()
		if info.Mode().IsRegular() && !info.ModTime().Equal(epoch) {
			return errors.New("changed")
		}
		return nil
	})
	return err == nil && files == r.Files && size == r.Bytes
}

func (r *record) write(ctx context.Context, store string, files map[string]patch.File) error {
	stale, _ := filepath.Glob(filepath.Join(store, ".stage-*")) // of killed runs: the lock is ours
	for _, dir := range stale {
		os.RemoveAll(dir)
	}
	beside, err := os.MkdirTemp(store, ".stage-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(beside)
	if err := os.Chmod(beside, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(beside)
	if err != nil {
		return err
	}
	defer root.Close()
	epoch := time.Unix(r.Epoch, 0)
	made := map[string]bool{".": true}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f, local := files[name], filepath.FromSlash(name)
		if dir := path.Dir(name); !made[dir] {
			if err := root.MkdirAll(filepath.FromSlash(dir), 0o755); err != nil {
				return err
			}
			for ; !made[dir]; dir = path.Dir(dir) {
				made[dir] = true
			}
		}
		if f.Mode&fs.ModeSymlink != 0 {
			target := string(f.Data)
			if path.IsAbs(target) || !filepath.IsLocal(filepath.FromSlash(path.Join(path.Dir(name), target))) {
				return fmt.Errorf("symbolic link %s leads out of the source, to %s", name, target)
			}
			if err := root.Symlink(filepath.FromSlash(target), local); err != nil {
				return err
			}
			continue
		}
		if err := root.WriteFile(local, f.Data, f.Mode.Perm()); err != nil {
			return err
		}
		if err := root.Chmod(local, f.Mode.Perm()); err != nil { // against the umask
			return err
		}
		if err := root.Chtimes(local, epoch, epoch); err != nil {
			return err
		}
	}
	for _, dir := range slices.Backward(slices.Sorted(maps.Keys(made))) {
		local := filepath.FromSlash(dir)
		if err := errors.Join(root.Chmod(local, 0o755), root.Chtimes(local, epoch, epoch)); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(r.Dir); err != nil {
		return err
	}
	return os.Rename(beside, r.Dir)
}

// digest is over path, mode and content of every file, sorted by path.
func digest(files map[string]patch.File) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		hashFile(h, name, files[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}

func hashFile(w io.Writer, name string, f patch.File) {
	kind := "file"
	if f.Mode&fs.ModeSymlink != 0 {
		kind = "link"
	} else if f.Mode&0o111 != 0 {
		kind = "exec"
	}
	fmt.Fprintf(w, "%s %q %d\n", kind, name, len(f.Data))
	w.Write(f.Data)
}

func writeBeside(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
