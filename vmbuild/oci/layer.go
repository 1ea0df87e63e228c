// Package oci makes container layers, images and indexes, keeps them in an OCI
// layout on disk, and hands them to a registry or to Docker.
//
// The same inputs always give the same digests: entries are sorted, owners,
// modes and times are given and never read from the host, and layers are
// compressed by klauspost/compress, whose version go.mod pins, and not by the
// standard library, whose output may change with the Go release.
package oci

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
)

// File is one entry of a layer. Exactly one of Source, Data, Link and Dir says
// what it is; with none of them it is an empty file.
type File struct {
	Path     string      // absolute, slash-separated place in the image
	Source   string      // host path of a regular file to copy
	Data     []byte      // contents
	Link     string      // target of a symbolic link, as written into the image
	Dir      bool        // a directory
	Mode     fs.FileMode // permissions and fs.ModeSticky; 0 means 0644 for files, 0755 for directories
	UID, GID int
}

// Layer makes a gzip-compressed layer of files, in sorted order, whatever order
// they come in. Parent directories are added with mode 0755 and owner 0:0
// unless they are listed; every entry gets epoch as its time.
//
// Paths that are relative or leave the image, duplicates, entries below a file
// or link of the same layer, whiteouts, setuid modes, and sources that are not
// regular files are errors.
func (p Packer) Layer(files []File, epoch time.Time) (v1.Layer, error) {
	files, err := arrange(files)
	if err != nil {
		return nil, fmt.Errorf("making a layer: %w", err)
	}
	var plain bytes.Buffer
	if err := writeTar(&plain, files, epoch); err != nil {
		return nil, fmt.Errorf("making a layer: %w", err)
	}
	diffID, _, err := v1.SHA256(bytes.NewReader(plain.Bytes()))
	if err != nil {
		return nil, fmt.Errorf("making a layer: %w", err)
	}
	packed, err := p.compress(plain.Bytes())
	if err != nil {
		return nil, fmt.Errorf("compressing a layer: %w", err)
	}
	digest, size, err := v1.SHA256(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("making a layer: %w", err)
	}
	l := &layer{data: packed, digest: digest, diffID: diffID, size: size}
	for _, f := range files {
		if f.Dir {
			l.dirs = append(l.dirs, f.Path)
		}
	}
	return l, nil
}

// layer is a compressed layer held in memory.
type layer struct {
	data           []byte
	digest, diffID v1.Hash
	size           int64
	dirs           []string // its directories, sorted
}

var _ v1.Layer = (*layer)(nil)

func (l *layer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *layer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *layer) Size() (int64, error)                { return l.size, nil }
func (l *layer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (l *layer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.data)), nil
}
func (l *layer) Uncompressed() (io.ReadCloser, error) { return gzip.NewReader(bytes.NewReader(l.data)) }

// Tree lists what is below the host folder dir as files below prefix in the
// image, owned by uid and gid. Symbolic links stay links. Files that program
// names get mode 0755, the others 0644; it is given slash-separated paths
// relative to dir. Host owners, times and modes do not come along, as Windows
// has no such modes.
func Tree(dir, prefix string, uid, gid int, program func(name string) bool) ([]File, error) {
	var files []File
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil || rel == "." {
			return err
		}
		f := File{Path: path.Join("/", prefix, filepath.ToSlash(rel)), UID: uid, GID: gid}
		switch {
		case d.IsDir():
			f.Dir = true
		case d.Type()&fs.ModeSymlink != 0:
			if f.Link, err = os.Readlink(p); err != nil {
				return err
			}
			f.Link = filepath.ToSlash(f.Link)
		case d.Type().IsRegular():
			f.Source, f.Mode = p, 0o644
			if program(filepath.ToSlash(rel)) {
				f.Mode = 0o755
			}
		default:
			return fmt.Errorf("%s is a %s: only files, folders and links go into an image", p, d.Type())
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", dir, err)
	}
	return files, nil
}

