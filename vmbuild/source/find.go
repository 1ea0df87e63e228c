package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"pharovm/vmbuild/patch"
)

// plainEpoch dates what has no date of its own: 1980-01-01, the oldest that zip can say.
const plainEpoch = 315532800

var (
	remoteRE  = regexp.MustCompile(`^([a-z+]+://|[\w.-]+@[\w.-]+:)`)
	archiveRE = regexp.MustCompile(`\.(tar\.gz|tgz|tar|zip)$`)
	packedRE  = regexp.MustCompile(`\.(tar\.\w+|t[bx]z\d?|7z|rar)$`)
	sha1RE    = regexp.MustCompile(`^[0-9a-f]{40}$`)
)

// Remote tells whether where is fetched from another machine: a URL, or
// USER@HOST:PATH as ssh has it.
func Remote(where string) bool { return remoteRE.MatchString(where) }

// find says what where is. Unless network is true, nothing is contacted.
func find(ctx context.Context, where string, spec Spec, opt Options, network bool) (*origin, error) {
	switch {
	case where == "" && spec.Dir != "":
		o, err := plainDir(spec.Dir, spec)
		if err == nil {
			o.Version, o.Release, o.Verified = spec.Version, spec.Version, "part of this project"
			o.Origin = "this project's " + spec.Name
		}
		return o, err
	case where == "":
		return pinned(spec, opt)
	case Remote(where):
		return remote(ctx, where, spec, opt, network)
	}
	dir, ref := where, ""
	info, err := os.Stat(dir)
	if i := strings.LastIndexByte(where, '#'); err != nil && i > 0 {
		dir, ref = where[:i], where[i+1:]
		info, err = os.Stat(dir)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s does not exist: give a directory, a .tar.gz, .tar or .zip archive, or URL#ref", where)
	case err != nil:
		return nil, err
	case info.IsDir():
		if repo, ok := openRepo(dir, opt); ok {
			return repo.find(ctx, ref, spec)
		}
		if ref != "" {
			return nil, fmt.Errorf("%s is no git checkout, or git is not installed: cannot look up %q in it", dir, ref)
		}
		spec.Epoch = 0 // the pin's, which this may not be
		return plainDir(dir, spec)
	case archiveRE.MatchString(dir):
		return localArchive(dir, spec)
	case packedRE.MatchString(dir):
		return nil, fmt.Errorf("%s: this kind of archive cannot be read: give a .tar.gz, .tar or .zip, or unpack it and give the directory", dir)
	default:
		return nil, fmt.Errorf("%s is neither a directory nor a .tar.gz, .tar or .zip archive", dir)
	}
}

// atPin fills in what holds for exactly the pinned source, however it came.
func (s Spec) atPin(verified string) Identity {
	from := s.ArchiveURL
	if s.Commit != "" {
		from = s.URL + "@" + s.Commit
	}
	epoch := s.Epoch
	if epoch == 0 {
		epoch = plainEpoch
	}
	return Identity{Version: s.Version, Release: s.Version, Commit: s.Commit, Epoch: epoch, Origin: from, Verified: verified}
}

func (s Spec) pinKey() string {
	if s.Commit != "" {
		return "commit:" + s.Commit
	}
	return "archive:" + s.ArchiveSHA256
}

// pinned is the catalogue's source: by git, else as an archive.
func pinned(spec Spec, opt Options) (*origin, error) {
	if spec.Commit == "" && spec.ArchiveSHA256 == "" {
		return nil, errors.New("the catalogue pins neither a commit nor an archive's sha256: add one to the lock file")
	}
	o := &origin{Identity: spec.atPin(""), key: spec.pinKey()}
	o.load = func(ctx context.Context, id *Identity) (content, error) {
		var errs []error
		if spec.URL != "" && spec.Commit != "" {
			repo, err := fetchGit(ctx, spec.URL, spec.Commit, opt)
			if err == nil {
				if err = repo.checkTree(ctx, spec); err != nil {
					return content{}, err
				}
				id.Verified = "git commit"
				return repo.read(ctx, spec.Commit, spec, nil)
			}
			errs = append(errs, err)
		}
		if spec.ArchiveURL != "" && ctx.Err() == nil {
			file, err := fetchArchive(ctx, spec, opt)
			if err == nil {
				c, verified, err := readArchive(ctx, file, spec)
				if err == nil && strings.HasPrefix(verified, "not verified") {
					os.Remove(file)
					err = fmt.Errorf("archive %s: wrong checksum: %s: try again, or give a checkout or archive of that commit: -source=DIR|ARCHIVE", spec.ArchiveURL, strings.TrimPrefix(verified, "not verified: "))
				}
				id.Verified = verified
				return c, err
			}
			errs = append(errs, err)
		}
		return content{}, fmt.Errorf("%w\nto work without this network, give a checkout or archive of it: -source=DIR|ARCHIVE", errors.Join(errs...))
	}
	return o, nil
}

