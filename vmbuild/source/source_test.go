package source

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pharovm/vmbuild/patch"
)

// The tree is small but has what makes the real one hard: a smudge filter with
// ident, end-of-line attributes, an executable, a link, and files not staged.
var sampleTree = map[string]string{
	".gitattributes":        "sq*Version.h filter=RevDateURL ident\nscripts/*.bat eol=crlf\n",
	"CMakeLists.txt":        "project(VM)\n",
	"cmake/a.cmake":         "set(A 1)\n",
	"src/sqVersion.h":       "#define ID \"$Id$\"\n#define REV \"$Rev$\"\n",
	"src/vm.c":              "one\ntwo\nthree\n",
	"src/run.sh":            "#!/bin/sh\n",
	"src/deep/x.c":          "x\n",
	"src-other/y.c":         "y\n",
	"scripts/build.bat":     "echo one\necho two\n",
	"image/large.st":        strings.Repeat("smalltalk\n", 1000),
	"platforms/min/main.c":  "int main;\n",
	"platforms/win/other.c": "other\n",
}

const commitTime = 1616667008

type sample struct {
	dir, commit, tree string
	spec              Spec
}

func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main", "-c", "core.autocrlf=false"}, args...)...)
	date := fmt.Sprintf("@%d +0000", commitTime)
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_DATE="+date, "GIT_COMMITTER_DATE="+date)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	file := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func newSample(t testing.TB) sample {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "checkout")
	for name, text := range sampleTree {
		write(t, dir, name, text)
	}
	if err := os.Chmod(filepath.Join(dir, "src/run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("vm.c", filepath.Join(dir, "src/link.c")); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "init", "-q")
	git(t, dir, "config", "uploadpack.allowAnySHA1InWant", "true")
	git(t, dir, "add", "-A")
	git(t, dir, "commit", "-q", "-m", "x")
	s := sample{dir: dir, commit: git(t, dir, "rev-parse", "HEAD"), tree: git(t, dir, "rev-parse", "HEAD^{tree}")}
	s.spec = Spec{Name: "vm", Version: "20210325", URL: dir, Commit: s.commit, Tree: s.tree, Epoch: commitTime,
		Paths: []string{"CMakeLists.txt", "cmake", "src", "platforms/m*"}, Marks: []string{"CMakeLists.txt", "platforms/min"}}
	return s
}

var stagedNames = []string{"CMakeLists.txt", "cmake/a.cmake", "platforms/min/main.c", "src/deep/x.c", "src/link.c", "src/run.sh", "src/sqVersion.h", "src/vm.c"}

// resolve fails the test when the source cannot be staged.
func mustResolve(t testing.TB, where string, spec Spec, opt Options) Resolved {
	t.Helper()
	r, err := Resolve(t.Context(), where, spec, opt)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func archive(t testing.TB, s sample, format string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "a."+format)
	git(t, s.dir, "archive", "--format="+format, "--prefix=vm-"+s.commit+"/", "-o", file, s.commit)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestSameFromEverywhere stages the pinned commit in every way there is.
func TestSameFromEverywhere(t *testing.T) {
	s := newSample(t)
	tgz := archive(t, s, "tar.gz")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(tgz) }))
	defer srv.Close()
	bare := filepath.Join(t.TempDir(), "bare.git")
	git(t, s.dir, "clone", "-q", "--bare", s.dir, bare)
	smudged := filepath.Join(t.TempDir(), "smudged")
	git(t, s.dir, "clone", "-q", "-c", "filter.RevDateURL.smudge=sed 's/[$]Rev[$]/42/'", "-c", "filter.RevDateURL.clean=sed 's/42/$Rev$/'", s.dir, smudged)
	if b, _ := os.ReadFile(filepath.Join(smudged, "src/sqVersion.h")); !strings.Contains(string(b), "42") || !strings.Contains(string(b), "$Id: ") {
		t.Fatalf("the filter did not run: %s", b)
	}
	local := func(format string) string {
		file := filepath.Join(t.TempDir(), "a."+format)
		if err := os.WriteFile(file, archive(t, s, format), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	byArchive := s.spec
	byArchive.ArchiveURL = srv.URL + "/vm.tar.gz"

	want := mustResolve(t, s.dir, s.spec, Options{CacheDir: t.TempDir()})
	for name, c := range map[string]struct {
		where    string
		spec     Spec
		opt      Options
		verified string
	}{
		"bare":        {bare, s.spec, Options{}, "git commit"},
		"smudged":     {smudged, s.spec, Options{}, "git commit"},
		"DIR#ref":     {s.dir + "#main", s.spec, Options{}, "git commit"},
		"fetch":       {"", s.spec, Options{}, "git commit"},
		"URL#ref":     {"file://" + s.dir + "#main", s.spec, Options{}, "git commit"},
		"download":    {"", byArchive, Options{Git: "none"}, "git tree"},
		"archive URL": {srv.URL + "/vm.tar.gz", s.spec, Options{}, "git tree"},
		"tar.gz":      {local("tar.gz"), s.spec, Options{}, "git tree"},
		"tar":         {local("tar"), s.spec, Options{}, "git tree"},
		"zip":         {local("zip"), s.spec, Options{}, "git tree"},
	} {
		t.Run(name, func(t *testing.T) {
			c.opt.CacheDir = t.TempDir()
			r := mustResolve(t, c.where, c.spec, c.opt)
			if r.Digest != want.Digest || r.Verified != c.verified || !r.Pinned() {
				t.Errorf("digest %s, want %s; verified %q, want %q", r.Digest, want.Digest, r.Verified, c.verified)
			}
			r.Verified, want.Verified = "", ""
			if r.Identity != want.Identity {
				t.Errorf("recorded as\n%+v, want\n%+v", r.Identity, want.Identity)
			}
			names, _ := tree(t, r.Dir)
			if !slices.Equal(names, stagedNames) {
				t.Errorf("staged %v", names)
			}
		})
	}
}

// TestPinnedTime: the pin's time holds for what is the pinned commit, from
// wherever it comes, and for nothing else.
func TestPinnedTime(t *testing.T) {
	s := newSample(t)
	s.spec.Epoch = commitTime + 60
	file := filepath.Join(t.TempDir(), "a.tar.gz")
	write(t, filepath.Dir(file), "a.tar.gz", string(archive(t, s, "tar.gz")))
	opt := Options{CacheDir: t.TempDir()}
	for _, where := range []string{"", s.dir, file} {
		if r := mustResolve(t, where, s.spec, opt); r.Epoch != s.spec.Epoch || r.Version != s.spec.Version || r.Commit != s.commit {
			t.Errorf("%s: recorded as %+v", where, r.Identity)
		}
	}
	// Another pin is another time, for an archive that is not read again as well.
	moved := s.spec
	moved.Epoch++
	if r := mustResolve(t, file, moved, opt); r.Epoch != moved.Epoch {
		t.Errorf("recorded as %+v", r.Identity)
	}
	other := s.spec
	other.Commit, other.Tree = strings.Repeat("1", 40), strings.Repeat("1", 40)
	for where, want := range map[string]int64{file: plainEpoch, s.dir: commitTime} {
		if r := mustResolve(t, where, other, opt); r.Pinned() || r.Epoch != want {
			t.Errorf("%s, which is not pinned: recorded as %+v", where, r.Identity)
		}
	}
}

// TestRefByExactName: a branch is not taken for another that ends in its name,
// and a tag goes before a branch, as git has it.
func TestRefByExactName(t *testing.T) {
	s := newSample(t)
	heads := map[string]string{"main": s.commit}
	for _, name := range []string{"aaa/main", "second", "both"} {
		git(t, s.dir, "checkout", "-q", "-b", name+"-work", s.commit)
		write(t, s.dir, "src/vm.c", name+"\n")
		git(t, s.dir, "commit", "-q", "-a", "-m", name)
		heads[name] = git(t, s.dir, "rev-parse", "HEAD")
		git(t, s.dir, "branch", name)
	}
	git(t, s.dir, "tag", "-a", "-m", "x", "both", "second-work")
	git(t, s.dir, "tag", "light", "second-work")
	git(t, s.dir, "checkout", "-q", "main")
	for ref, want := range map[string]string{
		"main": heads["main"], "aaa/main": heads["aaa/main"], "refs/heads/main": heads["main"], "heads/main": heads["main"], "HEAD": heads["main"],
		"both": heads["second"], "refs/heads/both": heads["both"], "refs/tags/both": heads["second"], "light": heads["second"], s.commit: s.commit,
		"ain": "", "a/main": "", "m*": "",
	} {
		got, err := resolveRef(t.Context(), "file://"+s.dir, ref, Options{})
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s is %q, want %q: %v", ref, got, want, err)
		}
	}
}