// arrange validates files, adds their parent directories and sorts them.
func arrange(files []File) ([]File, error) {
	entries := make(map[string]File, len(files))
	for _, f := range files {
		if err := checkFile(f); err != nil {
			return nil, err
		}
		if _, ok := entries[f.Path]; ok {
			return nil, fmt.Errorf("%s is listed twice: keep one", f.Path)
		}
		entries[f.Path] = f
	}
	for _, f := range files {
		for dir := path.Dir(f.Path); dir != "/"; dir = path.Dir(dir) {
			if parent, ok := entries[dir]; !ok {
				entries[dir] = File{Path: dir, Dir: true}
			} else if !parent.Dir {
				return nil, fmt.Errorf("%s lies below %s, which is not a directory: name the real path", f.Path, dir)
			}
		}
	}
	out := make([]File, 0, len(entries))
	for _, f := range entries {
		out = append(out, f)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out, nil
}

func checkFile(f File) error {
	if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/" || strings.ContainsAny(f.Path, "\\\x00") {
		return fmt.Errorf("path %q: want a clean absolute path such as /opt/pharo/pharo", f.Path)
	}
	if strings.HasPrefix(path.Base(f.Path), ".wh.") {
		return fmt.Errorf("path %q: names beginning with .wh. delete files of the base: choose another", f.Path)
	}
	if f.Mode&^(fs.ModePerm|fs.ModeSticky) != 0 {
		return fmt.Errorf("%s: mode %v: only permissions and the sticky bit may be set", f.Path, f.Mode)
	}
	kinds := 0
	for _, is := range []bool{f.Source != "", f.Data != nil, f.Link != "", f.Dir} {
		if is {
			kinds++
		}
	}
	if kinds > 1 {
		return fmt.Errorf("%s: give only one of a source, data, a link target and a directory", f.Path)
	}
	if f.Link != "" && !path.IsAbs(f.Link) {
		depth := strings.Count(path.Dir(f.Path), "/")
		if path.Dir(f.Path) == "/" {
			depth = 0
		}
		for _, part := range strings.Split(f.Link, "/") {
			switch part {
			case "", ".":
			case "..":
				depth--
			default:
				depth++
			}
			if depth < 0 {
				return fmt.Errorf("%s: link target %q leaves the image: use an absolute one", f.Path, f.Link)
			}
		}
	}
	return nil
}

// writeTar writes what arrange gave.
func writeTar(w io.Writer, files []File, epoch time.Time) error {
	tw := tar.NewWriter(w)
	for _, f := range files {
		if err := writeEntry(tw, f, epoch.UTC().Truncate(time.Second)); err != nil {
			return fmt.Errorf("adding %s: %w", f.Path, err)
		}
	}
	return tw.Close()
}

// writeEntry leaves the header's format open: archive/tar then writes plain
// USTAR wherever the name fits and PAX only where it does not.
func writeEntry(tw *tar.Writer, f File, epoch time.Time) error {
	h := &tar.Header{Name: strings.TrimPrefix(f.Path, "/"), Uid: f.UID, Gid: f.GID, ModTime: epoch}
	mode := f.Mode
	var body io.Reader = bytes.NewReader(f.Data)
	switch {
	case f.Dir:
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		if mode == 0 {
			mode = 0o755
		}
	case f.Link != "":
		h.Typeflag, h.Linkname, mode = tar.TypeSymlink, f.Link, 0o777
	default:
		h.Typeflag, h.Size = tar.TypeReg, int64(len(f.Data))
		if mode == 0 {
			mode = 0o644
		}
		if f.Source != "" {
			info, err := os.Lstat(f.Source)
			if err != nil {
				return err
			}
			if !info.Mode().IsRegular() {
				return fmt.Errorf("%s is not a regular file", f.Source)
			}
			src, err := os.Open(f.Source)
			if err != nil {
				return err
			}
			defer src.Close()
			h.Size, body = info.Size(), src
		}
	}
	h.Mode = int64(mode.Perm())
	if mode&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(tw, body)
	return err
}
