package source

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"pharovm/vmbuild/patch"
)

// repo is a git repository on this machine, with or without a work tree.
type repo struct {
	git  string
	dir  string
	bare bool
}

// openRepo tells whether dir is the top of a checkout or a bare repository. A
// directory inside a checkout is not: it is then a plain directory.
func openRepo(dir string, opt Options) (*repo, bool) {
	git, err := opt.gitCommand()
	if err != nil {
		return nil, false
	}
	exists := func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	}
	switch {
	case exists(".git"):
		return &repo{git: git, dir: dir}, true
	case exists("HEAD") && exists("objects") && exists("refs"):
		return &repo{git: git, dir: dir, bare: true}, true
	}
	return nil, false
}

func (o Options) gitCommand() (string, error) {
	switch o.Git {
	case "none":
		return "", errors.New("git is not used")
	case "":
		git, err := exec.LookPath("git")
		if err != nil {
			return "", errors.New("git is not installed")
		}
		return git, nil
	}
	return o.Git, nil
}

// git makes a command that asks nobody anything and ignores the variables git sets inside its hooks.
func gitCmd(ctx context.Context, git string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, git, args...)
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if !slices.Contains([]string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_NAMESPACE"}, name) {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0")
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func runGit(cmd *exec.Cmd) ([]byte, error) {
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		if said := lastLines(stderr.String(), 4); said != "" {
			return nil, fmt.Errorf("git: %s", strings.TrimPrefix(said, "fatal: "))
		}
		return nil, fmt.Errorf("git: %w", err)
	}
	return out.Bytes(), nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

func (r *repo) command(ctx context.Context, args ...string) *exec.Cmd {
	if r.bare {
		return gitCmd(ctx, r.git, append([]string{"--git-dir=" + r.dir}, args...)...)
	}
	return gitCmd(ctx, r.git, append([]string{"-C", r.dir}, args...)...)
}

// find reads ref, or HEAD with whatever the work tree holds beyond it.
func (r *repo) find(ctx context.Context, ref string, spec Spec) (*origin, error) {
	at := ref
	if at == "" {
		at = "HEAD"
	}
	out, err := runGit(r.command(ctx, "show", "-s", "--no-show-signature", "--format=%H %T %ct", "--end-of-options", at+"^{commit}", "--"))
	if err != nil {
		return nil, fmt.Errorf("look up %s in the git repository %s: %w", at, r.dir, err)
	}
	var commit, tree string
	var epoch int64
	if _, err := fmt.Sscan(string(out), &commit, &tree, &epoch); err != nil {
		return nil, fmt.Errorf("look up %s in the git repository %s: unexpected answer %q", at, r.dir, out)
	}
	o := &origin{key: "commit:" + commit}
	day := time.Unix(epoch, 0).UTC().Format("20060102")
	release := day
	if spec.Commit == "" {
		release = spec.Version // its versions are no commits, and so not called after their days
	}
	o.Identity = Identity{Version: release + "-" + commit[:8], Release: release, Commit: commit, Epoch: epoch,
		Origin: "a checkout of commit " + commit, Verified: "not verified: commit " + commit[:12] + " is not a pinned one"}
	if commit == spec.Commit {
		if tree != spec.Tree && spec.Tree != "" {
			return nil, fmt.Errorf("commit %s has the tree %s, but the lock file says %s: correct the lock file", commit, tree, spec.Tree)
		}
		o.Identity = spec.atPin("git commit")
		if spec.Epoch == 0 {
			o.Epoch = epoch
		}
	}
	var changed map[string]*patch.File
	if !r.bare && ref == "" {
		var sum string
		if changed, sum, err = r.changes(ctx, spec); err != nil {
			return nil, err
		}
		if len(changed) > 0 {
			o.Dirty = true
			o.key += "+" + sum
			o.Version += "-dirty." + sum[:8]
			o.Origin = "a checkout of commit " + commit + " with uncommitted changes " + sum[:8]
			o.Verified = "not verified: the checkout has uncommitted changes"
		}
	}
	o.load = func(ctx context.Context, _ *Identity) (content, error) { return r.read(ctx, commit, spec, changed) }
	return o, nil
}