// tree lists the files of a staged directory and checks times and modes.
func tree(t testing.TB, dir string, more ...string) ([]string, map[string]string) {
	t.Helper()
	content := map[string]string{}
	executable := map[string]bool{"src/run.sh": true}
	for _, name := range more {
		executable[name] = true
	}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if !d.IsDir() {
			b, _ := os.ReadFile(p)
			content[filepath.ToSlash(rel)] = string(b)
		}
		if d.Type()&fs.ModeSymlink == 0 && info.ModTime().Unix() != commitTime && info.ModTime().Unix() != plainEpoch {
			t.Errorf("%s is dated %v", rel, info.ModTime())
		}
		want := fs.FileMode(0o644)
		if d.IsDir() || executable[filepath.ToSlash(rel)] {
			want = 0o755
		}
		if d.Type()&fs.ModeSymlink == 0 && info.Mode().Perm() != want {
			t.Errorf("%s has mode %v", rel, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(content)), content
}

func TestDirty(t *testing.T) {
	s := newSample(t)
	opt := Options{CacheDir: t.TempDir()}
	clean := mustResolve(t, s.dir, s.spec, opt)
	seen := map[string]bool{clean.Version: true}
	digests := map[string]bool{clean.Digest: true}
	for _, c := range []struct {
		name   string
		change func()
	}{
		{"a tracked file", func() { write(t, s.dir, "src/vm.c", "one\nTWO\nthree\n") }},
		{"the same file again", func() { write(t, s.dir, "src/vm.c", "one\nzwei\nthree\n") }},
		{"an untracked file", func() { write(t, s.dir, "src/deep/new.c", "new\n") }},
		{"a deleted file", func() { os.Remove(filepath.Join(s.dir, "src/deep/x.c")) }},
		{"a mode", func() { os.Chmod(filepath.Join(s.dir, "cmake/a.cmake"), 0o755) }},
	} {
		c.change()
		r := mustResolve(t, s.dir, s.spec, opt)
		if !r.Dirty || r.Pinned() || !strings.HasPrefix(r.Version, "20210325-dirty.") || r.Release != "20210325" || r.Commit != s.commit {
			t.Errorf("%s: %+v", c.name, r.Identity)
		}
		if strings.Contains(r.Origin, s.dir) || !strings.Contains(r.Origin, "uncommitted") {
			t.Errorf("%s: origin %q", c.name, r.Origin)
		}
		if seen[r.Version] || digests[r.Digest] {
			t.Errorf("%s: not told apart: %s", c.name, r.Version)
		}
		seen[r.Version], digests[r.Digest] = true, true
		if id, err := Identify(t.Context(), s.dir, s.spec, opt); err != nil || id != r.Identity {
			t.Errorf("%s: identified as %+v, %v", c.name, id, err)
		}
		if again := mustResolve(t, s.dir, s.spec, opt); !again.Reused {
			t.Errorf("%s: staged again", c.name)
		}
	}
	_, content := tree(t, mustResolve(t, s.dir, s.spec, Options{CacheDir: t.TempDir()}).Dir, "cmake/a.cmake")
	if content["src/vm.c"] != "one\nzwei\nthree\n" || content["src/deep/new.c"] != "new\n" || content["src/deep/x.c"] != "" {
		t.Errorf("staged %v", content)
	}
}

func TestIrrelevantChanges(t *testing.T) {
	s := newSample(t)
	opt := Options{CacheDir: t.TempDir()}
	want := mustResolve(t, s.dir, s.spec, opt)
	write(t, s.dir, "image/large.st", "other\n")
	write(t, s.dir, "image/new.st", "other\n")
	git(t, s.dir, "rm", "-q", "--cached", "src/vm.c")
	write(t, s.dir, ".git/info/exclude", "*.o\n")
	write(t, s.dir, "src/vm.o", "object\n")
	if r := mustResolve(t, s.dir, s.spec, opt); r.Dirty || r.Digest != want.Digest || r.Version != want.Version {
		t.Errorf("what is not built from makes it dirty: %+v", r.Identity)
	}
}

func TestOtherCommit(t *testing.T) {
	s := newSample(t)
	write(t, s.dir, "src/vm.c", "later\n")
	git(t, s.dir, "commit", "-q", "-a", "-m", "later")
	head := git(t, s.dir, "rev-parse", "HEAD")
	var logged []string
	opt := Options{CacheDir: t.TempDir(), Log: func(l string) { logged = append(logged, l) }}
	for _, where := range []string{s.dir, "file://" + s.dir + "#main", "file://" + s.dir} {
		r := mustResolve(t, where, s.spec, opt)
		if r.Version != "20210325-"+head[:8] || r.Commit != head || r.Pinned() || r.Dirty || r.Epoch != commitTime {
			t.Errorf("%s: %+v", where, r.Identity)
		}
	}
	if !slices.ContainsFunc(logged, func(l string) bool { return strings.Contains(l, head) && strings.Contains(l, "not pinned") }) {
		t.Errorf("the commit of a ref is not told: %q", logged)
	}
	if _, err := Resolve(t.Context(), "file://"+s.dir+"#nothing", s.spec, opt); err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("an unknown ref: %v", err)
	}
}

