package base

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/klauspost/compress/zstd"
)

var (
	perPlatform = regexp.MustCompile(`^linux/\w+=`)
	tarballs    = regexp.MustCompile(`\.(tar|tar\.gz|tgz|tar\.zst)$`)
)

// override is what the user gave in place of the base, the same for all platforms or one each.
func override(ctx context.Context, spec Spec, opt Options) (*Resolved, error) {
	if !perPlatform.MatchString(opt.Override) {
		return overrideOne(ctx, opt.Override, opt)
	}
	each := byPlatform{}
	var origins []string
	parts := strings.Split(opt.Override, ",")
	if slices.ContainsFunc(parts, func(s string) bool { return !perPlatform.MatchString(s) }) {
		return nil, fmt.Errorf("override %q: expected linux/amd64=…,linux/arm64=…", opt.Override)
	}
	for _, part := range parts {
		p, where, _ := strings.Cut(part, "=")
		r, err := overrideOne(ctx, where, opt)
		if err != nil {
			return nil, err
		}
		each[p] = r.from
		origins = append(origins, p+" "+r.Origin)
	}
	return &Resolved{How: Override, Origin: strings.Join(origins, ", "), from: each}, nil
}

func overrideOne(ctx context.Context, where string, opt Options) (*Resolved, error) {
	info, err := os.Stat(where)
	dir, ref := where, ""
	if i := strings.LastIndexByte(where, ':'); err != nil && i > 0 {
		if d, derr := os.Stat(where[:i]); derr == nil && d.IsDir() {
			dir, ref, info, err = where[:i], where[i+1:], d, nil
		}
	}
	switch {
	case err == nil && info.IsDir():
		l, err := openLayout(dir, ref, opt)
		if err != nil {
			return nil, err
		}
		return &Resolved{How: Override, Digest: l.digest, Origin: "an OCI layout given in its place", from: l}, nil
	case err == nil && tarballs.MatchString(where):
		sum, err := described(where)
		if err != nil {
			return nil, err
		}
		return &Resolved{How: Override, Origin: "a root file system given in its place, sha256:" + sum.SHA256, from: &fromTar{opt, where, sum.SHA256}}, nil
	case err == nil:
		return nil, fmt.Errorf("override %s: is neither an OCI layout directory nor a .tar, .tar.gz or .tar.zst", where)
	case tarballs.MatchString(where) || strings.HasPrefix(where, "/") || strings.HasPrefix(where, "."):
		return nil, fmt.Errorf("override: %w", err)
	}
	parsed, err := name.ParseReference(where)
	if err != nil {
		return nil, fmt.Errorf("override %q: is no file, no directory and no image reference: %w", where, err)
	}
	desc, err := remote.Head(parsed, opt.remote(ctx)...)
	if err != nil {
		return nil, fmt.Errorf("override: %w", explain(parsed, err))
	}
	at := parsed.Context().Digest(desc.Digest.String())
	opt.log("override %s is %s", where, at.Name())
	return &Resolved{How: Override, Ref: forEngine(at), Digest: desc.Digest.String(), Origin: at.Name(),
		from: &fromRegistry{opt, []name.Reference{at}, desc.Digest.String()}}, nil
}

// byPlatform asks one provider per platform.
type byPlatform map[string]provider

func (b byPlatform) at(p v1.Platform) (provider, error) {
	if one, ok := b[p.OS+"/"+p.Architecture]; ok {
		return one, nil
	}
	return nil, fmt.Errorf("the override names nothing for %s/%s", p.OS, p.Architecture)
}

func (b byPlatform) image(ctx context.Context, p v1.Platform) (v1.Image, error) {
	one, err := b.at(p)
	if err != nil {
		return nil, err
	}
	return one.image(ctx, p)
}

func (b byPlatform) rootfs(ctx context.Context, p v1.Platform) (Rootfs, error) {
	one, err := b.at(p)
	if err != nil {
		return Rootfs{}, err
	}
	return one.rootfs(ctx, p)
}

// fromLayout has what an OCI layout directory holds.
type fromLayout struct {
	opt    Options
	index  v1.ImageIndex // the one named, or the layout's own
	only   v1.Image      // set when the layout names an image and no index
	digest string
}

