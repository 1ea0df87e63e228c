package vmbuild_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/validate"

	"pharovm/vmbuild"
	"pharovm/vmbuild/oci"
)

// catalogue copies what a user may edit into a folder of the test's own.
func catalogue(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, part := range []string{"sources", "profiles", "patches", "images", "testdata/sample"} {
		if err := os.CopyFS(filepath.Join(dir, part), os.DirFS(filepath.Join("..", part))); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, "../go.mod", filepath.Join(dir, "go.mod"))
	return dir
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// edit changes a file in place, and fails if there is nothing to change.
func edit(t *testing.T, file, pattern, with string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	re := regexp.MustCompile(pattern)
	if !re.Match(data) {
		t.Fatalf("%s has nothing like %s", file, pattern)
	}
	if err := os.WriteFile(file, re.ReplaceAll(data, []byte(with)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// sampleTree is a copy of the sample VM.
func sampleTree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "sample")
	if err := os.CopyFS(dir, os.DirFS("../testdata/sample")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// holding is a sample VM whose configure step says "holding" and its folder, and
// then goes on for longer than any test.
func holding(t *testing.T) string {
	t.Helper()
	dir := sampleTree(t)
	edit(t, filepath.Join(dir, "CMakeLists.txt"), `(?m)^if\(NOT SPUR_OBJECT_MODEL\)`,
		"message(NOTICE \"holding "+dir+"\")\nexecute_process(COMMAND sleep "+nap(dir)+")\n$0")
	return dir
}

// nap is for how long the steps of a holding tree wait, in seconds: told apart
// from those of other trees by the fraction.
func nap(dir string) string { return fmt.Sprintf("1000.%d", crc32.ChecksumIEEE([]byte(dir))) }

// small is the least that is a whole run: one VM and its image.
func small() vmbuild.Options {
	o := sample("private")
	o.Images, o.Platforms = []string{"scratch"}, []string{"linux/amd64"}
	return o
}

// published is a project with the output of an earlier run in dist/, and a check
// that this output is still as it was, and nothing beside it.
func published(t *testing.T, dir string) (p *vmbuild.Project, intact func(t *testing.T)) {
	t.Helper()
	p = project(t, dir)
	return p, build(t, p)
}

func build(t *testing.T, p *vmbuild.Project) (intact func(t *testing.T)) {
	t.Helper()
	if _, err := p.Build(t.Context(), small()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Multiarch(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := outputs(t, p.Dist)
	return func(t *testing.T) {
		t.Helper()
		after := outputs(t, p.Dist)
		for _, name := range slices.Sorted(maps.Keys(before)) {
			if after[name] != before[name] {
				t.Errorf("dist/%s is gone or changed", name)
			}
			delete(after, name)
		}
		if len(after) > 0 {
			t.Errorf("left in dist/: %v", slices.Sorted(maps.Keys(after)))
		}
		valid(t, p.Dist)
	}
}

// outputs are the digests of all files in dist/ but the log of the last run and
// locks.
func outputs(t *testing.T, dist string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dist, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() == "build.log" || strings.HasSuffix(d.Name(), "lock") {
			return err
		}
		rel, _ := filepath.Rel(dist, path)
		if d.IsDir() {
			out[rel] = "folder"
			return nil
		}
		data, err := os.ReadFile(path)
		sum := sha256.Sum256(data)
		out[rel] = hex.EncodeToString(sum[:])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// valid reads all that a layout holds, and checks every digest on the way.
func valid(t *testing.T, dist string) (refs []string) {
	t.Helper()
	l := oci.Open(filepath.Join(dist, "oci"))
	entries, err := l.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		refs = append(refs, e.Ref)
		if e.Index {
			index, err := l.Index(e.Name)
			if err == nil {
				err = validate.Index(index)
			}
			if err != nil {
				t.Errorf("index %s: %v", e.Name, err)
			}
			continue
		}
		img, err := l.Image(e.Name, *e.Platform)
		if err == nil {
			err = validate.Image(img)
		}
		if err != nil {
			t.Errorf("image %s: %v", e.Ref, err)
		}
	}
	return refs
}

// says checks that an error has each of the words, and no word of Go's.
func says(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	t.Logf("the user sees:\n%v", err)
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error lacks %q:\n%v", w, err)
		}
	}
	for _, noise := range []string{"rpc error", "%!", "failed to solve", "Get \""} {
		if strings.Contains(err.Error(), noise) {
			t.Errorf("the error says %q:\n%v", noise, err)
		}
	}
}

// upon calls do once, when a line with text is written.
func upon(t *testing.T, p *vmbuild.Project, text string, do func()) (happened func() bool) {
	t.Helper()
	w := &listener{to: p.Log, text: text, do: do}
	p.Log = w
	t.Cleanup(func() { p.Log = w.to })
	return func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.done }
}

type listener struct {
	mu   sync.Mutex
	to   io.Writer
	text string
	seen []byte
	done bool
	do   func()
}

func (l *listener) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, b...)
	if !l.done && bytes.Contains(l.seen, []byte(l.text)) {
		l.done = true
		l.do()
	}
	return l.to.Write(b)
}

// TestUnknownNames asks for what is not there: the error says what is, and the
// nearest.
func TestUnknownNames(t *testing.T) {
	p, intact := published(t, "..")
	own := filepath.Join(t.TempDir(), "own.yaml")
	text := "name: own\ndescription: test\nextends: server\nleave-out:\n  - names: [SoketPlugin]\n    why: not needed\n"
	if err := os.WriteFile(own, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	for what, c := range map[string]struct {
		ask   func(*vmbuild.Options)
		words []string
	}{
		"platform":         {func(o *vmbuild.Options) { o.Platforms = []string{"linux/arm46"} }, []string{`"linux/arm46"`, "did you mean linux/arm64?", "linux/amd64"}},
		"short platform":   {func(o *vmbuild.Options) { o.Platforms = []string{"amd64"} }, []string{`"amd64"`, "did you mean linux/amd64?"}},
		"profile":          {func(o *vmbuild.Options) { o.Profile = "sever" }, []string{`"sever"`, "did you mean server?", "alpine-2020"}},
		"profile file":     {func(o *vmbuild.Options) { o.Profile = "./gone.yaml" }, []string{"./gone.yaml", "server"}},
		"plugin":           {func(o *vmbuild.Options) { o.Profile = own }, []string{own + ":5", "SoketPlugin", "did you mean SocketPlugin?"}},
		"image":            {func(o *vmbuild.Options) { o.Images = []string{"alpin"} }, []string{`"alpin"`, "did you mean alpine?", "scratch-tls"}},
		"source":           {func(o *vmbuild.Options) { o.Source = "sampel" }, []string{`"sampel"`, "did you mean sample?", "checkout", "URL#"}},
		"version":          {func(o *vmbuild.Options) { o.Version = "1.0" }, []string{`"1.0"`, "did you mean 1.0.0?"}},
		"progress":         {func(o *vmbuild.Options) { o.Progress = "plian" }, []string{`"plian"`, "did you mean plain?", "rawjson"}},
		"engine":           {func(o *vmbuild.Options) { o.Engine = "dokcer" }, []string{`"dokcer"`, "not an engine", "docker", "private", "unix://"}},
		"no such folder":   {func(o *vmbuild.Options) { o.Source = "/gone/away" }, []string{"/gone/away", "not there", "checkout", "sample"}},
		"no VM tree":       {func(o *vmbuild.Options) { o.Source = empty }, []string{empty, "not a VM source tree", "platforms/minheadless/common/sqMain.c"}},
		"neither nor":      {func(o *vmbuild.Options) { o.Source = own }, []string{own, "neither a directory nor", ".tar.gz"}},
		"two bad at once":  {func(o *vmbuild.Options) { o.Progress, o.Engine = "plian", "dokcer" }, []string{"plian", "dokcer"}},
		"base of no image": {func(o *vmbuild.Options) { o.Bases = map[string]string{"alpin": "x"} }, []string{`"alpin"`, "did you mean alpine?"}},
	} {
		t.Run(what, func(t *testing.T) {
			o := small()
			c.ask(&o)
			_, err := p.Build(t.Context(), o)
			says(t, err, c.words...)
			intact(t)
		})
	}
}

// TestNoEngine has nothing to build with.
func TestNoEngine(t *testing.T) {
	p, intact := published(t, "..")
	o := small()
	o.Source = sampleTree(t)
	edit(t, filepath.Join(o.Source, "vm/main.c"), `\z`, "/* not built before */\n")
	o.Engine = "unix:///nonexistent/buildkitd.sock"
	_, err := p.Build(t.Context(), o)
	says(t, err, "/nonexistent/buildkitd.sock does not answer", "no such file", "-engine")
	intact(t)
	t.Setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
	t.Setenv("BUILDKIT_HOST", "")
	p.Cache = noRoom(t, p.Cache)
	o.Engine = "auto"
	_, err = p.Build(t.Context(), o)
	says(t, err, "no engine to build with", "/nonexistent/docker.sock", "BUILDKIT_HOST", "private", "set VMBUILD_CACHE to a shorter folder")
	intact(t)
}

// noRoom is a cache with a name too long for the socket of a private engine.
func noRoom(t *testing.T, cache string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(cache, "bases"), filepath.Join(dir, "bases")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestEngineDies kills buildkitd while it compiles.
func TestEngineDies(t *testing.T) {
	p, intact := published(t, "..")
	o := small()
	o.Source = holding(t)
	killed := upon(t, p, "holding "+o.Source, func() {
		data, err := os.ReadFile(filepath.Join(p.Cache, "engine", "buildkitd.pid"))
		if err != nil {
			t.Error(err)
			return
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err != nil {
			t.Error(err)
		}
	})
	_, err := p.Build(t.Context(), o)
	if !killed() {
		t.Fatalf("the engine was not killed: %v", err)
	}
	says(t, err, "engine private", "stopped answering", "buildkitd.log", "start the same command again")
	intact(t)
	// The next run finds an engine, and all that was built before.
	forget(t, p)
	r, err := p.Build(t.Context(), small())
	if err != nil {
		t.Fatal(err)
	}
	if r.Engine != "private" {
		t.Errorf("the next run was on engine %q", r.Engine)
	}
	if left, _ := exec.Command("pgrep", "-f", "^sleep "+nap(o.Source)+"$").Output(); len(left) > 0 {
		t.Errorf("processes of the dead engine go on: %s", left)
	}
}