func TestPlainDirectory(t *testing.T) {
	dir := t.TempDir()
	for name, text := range sampleTree {
		write(t, dir, name, text)
	}
	spec := newSample(t).spec
	r := mustResolve(t, dir, spec, Options{CacheDir: t.TempDir()})
	if r.Version != "local" || r.Release != spec.Version || r.Pinned() || r.Epoch != plainEpoch || strings.Contains(r.Origin, dir) {
		t.Errorf("got %+v", r.Identity)
	}
	spec.Dir, spec.Commit, spec.Tree, spec.URL = dir, "", "", ""
	if r := mustResolve(t, "", spec, Options{CacheDir: t.TempDir()}); r.Version != spec.Version || !r.Pinned() || r.Epoch != spec.Epoch {
		t.Errorf("a source of this project: %+v", r.Identity)
	}
}

func TestReuse(t *testing.T) {
	s := newSample(t)
	patches := []patch.Patch{{Name: "p", Data: []byte("--- a/src/vm.c\n+++ b/src/vm.c\n@@ -2 +2 @@\n-two\n+2\n")}}
	opt := Options{CacheDir: t.TempDir(), Patches: func(release string) ([]patch.Patch, error) {
		if release != "20210325" {
			t.Errorf("patches asked for release %q", release)
		}
		return patches, nil
	}}
	first := mustResolve(t, s.dir, s.spec, opt)
	_, content := tree(t, first.Dir)
	if first.Reused || content["src/vm.c"] != "one\n2\nthree\n" || len(first.Changes) != 1 {
		t.Errorf("first: %+v, %q", first, content["src/vm.c"])
	}
	again := mustResolve(t, s.dir, s.spec, opt)
	if !again.Reused || again.Dir != first.Dir || again.Digest != first.Digest || len(again.Changes) != 1 {
		t.Errorf("again: %+v", again)
	}

	// A staged file that somebody edited is put right.
	if err := os.WriteFile(filepath.Join(first.Dir, "src/vm.c"), []byte("one\n3\nthree\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	mended := mustResolve(t, s.dir, s.spec, opt)
	if _, content := tree(t, mended.Dir); mended.Reused || content["src/vm.c"] != "one\n2\nthree\n" {
		t.Errorf("damaged staging is used: %+v", mended)
	}

	patches = nil
	if other := mustResolve(t, s.dir, s.spec, opt); other.Reused || other.Dir == first.Dir {
		t.Errorf("other patches, same staging: %+v", other)
	}
	patches = []patch.Patch{{Name: "bad.patch", Data: []byte("--- a/src/vm.c\n+++ b/src/vm.c\n@@ -2 +2 @@\n-nowhere\n+2\n")}}
	_, err := Resolve(t.Context(), s.dir, s.spec, opt)
	var hunk *patch.HunkError
	if !errors.As(err, &hunk) {
		t.Errorf("a patch that does not apply: %v", err)
	}
}

func TestConcurrent(t *testing.T) {
	s := newSample(t)
	opt := Options{CacheDir: t.TempDir()}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := Resolve(t.Context(), "", s.spec, opt); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestBadSources(t *testing.T) {
	s := newSample(t)
	dir := t.TempDir()
	write(t, dir, "README", "x")
	write(t, dir, "a.tar.xz", "x")
	write(t, dir, "short.tar.gz", string(archive(t, s, "tar.gz")[:200]))
	moved := s.spec
	moved.Tree = strings.Repeat("0", 40)
	for name, c := range map[string]struct {
		where string
		spec  Spec
		want  []string
	}{
		"no VM tree":         {dir, s.spec, []string{"not a VM source tree", "CMakeLists.txt", "vm"}},
		"missing":            {filepath.Join(dir, "gone"), s.spec, []string{"gone does not exist"}},
		"a file":             {filepath.Join(dir, "README"), s.spec, []string{"neither a directory nor"}},
		"unknown archive":    {filepath.Join(dir, "a.tar.xz"), s.spec, []string{".tar.gz, .tar or .zip"}},
		"cut short":          {filepath.Join(dir, "short.tar.gz"), s.spec, []string{"short.tar.gz", "fetch it again"}},
		"unknown ref":        {s.dir + "#nothing", s.spec, []string{"nothing"}},
		"the lock is wrong":  {s.dir, moved, []string{s.tree, moved.Tree, "lock file"}},
		"nothing pinned":     {"", Spec{Name: "vm", URL: s.dir}, []string{"lock file"}},
		"repository is gone": {"", Spec{Name: "vm", URL: filepath.Join(dir, "gone"), Commit: s.commit}, []string{"gone", "-source=DIR|ARCHIVE"}},
	} {
		t.Run(name, func(t *testing.T) {
			cache := t.TempDir()
			_, err := Resolve(t.Context(), c.where, c.spec, Options{CacheDir: cache})
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q lacks %q", err, w)
				}
			}
			nothingLeft(t, cache)
		})
	}
}

// nothingLeft asserts that the cache holds no staged source and nothing partial.
func nothingLeft(t testing.TB, cache string) {
	t.Helper()
	err := filepath.WalkDir(cache, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(p, ".lock") {
			t.Errorf("left behind: %s", p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestHostileArchives(t *testing.T) {
	spec := Spec{Name: "vm", Version: "1"}
	tarOf := func(headers ...tar.Header) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		w := tar.NewWriter(z)
		for _, h := range headers {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(w.Close(), z.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	zipOf := func(name string) []byte {
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		if _, err := w.Create(name); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for name, c := range map[string]struct {
		file string
		data []byte
		want string
	}{
		"climbs":          {"a.tar.gz", tarOf(tar.Header{Name: "d/../../x"}), "leads out"},
		"absolute":        {"a.tar.gz", tarOf(tar.Header{Name: "/etc/x"}), "leads out"},
		"zip climbs":      {"a.zip", zipOf("d/../../x"), "leads out"},
		"zip backslash":   {"a.zip", zipOf(`d\..\..\x`), "leads out"},
		"link out":        {"a.tar.gz", tarOf(tar.Header{Name: "d/x", Typeflag: tar.TypeSymlink, Linkname: "../../etc/passwd"}), "leads out of the source"},
		"absolute link":   {"a.tar.gz", tarOf(tar.Header{Name: "d/x", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), "leads out of the source"},
		"hard link":       {"a.tar.gz", tarOf(tar.Header{Name: "d/x", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}), "neither a file"},
		"device":          {"a.tar.gz", tarOf(tar.Header{Name: "d/x", Typeflag: tar.TypeChar}), "neither a file"},
		"twice":           {"a.tar.gz", tarOf(tar.Header{Name: "d/x"}, tar.Header{Name: "d/x"}), "twice"},
		"through a link":  {"a.tar.gz", tarOf(tar.Header{Name: "d/l", Typeflag: tar.TypeSymlink, Linkname: "."}, tar.Header{Name: "d/l/x"}), "both as a file and as a directory"},
		"empty":           {"a.tar.gz", tarOf(), "empty"},
		"no archive":      {"a.tar.gz", []byte("hello, this is no archive at all"), "cannot be read"},
		"no zip":          {"a.zip", []byte("hello"), "a.zip"},
		"nothing in file": {"a.tar", nil, "cut short"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), c.file)
			if err := os.WriteFile(file, c.data, 0o644); err != nil {
				t.Fatal(err)
			}
			cache := t.TempDir()
			_, err := Resolve(t.Context(), file, spec, Options{CacheDir: cache})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			nothingLeft(t, cache)
		})
	}
}

// quick makes downloads give up without pausing.
func quick(t *testing.T) {
	old := firstPause
	firstPause = time.Microsecond
	t.Cleanup(func() { firstPause = old })
}

func TestDownload(t *testing.T) {
	quick(t)
	s := newSample(t)
	data := archive(t, s, "tar.gz")
	sum := sha256.Sum256(data)
	good := hex.EncodeToString(sum[:])
	wrong := strings.Repeat("0", 64)
	const etag = `"v1"`
	for name, c := range map[string]struct {
		sum, tree string
		serve     func(n int64, w http.ResponseWriter, r *http.Request)
		verified  string
		want      []string // of the error
		attempts  int64
	}{
		"sha256 and tree": {good, s.tree, func(_ int64, w http.ResponseWriter, _ *http.Request) { w.Write(data) }, "sha256, git tree", nil, 1},
		"sha256":          {good, "", func(_ int64, w http.ResponseWriter, _ *http.Request) { w.Write(data) }, "sha256", nil, 1},
		"packed anew":     {wrong, s.tree, func(_ int64, w http.ResponseWriter, _ *http.Request) { w.Write(data) }, "git tree", nil, 1},
		"wrong sha256": {wrong, "", func(_ int64, w http.ResponseWriter, _ *http.Request) { w.Write(data) }, "",
			[]string{"wrong checksum", good, wrong}, 1},
		"wrong tree": {"", strings.Repeat("1", 40), func(_ int64, w http.ResponseWriter, _ *http.Request) { w.Write(data) }, "",
			[]string{"wrong checksum", "git tree", strings.Repeat("1", 40)}, 1},
		"gone": {good, "", func(_ int64, w http.ResponseWriter, _ *http.Request) { http.Error(w, "x", 404) }, "",
			[]string{"404", "/vm.tar.gz", "-source=DIR|ARCHIVE"}, 1},
		"busy, then well": {good, "", func(n int64, w http.ResponseWriter, _ *http.Request) {
			if n < 3 {
				http.Error(w, "x", 503)
				return
			}
			w.Write(data)
		}, "sha256", nil, 3},
		"always busy": {good, "", func(_ int64, w http.ResponseWriter, _ *http.Request) { http.Error(w, "x", 502) }, "",
			[]string{"gave up after 4 attempts", "502"}, 4},
		"cut, then resumed": {good, "", func(n int64, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", etag)
			if n == 1 {
				cut(w, data)
				return
			}
			from, _ := strconv.Atoi(strings.Trim(r.Header.Get("Range"), "bytes=-"))
			if r.Header.Get("If-Range") != etag || from == 0 {
				http.Error(w, "no range asked", 400)
				return
			}
			w.WriteHeader(http.StatusPartialContent)
			w.Write(data[from:])
		}, "sha256", nil, 2},
		"cut, then whole": {good, "", func(n int64, w http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				cut(w, data)
				return
			}
			w.Write(data)
		}, "sha256", nil, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.serve(asked.Add(1), w, r) }))
			defer srv.Close()
			spec := s.spec
			spec.URL, spec.ArchiveURL, spec.ArchiveSHA256, spec.Tree = "", srv.URL+"/vm.tar.gz", c.sum, c.tree
			cache := t.TempDir()
			var last Progress
			r, err := Resolve(t.Context(), "", spec, Options{CacheDir: cache, Progress: func(p Progress) { last = p }})
			if asked.Load() != c.attempts {
				t.Errorf("%d attempts, want %d", asked.Load(), c.attempts)
			}
			if c.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				if r.Verified != c.verified || last.Done != int64(len(data)) || last.URL != spec.ArchiveURL {
					t.Errorf("verified %q, progress %+v", r.Verified, last)
				}
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q lacks %q", err, w)
				}
			}
			nothingLeft(t, cache)
		})
	}
}