func openLayout(dir, ref string, opt Options) (*fromLayout, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("override %s: is no OCI layout: %w", dir, err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("override %s: %w", dir, err)
	}
	var found []v1.Descriptor
	var names []string
	for _, d := range m.Manifests {
		tag := d.Annotations["org.opencontainers.image.ref.name"]
		names = append(names, tag+"@"+d.Digest.String())
		if ref == "" || tag == ref || strings.HasSuffix(tag, ":"+ref) || d.Digest.String() == ref || "sha256:"+ref == d.Digest.String() {
			found = append(found, d)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("override %s: has no %q, only %s", dir, ref, strings.Join(names, ", "))
	}
	l := &fromLayout{opt: opt, index: index, digest: found[0].Digest.String()}
	switch {
	case len(found) == 1 && found[0].MediaType.IsIndex():
		l.index, err = index.ImageIndex(found[0].Digest)
	case len(found) == 1:
		l.only, err = index.Image(found[0].Digest)
	default:
		// Several images beside one another: the layout's own index tells them apart by platform.
		for _, d := range found {
			if d.Platform == nil {
				return nil, fmt.Errorf("override %s: holds %s: name one as DIR:ref", dir, strings.Join(names, ", "))
			}
		}
		l.digest = ""
	}
	if err != nil {
		return nil, fmt.Errorf("override %s: %w", dir, err)
	}
	return l, nil
}

func (l *fromLayout) image(_ context.Context, p v1.Platform) (v1.Image, error) {
	if l.only != nil {
		return l.only, checkPlatform(l.only, p)
	}
	return pick(l.index, p)
}

func (l *fromLayout) rootfs(ctx context.Context, p v1.Platform) (Rootfs, error) {
	img, err := l.image(ctx, p)
	if err != nil {
		return Rootfs{}, err
	}
	return flatten(ctx, l.opt, img)
}

// fromTar has the root file system of a tarball.
type fromTar struct {
	opt    Options
	file   string
	sha256 string
}

func (t *fromTar) rootfs(ctx context.Context, p v1.Platform) (Rootfs, error) {
	kept := t.opt.dir("rootfs", t.sha256+"-"+p.Architecture+".tar.gz")
	err := exclusive(ctx, kept, func() error {
		if _, err := os.Stat(kept); err == nil {
			return nil
		}
		in, err := openTar(t.file)
		if err != nil {
			return err
		}
		defer in.Close()
		return writeBeside(kept, func(w io.Writer) error {
			z := gzip.NewWriter(w)
			err := copyChecked(ctx, z, in, p)
			return errors.Join(err, z.Close())
		})
	})
	if err != nil {
		return Rootfs{}, fmt.Errorf("override %s: %w", filepath.Base(t.file), err)
	}
	return described(kept)
}

func (t *fromTar) image(ctx context.Context, p v1.Platform) (v1.Image, error) {
	fs, err := t.rootfs(ctx, p)
	if err != nil {
		return nil, err
	}
	return oneLayer(fs.Path, p, "root file system given by the user")
}

// openTar reads a tarball whatever it is compressed with.
func openTar(file string) (io.ReadCloser, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	magic := make([]byte, 4)
	n, err := io.ReadFull(f, magic)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		f.Close()
		return nil, fmt.Errorf("is empty or unreadable: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	in := io.Reader(f)
	switch {
	case bytes.HasPrefix(magic[:n], []byte{0x1f, 0x8b}):
		in, err = gzip.NewReader(f)
	case bytes.Equal(magic[:n], []byte{0x28, 0xb5, 0x2f, 0xfd}):
		in, err = zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
	default:
		err = nil
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{in, f}, nil
}

// copyChecked copies a tarball, refusing members that lead out of it and
// programs of another architecture, and leaving out device nodes.
func copyChecked(ctx context.Context, to io.Writer, from io.Reader, p v1.Platform) error {
	r, w := tar.NewReader(reader{ctx, from}), tar.NewWriter(to)
	members := 0
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("is no tarball or is cut short: %w", err)
		}
		clean := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(h.Name, "/"), "./"), "/")
		if clean == "" || clean == "." {
			continue
		}
		if !fs.ValidPath(clean) || h.Typeflag == tar.TypeLink && !fs.ValidPath(path.Clean(strings.TrimPrefix(strings.TrimPrefix(h.Linkname, "/"), "./"))) {
			return fmt.Errorf("member %q leads out of the root file system", h.Name)
		}
		if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock || h.Typeflag == tar.TypeFifo {
			continue
		}
		head := make([]byte, min(h.Size, 64))
		if _, err := io.ReadFull(r, head); err != nil {
			return err
		}
		if err := checkELF(clean, head, p); err != nil {
			return err
		}
		h.Format = tar.FormatPAX
		h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(head); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
		members++
	}
	if members == 0 {
		return errors.New("holds no files")
	}
	return w.Close()
}

// checkELF refuses a system program of another architecture.
func checkELF(name string, head []byte, p v1.Platform) error {
	if len(head) < 20 || string(head[:4]) != elf.ELFMAG || !strings.Contains("/"+name, "/bin/") {
		return nil
	}
	is := elf.Machine(uint16(head[18]) | uint16(head[19])<<8)
	want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[p.Architecture]
	if is != want {
		return fmt.Errorf("%w: it holds %s programs (%s), wanted is %s: give one per platform as linux/amd64=…,linux/arm64=…", errWrong, is, name, p.String())
	}
	return nil
}
