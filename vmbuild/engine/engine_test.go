package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"pharovm/vmbuild/engine"
	"pharovm/vmbuild/internal/testengine"
)

var (
	amd64 = ocispecs.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = ocispecs.Platform{OS: "linux", Architecture: "arm64"}
)

// open opens an engine for the test.
func open(t *testing.T, spec string, opt engine.Options) engine.Engine {
	t.Helper()
	e, err := engine.Open(t.Context(), spec, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// job runs a script in a root that holds only busybox, without network. Its
// result is what the script leaves in /out; the local source src is in /src.
func job(t *testing.T, id string, platform ocispecs.Platform, script string) engine.Job {
	t.Helper()
	root := llb.Scratch().File(llb.Copy(llb.Local("busybox"), "/bin/busybox", "/bin/busybox", &llb.CopyInfo{CreateDestPath: true}))
	run := root.Run(llb.Args([]string{"/bin/busybox", "sh", "-c", script}),
		llb.AddEnv("PATH", "/bin"), llb.Network(pb.NetMode_NONE), llb.WithCustomName("compile "+id))
	run.AddMount("/src", llb.Local("src"), llb.Readonly)
	return marshal(t, id, platform, run.AddMount("/out", llb.Scratch()))
}

func marshal(t *testing.T, id string, platform ocispecs.Platform, st llb.State) engine.Job {
	t.Helper()
	def, err := st.Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return engine.Job{ID: id, Platform: platform, Definition: def}
}

func locals(t *testing.T, files map[string]string) map[string]string {
	t.Helper()
	src := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return map[string]string{"busybox": testengine.Busybox(t), "src": src}
}

// tree lists a folder's files with their content and mode.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case info.Mode().IsRegular():
			dt, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%s %v %q\n", rel, info.Mode(), dt)
		case info.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(p)
			fmt.Fprintf(&b, "%s -> %s\n", rel, to)
		case !strings.HasPrefix(rel, ".solve"):
			fmt.Fprintf(&b, "%s %v\n", rel, info.Mode())
		default:
			fmt.Fprintf(&b, "left behind: %s\n", rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(b.String(), ".solve.lock -rw------- \"\"\n", "")
}

// TestSameResult builds one request on every kind of engine.
func TestSameResult(t *testing.T) {
	docker := testengine.Docker(t)
	unix := testengine.Buildkitd(t)
	engines := []struct{ spec, name string }{
		{"private", "private"},
		{"docker://" + strings.TrimPrefix(docker, "unix://"), "docker " + docker},
		{unix, "buildkit " + unix},
		{"linux/arm64=" + unix + ",linux/amd64=docker://" + docker, "linux/amd64=docker " + docker + ", linux/arm64=buildkit " + unix},
	}
	src := locals(t, map[string]string{"vm.c": "int main;\n"})
	script := `cp /src/vm.c /out/pharo; chmod 755 /out/pharo; mkdir /out/lib; ln -s ../pharo /out/lib/vm; echo %s >/out/id; ls /sys/class/net >/out/net`
	req := engine.Request{Locals: src, Jobs: []engine.Job{
		job(t, "vm-linux-amd64", amd64, fmt.Sprintf(script, "one")),
		job(t, "vm-linux-arm64", arm64, fmt.Sprintf(script, "two")),
		marshal(t, "copied", amd64, llb.Scratch().File(llb.Copy(llb.Local("src"), "/vm.c", "/vm.c"))),
		job(t, "empty", amd64, "true"),
	}}
	const want = `. drwxr-xr-x
copied drwxr-xr-x
copied/vm.c -rw-r--r-- "int main;\n"
empty drwxr-xr-x
vm-linux-amd64 drwxr-xr-x
vm-linux-amd64/id -rw-r--r-- "one\n"
vm-linux-amd64/lib drwxr-xr-x
vm-linux-amd64/lib/vm -> ../pharo
vm-linux-amd64/net -rw-r--r-- "lo\n"
vm-linux-amd64/pharo -rwxr-xr-x "int main;\n"
vm-linux-arm64 drwxr-xr-x
vm-linux-arm64/id -rw-r--r-- "two\n"
vm-linux-arm64/lib drwxr-xr-x
vm-linux-arm64/lib/vm -> ../pharo
vm-linux-arm64/net -rw-r--r-- "lo\n"
vm-linux-arm64/pharo -rwxr-xr-x "int main;\n"
`
	for _, c := range engines {
		t.Run(strings.SplitN(c.name, " ", 2)[0], func(t *testing.T) {
			e := open(t, c.spec, testengine.Options(t))
			if e.Name() != c.name {
				t.Errorf("name is %q, want %q", e.Name(), c.name)
			}
			out := t.TempDir()
			for range 2 { // the second replaces what the first wrote
				names := map[string]bool{}
				if err := watch(t, e, req, out, func(v *client.Vertex) { names[v.Name] = true }); err != nil {
					t.Fatal(err)
				}
				if got := tree(t, out); got != want {
					t.Errorf("got\n%s\nwant\n%s", got, want)
				}
				if !names["compile vm-linux-amd64"] || !names["compile vm-linux-arm64"] {
					t.Errorf("progress lacks a step: %v", names)
				}
			}
		})
	}
}

// watch solves and calls see with every vertex of the progress.
func watch(t *testing.T, e engine.Engine, req engine.Request, out string, see func(*client.Vertex)) error {
	t.Helper()
	return watchContext(t.Context(), e, req, out, see)
}

func watchContext(ctx context.Context, e engine.Engine, req engine.Request, out string, see func(*client.Vertex)) error {
	status := make(chan *client.SolveStatus)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := range status {
			for _, v := range s.Vertexes {
				see(v)
			}
		}
	}()
	err := e.Solve(ctx, req, out, status)
	<-done // Solve must close it
	return err
}

// fatal fails the test with the log of the step that failed.
func fatal(t *testing.T, err error) {
	t.Helper()
	if step := (*engine.StepError)(nil); errors.As(err, &step) {
		t.Fatalf("%v\n%s", err, step.Log)
	}
	t.Fatal(err)
}

func TestFailingStep(t *testing.T) {
	for _, spec := range []string{"private", "docker://" + testengine.Docker(t)} {
		t.Run(spec[:6], func(t *testing.T) {
			e := open(t, spec, testengine.Options(t))
			out := t.TempDir()
			src := locals(t, nil)
			good := engine.Request{Locals: src, Jobs: []engine.Job{job(t, "good", amd64, "echo 1 >/out/f")}}
			if err := e.Solve(t.Context(), good, out, nil); err != nil {
				t.Fatal(err)
			}
			before := tree(t, out)

			bad := engine.Request{Locals: src, Jobs: []engine.Job{
				job(t, "good", amd64, "echo 2 >/out/f"),
				job(t, "slow", amd64, "sleep 600"),
				job(t, "bad", amd64, "for i in 1 2 3; do echo line $i; done; echo no such plugin >&2; exit 7"),
			}}
			seen := map[string]string{}
			err := watch(t, e, bad, out, func(v *client.Vertex) { seen[v.Digest.String()] = v.Name })
			var step *engine.StepError
			if !errors.As(err, &step) {
				t.Fatalf("got %v, want a StepError", err)
			}
			if want := `build bad: step "compile bad" failed with exit code 7`; err.Error() != want {
				t.Errorf("got %q, want %q", err, want)
			}
			if step.ExitCode != 7 || step.Jobs[0] != "bad" || len(step.Jobs) != 1 {
				t.Errorf("got exit code %d of %v", step.ExitCode, step.Jobs)
			}
			if want := "line 1\nline 2\nline 3\nno such plugin\n"; !sameLines(step.Log, want) {
				t.Errorf("log is %q, want %q", step.Log, want)
			}
			if seen[step.Vertex.String()] != "compile bad" {
				t.Errorf("progress does not know vertex %s", step.Vertex)
			}
			if after := tree(t, out); after != before {
				t.Errorf("a failed build changed the output to\n%s", after)
			}
		})
	}
}

// sameLines ignores order, as stdout and stderr are two streams.
func sameLines(a, b string) bool {
	count := map[string]int{}
	for l := range strings.Lines(a) {
		count[l]++
	}
	for l := range strings.Lines(b) {
		count[l]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

// TestSharedStep fails in a step that several builds need.
func TestSharedStep(t *testing.T) {
	e := open(t, "private", testengine.Options(t))
	root := llb.Scratch().File(llb.Copy(llb.Local("src"), "/missing", "/x"), llb.WithCustomName("unpack the builder"))
	req := engine.Request{Locals: locals(t, nil), Jobs: []engine.Job{
		marshal(t, "a", amd64, root.File(llb.Mkfile("/a", 0o644, nil))),
		marshal(t, "b", arm64, root.File(llb.Mkfile("/b", 0o644, nil))),
	}}
	err := e.Solve(t.Context(), req, t.TempDir(), nil)
	var step *engine.StepError
	if !errors.As(err, &step) {
		t.Fatalf("got %v, want a StepError", err)
	}
	if len(step.Jobs) != 2 || step.ExitCode != 0 || step.Step != "unpack the builder" {
		t.Errorf("got jobs %v, exit code %d, step %q", step.Jobs, step.ExitCode, step.Step)
	}
	for _, want := range []string{"and 1 more", "unpack the builder", "/missing", "not found"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
}

func TestCancel(t *testing.T) {
	for _, spec := range []string{"private", "docker://" + testengine.Docker(t)} {
		t.Run(spec[:6], func(t *testing.T) {
			e := open(t, spec, testengine.Options(t))
			out := filepath.Join(t.TempDir(), "out")
			ctx, cancel := context.WithCancel(t.Context())
			req := engine.Request{Locals: locals(t, nil), Jobs: []engine.Job{
				job(t, "done", amd64, "echo 1 >/out/f"),
				job(t, "slow", amd64, "sleep 600"),
			}}
			err := watchContext(ctx, e, req, out, func(v *client.Vertex) {
				if v.Name == "compile slow" && v.Started != nil {
					cancel()
				}
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want context.Canceled", err)
			}
			if got, want := tree(t, out), ". drwxr-xr-x\n"; got != want {
				t.Errorf("left in the output:\n%s", got)
			}
			// The engine goes on working.
			req.Jobs = req.Jobs[:1]
			if err := e.Solve(t.Context(), req, out, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCancelOneOfTwo stops one of two runs that share a running step, which
// the engine does only once; the other must get its result.
func TestCancelOneOfTwo(t *testing.T) {
	for _, spec := range []string{"private", "docker://" + testengine.Docker(t)} {
		t.Run(spec[:6], func(t *testing.T) {
			opt := testengine.Options(t)
			first, second := open(t, spec, opt), open(t, spec, opt)
			src := locals(t, map[string]string{"run": t.TempDir()})
			// The two have folders of their own with the same content.
			copied := locals(t, nil)
			if err := os.CopyFS(copied["src"], os.DirFS(src["src"])); err != nil {
				t.Fatal(err)
			}
			file := time.Unix(1e9, 0)
			for _, dir := range []string{src["src"], copied["src"]} {
				for _, name := range []string{"run", "."} {
					if err := os.Chtimes(filepath.Join(dir, name), file, file); err != nil {
						t.Fatal(err)
					}
				}
			}
			one := job(t, "a", amd64, "cat /src/run; sleep 1; echo >/out/f")
			ctx, cancel := context.WithCancel(t.Context())
			firstErr := make(chan error)
			begun := make(chan struct{})
			var once sync.Once
			go func() {
				firstErr <- watchContext(ctx, first, engine.Request{Locals: src, Jobs: []engine.Job{one}}, t.TempDir(), func(v *client.Vertex) {
					if v.Name == "compile a" && v.Started != nil {
						once.Do(func() { close(begun) })
					}
				})
			}()
			<-begun
			out := t.TempDir()
			err := watch(t, second, engine.Request{Locals: copied, Jobs: []engine.Job{one}}, out, func(v *client.Vertex) {
				if v.Name == "compile a" && v.Started != nil {
					cancel()
				}
			})
			if err != nil {
				fatal(t, err)
			}
			if err := <-firstErr; !errors.Is(err, context.Canceled) {
				t.Errorf("the first: got %v, want context.Canceled", err)
			}
			if got, want := tree(t, out), ". drwxr-xr-x\na drwxr-xr-x\na/f -rw-r--r-- \"\\n\"\n"; got != want {
				t.Errorf("got\n%s", got)
			}
		})
	}
}

// TestSameSizeAndTime changes a source in a way that its size and time do not
// show, as a patch to a tree with fixed times does.
func TestSameSizeAndTime(t *testing.T) {
	for _, spec := range []string{"private", "docker://" + testengine.Docker(t)} {
		t.Run(spec[:6], func(t *testing.T) {
			e := open(t, spec, testengine.Options(t))
			src, out := locals(t, nil), t.TempDir()
			req := engine.Request{Locals: src, Jobs: []engine.Job{
				marshal(t, "copy", amd64, llb.Scratch().File(llb.Copy(llb.Local("src"), "/vm.c", "/vm.c"))),
			}}
			for _, text := range []string{"AAAA", "BBBB"} {
				file := filepath.Join(src["src"], "vm.c")
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				if err := os.Chtimes(file, time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
					t.Fatal(err)
				}
				if err := e.Solve(t.Context(), req, out, nil); err != nil {
					t.Fatal(err)
				}
				if dt, err := os.ReadFile(filepath.Join(out, "copy", "vm.c")); string(dt) != text {
					t.Errorf("got %q %v, want %q", dt, err, text)
				}
			}
		})
	}
}

func TestUsageAndPrune(t *testing.T) {
	e := open(t, "private", testengine.Options(t))
	req := engine.Request{Locals: locals(t, nil), Jobs: []engine.Job{job(t, "a", amd64, "dd if=/dev/zero of=/out/zero bs=1M count=3")}}
	if err := e.Solve(t.Context(), req, t.TempDir(), nil); err != nil {
		fatal(t, err)
	}
	du, err := e.DiskUsage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	for _, r := range du {
		size += r.Size
	}
	if size < 3<<20 {
		t.Errorf("uses %d bytes, want at least the 3 MB it wrote", size)
	}
	if _, err := open(t, "docker://"+testengine.Docker(t), engine.Options{}).DiskUsage(t.Context()); err != nil {
		t.Error(err)
	}
	freed, err := e.Prune(t.Context(), client.PruneAll)
	if err != nil || freed < 3<<20 {
		t.Errorf("freed %d bytes, %v; it used %d", freed, err, size)
	}
}

func TestBadRequest(t *testing.T) {
	e := open(t, testengine.Buildkitd(t), engine.Options{})
	ok := marshal(t, "ok", amd64, llb.Scratch().File(llb.Mkdir("/a", 0o755)))
	cases := map[string]struct {
		req  engine.Request
		want string
	}{
		"no jobs":      {engine.Request{}, "no jobs"},
		"path as ID":   {engine.Request{Jobs: []engine.Job{{ID: "../x", Definition: ok.Definition}}}, `"../x"`},
		"twice":        {engine.Request{Jobs: []engine.Job{ok, ok}}, "twice"},
		"no steps":     {engine.Request{Jobs: []engine.Job{{ID: "x"}}}, "x has no steps"},
		"missing dir":  {engine.Request{Jobs: []engine.Job{ok}, Locals: map[string]string{"src": "/no/such"}}, "local source src"},
		"file as dir":  {engine.Request{Jobs: []engine.Job{ok}, Locals: map[string]string{"src": "engine_test.go"}}, "not a folder"},
		"absent local": {engine.Request{Jobs: []engine.Job{marshal(t, "x", amd64, llb.Scratch().File(llb.Copy(llb.Local("gone"), "/a", "/a")))}}, "gone"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			status := make(chan *client.SolveStatus, 100)
			err := e.Solve(t.Context(), c.req, t.TempDir(), status)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want something with %q", err, c.want)
			}
			for range status { // closed even so
			}
		})
	}
}

// TestKilledRun cleans up what a killed run left in the output folder, but
// not what a live one is about to finish.
func TestKilledRun(t *testing.T) {
	e := open(t, testengine.Buildkitd(t), engine.Options{})
	out := t.TempDir()
	if err := os.MkdirAll(filepath.Join(out, ".solve-123", "new", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	outer := engine.Request{Locals: locals(t, nil), Jobs: []engine.Job{job(t, "outer", amd64, "sleep 0.2; echo >/out/f")}}
	inner := engine.Request{Jobs: []engine.Job{marshal(t, "inner", amd64, llb.Scratch().File(llb.Mkdir("/a", 0o755)))}}
	var innerErr error
	ran := false
	err := watch(t, e, outer, out, func(v *client.Vertex) {
		if v.Name == "compile outer" && v.Started != nil && !ran {
			ran = true
			innerErr = e.Solve(t.Context(), inner, out, nil)
		}
	})
	if err != nil || innerErr != nil || !ran {
		t.Fatal(err, innerErr, ran)
	}
	want := ". drwxr-xr-x\ninner drwxr-xr-x\ninner/a drwxr-xr-x\nouter drwxr-xr-x\nouter/f -rw-r--r-- \"\\n\"\n"
	if got := tree(t, out); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