// cut sends half of the data and closes the connection.
func cut(w http.ResponseWriter, data []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.Write(data[:len(data)/2])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func TestUnreachable(t *testing.T) {
	s := newSample(t)
	spec := s.spec
	spec.URL, spec.ArchiveURL = "https://127.0.0.1:1/vm.git", "http://127.0.0.1:1/vm.tar.gz"
	_, err := Resolve(t.Context(), "", spec, Options{CacheDir: t.TempDir()})
	for _, w := range []string{spec.URL, spec.ArchiveURL, "-source=DIR|ARCHIVE"} {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%v lacks %q", err, w)
		}
	}
}

func TestCtrlC(t *testing.T) {
	s := newSample(t)
	stop := errors.New("stopped by the user")
	ctx, cancel := context.WithCancelCause(t.Context())
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write(make([]byte, 1<<16))
		w.(http.Flusher).Flush()
		cancel(stop)
		<-r.Context().Done()
	}))
	defer srv.Close()
	spec := s.spec
	spec.ArchiveURL = srv.URL + "/vm.tar.gz"
	cache := t.TempDir()
	_, err := Resolve(ctx, "", spec, Options{CacheDir: cache, Git: "none"})
	if !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, cache)
}

func TestFullDisk(t *testing.T) {
	s := newSample(t)
	cache := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", cache).CombinedOutput(); err != nil {
		t.Skipf("needs a small disk, which only root can make: %s", out)
	}
	defer exec.Command("umount", "-l", cache).Run()
	write(t, s.dir, "src/large.c", strings.Repeat("x", 256<<10))
	_, err := Resolve(t.Context(), s.dir, s.spec, Options{CacheDir: cache})
	if err == nil || !strings.Contains(err.Error(), "VMBUILD_CACHE") {
		t.Fatalf("got %v", err)
	}
	nothingLeft(t, cache)
}