// changes lists what would be staged and is not as in HEAD, tracked or not
// (nil: deleted), and a digest that names this state. What is only staged in
// the index, or lies outside of what the build takes, is no change.
func (r *repo) changes(ctx context.Context, spec Spec) (map[string]*patch.File, string, error) {
	out, err := runGit(r.command(ctx, "status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=all", "--ignore-submodules=all"))
	if err != nil {
		return nil, "", fmt.Errorf("look for changes in %s: %w", r.dir, err)
	}
	changed := map[string]*patch.File{}
	for _, entry := range strings.Split(string(out), "\x00") {
		if len(entry) < 4 || !spec.selected(entry[3:]) || strings.HasSuffix(entry, "/") {
			continue
		}
		name := entry[3:]
		f, err := readWorkFile(filepath.Join(r.dir, filepath.FromSlash(name)))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			changed[name] = nil
		case err != nil:
			return nil, "", fmt.Errorf("read a changed file: %w", err)
		default:
			changed[name] = &f
		}
	}
	if len(changed) == 0 {
		return nil, "", nil
	}
	head, err := r.list(ctx, "HEAD")
	if err != nil {
		return nil, "", err
	}
	for name, f := range changed {
		e, ok := head[name]
		if f == nil && !ok {
			delete(changed, name)
		} else if f != nil && ok {
			if id := blobID(f.Data); hex.EncodeToString(id[:]) == e.id && f.Mode == e.fileMode() {
				delete(changed, name)
			}
		}
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(changed)) {
		if f := changed[name]; f == nil {
			fmt.Fprintf(h, "gone %q\n", name)
		} else {
			hashFile(h, name, *f)
		}
	}
	return changed, hex.EncodeToString(h.Sum(nil)), nil
}

// checkTree compares the tree of the pinned commit with the lock file.
func (r *repo) checkTree(ctx context.Context, spec Spec) error {
	_, err := r.find(ctx, spec.Commit, spec)
	return err
}

type treeEntry struct{ mode, kind, id string }

func (e treeEntry) fileMode() fs.FileMode {
	if e.mode == "120000" {
		return fs.ModeSymlink | 0o777
	}
	return regular(e.mode == "100755")
}

// list returns every entry of a commit by path.
func (r *repo) list(ctx context.Context, commit string) (map[string]treeEntry, error) {
	out, err := runGit(r.command(ctx, "ls-tree", "-r", "-z", "--full-tree", commit))
	if err != nil {
		return nil, fmt.Errorf("list commit %s: %w", commit, err)
	}
	entries := map[string]treeEntry{}
	for _, line := range strings.Split(string(out), "\x00") {
		meta, name, ok := strings.Cut(line, "\t")
		if f := strings.Fields(meta); ok && len(f) == 3 {
			entries[name] = treeEntry{f[0], f[1], f[2]}
		}
	}
	return entries, nil
}

// read returns the selected files as git stores them, not as filters leave
// them in a work tree, with changed laid over.
func (r *repo) read(ctx context.Context, commit string, spec Spec, changed map[string]*patch.File) (content, error) {
	all, err := r.list(ctx, commit)
	if err != nil {
		return content{}, err
	}
	want := map[string]treeEntry{}
	for name, e := range all {
		if _, ok := changed[name]; !ok && e.kind == "blob" && spec.selected(name) {
			want[name] = e
		}
	}
	files, err := r.blobs(ctx, want)
	if err != nil {
		return content{}, fmt.Errorf("read commit %s from %s: %w", commit, r.dir, err)
	}
	for name, f := range changed {
		if f == nil {
			delete(all, name)
			continue
		}
		all[name] = treeEntry{}
		files[name] = *f
	}
	return content{files, hasIn(maps.Keys(all))}, nil
}

// blobs reads the entries in one run of git and checks each against its id.
func (r *repo) blobs(ctx context.Context, want map[string]treeEntry) (map[string]patch.File, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var ids, stderr bytes.Buffer
	names := slices.Sorted(maps.Keys(want))
	for _, name := range names {
		ids.WriteString(want[name].id + "\n")
	}
	cmd := r.command(ctx, "cat-file", "--batch")
	cmd.Stdin, cmd.Stderr = &ids, &stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	files, err := readBlobs(bufio.NewReaderSize(pipe, 1<<20), names, want)
	if err != nil {
		cancel()
		cmd.Wait()
		return nil, fmt.Errorf("%w %s", err, lastLines(stderr.String(), 2))
	}
	return files, cmd.Wait()
}