// remote is another repository, or an archive by URL; both are unpinned.
func remote(ctx context.Context, where string, spec Spec, opt Options, network bool) (*origin, error) {
	url, ref, _ := strings.Cut(where, "#")
	id := Identity{Version: "remote", Release: spec.Version, Epoch: plainEpoch, Origin: redact(where), Verified: "not verified: given by URL"}
	if !network {
		return &origin{Identity: id}, nil
	}
	if archiveRE.MatchString(url) {
		file, err := fetchArchive(ctx, Spec{Name: spec.Name, ArchiveURL: url, ArchiveSHA256: strings.TrimPrefix(ref, "sha256:")}, opt)
		if err != nil {
			return nil, err
		}
		o, err := localArchive(file, spec)
		if err == nil && !o.Pinned() {
			o.Origin = redact(where)
		}
		return o, err
	}
	if ref == "" {
		ref = "HEAD"
	}
	commit, err := resolveRef(ctx, url, ref, opt)
	if err != nil {
		return nil, err
	}
	opt.log("%s#%s is commit %s (not pinned)", redact(url), ref, commit)
	repo, err := fetchGit(ctx, url, commit, opt)
	if err != nil {
		return nil, err
	}
	o, err := repo.find(ctx, commit, spec)
	if err == nil && !o.Pinned() {
		o.Origin = redact(url) + "@" + commit
	}
	return o, err
}

// redact drops user and password from a URL that gets printed and recorded.
func redact(url string) string {
	return regexp.MustCompile(`://[^/@]*@`).ReplaceAllString(url, "://")
}

// plainDir is a directory without git.
func plainDir(dir string, spec Spec) (*origin, error) {
	c, err := readDir(dir, spec)
	if err != nil {
		return nil, err
	}
	epoch := spec.Epoch
	if epoch == 0 {
		epoch = plainEpoch
	}
	return &origin{
		key: "dir:" + digest(c.files),
		Identity: Identity{Version: "local", Release: spec.Version, Epoch: epoch, Origin: "a local directory",
			Verified: "not verified: a directory without git"},
		load: func(context.Context, *Identity) (content, error) { return c, nil },
	}, nil
}

func readDir(dir string, spec Spec) (content, error) {
	files := map[string]patch.File{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil || rel == "." {
			return err
		}
		if d.Name() == ".git" {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		name := filepath.ToSlash(rel)
		if d.IsDir() || !spec.selected(name) {
			return nil
		}
		f, err := readWorkFile(p)
		files[name] = f
		return err
	})
	has := func(mark string) bool {
		_, err := os.Stat(filepath.Join(dir, filepath.FromSlash(mark)))
		return err == nil
	}
	if err != nil {
		return content{}, fmt.Errorf("read the source directory: %w", err)
	}
	return content{files, has}, nil
}

func readWorkFile(p string) (patch.File, error) {
	info, err := os.Lstat(p)
	if err != nil {
		return patch.File{}, err
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(p)
		return patch.File{Data: []byte(filepath.ToSlash(target)), Mode: fs.ModeSymlink | 0o777}, err
	case !info.Mode().IsRegular():
		return patch.File{}, fmt.Errorf("%s is neither a file, a directory nor a symbolic link", p)
	}
	data, err := os.ReadFile(p)
	return patch.File{Data: data, Mode: regular(info.Mode()&0o111 != 0)}, err
}

func regular(executable bool) fs.FileMode {
	if executable {
		return 0o755
	}
	return 0o644
}

// localArchive is an archive file; it is the pinned source when its checksum or tree says so.
func localArchive(file string, spec Spec) (*origin, error) {
	sum, err := fileSHA256(file)
	if err != nil {
		return nil, err
	}
	o := &origin{key: "file:" + sum}
	o.Identity = Identity{Version: "local", Release: spec.Version, Epoch: plainEpoch, Origin: "archive sha256:" + sum}
	if spec.ArchiveSHA256 != "" && sum == spec.ArchiveSHA256 {
		o.Identity = spec.atPin("sha256")
	}
	o.load = func(ctx context.Context, id *Identity) (content, error) {
		c, verified, err := readArchive(ctx, file, spec)
		if !strings.HasPrefix(verified, "not verified") {
			*id = spec.atPin(verified)
		}
		id.Verified = verified
		return c, err
	}
	return o, nil
}

func fileSHA256(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