func readBlobs(in *bufio.Reader, names []string, want map[string]treeEntry) (map[string]patch.File, error) {
	files := make(map[string]patch.File, len(want))
	for _, name := range names {
		e := want[name]
		head, err := in.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		f := strings.Fields(head)
		if len(f) != 3 {
			return nil, fmt.Errorf("%s (object %s) is not in this repository: it is a partial clone or damaged: run `git fetch --refetch --no-filter` in it", name, e.id)
		}
		size, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		data := make([]byte, size+1)
		if _, err := io.ReadFull(in, data); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		data = data[:size]
		if id := blobID(data); hex.EncodeToString(id[:]) != e.id {
			return nil, fmt.Errorf("%s is damaged: object %s has the content of %x", name, e.id, id)
		}
		files[name] = patch.File{Data: data, Mode: e.fileMode()}
	}
	return files, nil
}

func blobID(data []byte) [sha1.Size]byte {
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", len(data))
	h.Write(data)
	return [sha1.Size]byte(h.Sum(nil))
}

// resolveRef asks the remote which commit ref is.
func resolveRef(ctx context.Context, url, ref string, opt Options) (string, error) {
	if sha1RE.MatchString(ref) {
		return ref, nil
	}
	git, err := opt.gitCommand()
	if err != nil {
		return "", fmt.Errorf("look up %s in %s: %w: give a local directory or archive instead", ref, redact(url), err)
	}
	// Asked for a mere name, git lists all that end in it: aaa/main for main.
	var names []string
	for _, prefix := range []string{"refs/tags/", "refs/heads/", "", "refs/"} {
		names = append(names, prefix+ref+"^{}", prefix+ref)
	}
	out, err := runGit(gitCmd(ctx, git, append([]string{"ls-remote", "--exit-code", "--", url}, names...)...))
	if err != nil {
		return "", fmt.Errorf("look up %q in %s: %w: check the name and the network, or give -source=DIR|ARCHIVE", ref, redact(url), err)
	}
	commits := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		id, name, _ := strings.Cut(line, "\t")
		commits[name] = id
	}
	for _, name := range names {
		if id, ok := commits[name]; ok && sha1RE.MatchString(id) {
			return id, nil
		}
	}
	return "", fmt.Errorf("look up %q in %s: it has no such branch or tag: name one of `git ls-remote`", ref, redact(url))
}

// fetchGit gets one commit into the cache, whole or not at all.
func fetchGit(ctx context.Context, url, commit string, opt Options) (*repo, error) {
	git, err := opt.gitCommand()
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", redact(url), err)
	}
	store := filepath.Join(opt.CacheDir, "sources", "git")
	r := &repo{git: git, dir: filepath.Join(store, commit+".git"), bare: true}
	if _, err := os.Stat(r.dir); err == nil {
		return r, nil
	}
	if err := os.MkdirAll(store, 0o755); err != nil {
		return nil, err
	}
	beside, err := os.MkdirTemp(store, ".fetch-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(beside)
	tmp := &repo{git: git, dir: beside, bare: true}
	if _, err := runGit(gitCmd(ctx, git, "init", "-q", "--bare", "--template=", beside)); err != nil {
		return nil, fmt.Errorf("make a git repository: %w", err)
	}
	opt.log("fetching commit %s of %s", commit[:12], redact(url))
	fetch := tmp.command(ctx, "-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60",
		"fetch", "-q", "--depth", "1", "--no-tags", "--", url, commit+":refs/heads/pinned")
	if _, err := runGit(fetch); err != nil {
		return nil, fmt.Errorf("fetch commit %s from %s: %w", commit, redact(url), err)
	}
	if _, err := runGit(tmp.command(ctx, "symbolic-ref", "HEAD", "refs/heads/pinned")); err != nil {
		return nil, err
	}
	if err := os.Rename(beside, r.dir); err != nil {
		if _, serr := os.Stat(r.dir); serr != nil {
			return nil, err
		}
	}
	return r, nil
}
