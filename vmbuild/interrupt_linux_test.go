package vmbuild_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"pharovm/vmbuild"
)

// TestFullDisk has no room left for what a run makes.
func TestFullDisk(t *testing.T) {
	t.Run("dist", func(t *testing.T) {
		p := project(t, "..")
		smallDisk(t, p.Dist, "8m")
		intact := build(t, p)
		o := small()
		o.Images = []string{"scratch-tls", "debian"}
		_, err := p.Build(t.Context(), o)
		says(t, err, "no space left on device", "free some room", "VMBUILD_DIST")
		intact(t)
	})
	t.Run("cache", func(t *testing.T) {
		p, intact := published(t, "..")
		smallDisk(t, filepath.Join(p.Cache, "builds"), "100k")
		_, err := p.Build(t.Context(), small())
		says(t, err, "no space left on device", "free some room", "VMBUILD_CACHE")
		intact(t)
		if left, _ := filepath.Glob(filepath.Join(p.Cache, "builds", "incoming-*")); len(left) > 0 {
			t.Errorf("left in the cache: %v", left)
		}
	})
}

func smallDisk(t *testing.T, dir, size string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// TestInterrupted stops a run in each of its stages.
func TestInterrupted(t *testing.T) {
	t.Setenv("DOCKER_HOST", "unix:///nonexistent") // so that none is loaded into
	p, intact := published(t, "..")
	stop := errors.New("stopped by the test")
	started := make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		w.Write(make([]byte, 1000))
		w.(http.Flusher).Flush()
		started <- struct{}{}
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)

	t.Run("fetching a source", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { <-started; cancel(stop) }()
		o := small()
		o.Source = server.URL + "/vm.tar.gz"
		if _, err := p.Build(ctx, o); !errors.Is(err, stop) {
			t.Errorf("got %v", err)
		}
		intact(t)
	})
	t.Run("looking for a base", func(t *testing.T) {
		t.Setenv("VMBUILD_MIRROR", strings.TrimPrefix(server.URL, "http://"))
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { <-started; cancel(stop) }()
		o := small()
		o.Offline = false
		if _, err := p.Build(ctx, o); !errors.Is(err, stop) {
			t.Errorf("got %v", err)
		}
		intact(t)
	})
	t.Run("compiling", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		o := small()
		o.Source = holding(t)
		upon(t, p, "holding "+o.Source, func() { cancel(stop) })
		if _, err := p.Build(ctx, o); !errors.Is(err, stop) {
			t.Errorf("got %v", err)
		}
		intact(t)
	})
	t.Run("making images", func(t *testing.T) {
		o := small()
		o.Images = []string{"scratch-tls", "debian"}
		if _, err := project(t, "..").Build(t.Context(), o); err != nil { // so that both VMs are there
			t.Fatal(err)
		}
		runs := 0
		for after := int64(1); ; after *= 2 {
			ctx := &fragile{Context: t.Context(), done: make(chan struct{})}
			ctx.left.Store(1 << 40)
			upon(t, p, "nothing to compile", func() { ctx.left.Store(after) })
			_, err := p.Build(ctx, o)
			if err == nil {
				break
			}
			runs++
			if !errors.Is(err, context.Canceled) {
				t.Errorf("stopped at check %d: got %v", after, err)
			}
			intact(t)
		}
		if runs < 4 {
			t.Errorf("a run asks only %d times whether to stop", runs)
		}
	})
	t.Run("booting", func(t *testing.T) {
		p := project(t, "..")
		ctx, cancel := context.WithCancelCause(t.Context())
		upon(t, p, "booting", func() { cancel(stop) })
		o := sample("private")
		o.Images, o.Platforms = []string{"scratch"}, []string{"linux/amd64"}
		if _, err := p.Demo(ctx, o); !errors.Is(err, stop) {
			t.Errorf("got %v", err)
		}
		// What was made before the boot is whole.
		if refs := valid(t, filepath.Join(p.Dist, "demo")); !slices.Equal(refs, []string{"scratch", "scratch-linux-amd64"}) {
			t.Errorf("dist/ holds %v", refs)
		}
	})
}

// fragile is a context that is cancelled once it was asked often enough.
type fragile struct {
	context.Context
	left atomic.Int64
	once sync.Once
	done chan struct{}
}

func (f *fragile) Done() <-chan struct{} { return f.done }

func (f *fragile) Err() error {
	if f.left.Add(-1) > 0 {
		return nil
	}
	f.once.Do(func() { close(f.done) })
	return context.Canceled
}

// TestInterruptedCommand is what a user does: Ctrl-C, or an end by whoever
// started the command.
func TestInterruptedCommand(t *testing.T) {
	p, intact := published(t, "..")
	mage := filepath.Join(t.TempDir(), "mage")
	if out, err := inRepository(exec.Command("go", "tool", "mage", "-compile", mage)).CombinedOutput(); err != nil {
		t.Fatalf("compiling the magefile: %v\n%s", err, out)
	}
	for name, c := range map[string]struct {
		signal syscall.Signal
		cmd    []string
		code   int
		alone  bool // only the process that was started gets the signal
	}{
		"Ctrl-C":                   {syscall.SIGINT, []string{mage}, 130, false},
		"Ctrl-C with go tool":      {syscall.SIGINT, []string{"go", "tool", "mage"}, 130, false},
		"SIGTERM":                  {syscall.SIGTERM, []string{mage}, 143, false},
		"SIGKILL":                  {syscall.SIGKILL, []string{mage}, -1, false},
		"SIGTERM to go tool alone": {syscall.SIGTERM, []string{"go", "tool", "mage"}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			src := holding(t)
			args := append(slices.Clone(c.cmd[1:]), "vm:scratch", "-source="+src, "-platform=linux/amd64", "-engine=private", "-progress=plain")
			cmd := inRepository(exec.Command(c.cmd[0], args...))
			cmd.Env = append(os.Environ(), "VMBUILD_CACHE="+p.Cache, "VMBUILD_DIST="+p.Dist, "VMBUILD_OFFLINE=1")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			var out bytes.Buffer
			stopper := &listener{to: &out, text: "holding " + src}
			stopper.do = func() {
				pid := -cmd.Process.Pid
				if c.alone {
					pid = cmd.Process.Pid
				}
				if err := syscall.Kill(pid, c.signal); err != nil {
					t.Error(err)
				}
			}
			cmd.Stdout, cmd.Stderr = stopper, stopper
			err := cmd.Run()
			var exit *exec.ExitError
			// Of a tool that a signal ended, the go command says nothing in its code.
			if !c.alone && (!errors.As(err, &exit) || exit.ExitCode() != c.code) {
				t.Errorf("got %v, want exit code %d", err, c.code)
			}
			if c.signal != syscall.SIGKILL && !strings.Contains(out.String(), "interrupted: nothing half-done was left behind") {
				t.Errorf("the end of the output is\n%s", out.Bytes()[max(0, out.Len()-1500):])
			}
			intact(t)
		})
	}
	// A killed run leaves nothing for long: the next cleans up after it.
	o := small()
	o.Source = sampleTree(t)
	edit(t, filepath.Join(o.Source, "vm/main.c"), `\z`, "/* after a killed run */\n")
	if _, err := p.Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(p.Cache, "builds", "incoming-*")); len(left) > 0 {
		t.Errorf("left in the cache: %v", left)
	}
}

func inRepository(cmd *exec.Cmd) *exec.Cmd {
	cmd.Dir = ".."
	return cmd
}

// TestTwoAtOnce runs the same request twice at the same time in one checkout.
func TestTwoAtOnce(t *testing.T) {
	first := project(t, "..")
	forget(t, first)
	second := project(t, "..")
	second.Dist = first.Dist
	o := small()
	o.Images = []string{"scratch", "debian"}
	var results [2]*vmbuild.Result
	var errs [2]error
	var both sync.WaitGroup
	for i, p := range []*vmbuild.Project{first, second} {
		both.Go(func() { results[i], errs[i] = p.Build(t.Context(), o) })
	}
	both.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	for id, digest := range results[0].Digests() {
		if results[1].Digests()[id] != digest {
			t.Errorf("%s: the two runs made %s and %s", id, digest, results[1].Digests()[id])
		}
	}
	if refs := valid(t, first.Dist); len(refs) != 2 {
		t.Errorf("dist/ holds %v", refs)
	}
	check := exec.Command("sh", "-c", "sha256sum -c *.sha256")
	check.Dir = filepath.Join(first.Dist, "vm")
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("checksums in dist/vm: %v\n%s", err, out)
	}
}

// TestDirtyCheckout builds a git checkout with a change: it is named, and still
// patched as its release is.
func TestDirtyCheckout(t *testing.T) {
	dir := sampleTree(t)
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.org"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	git("init", "-q")
	git("add", "-A")
	git("commit", "-q", "-m", "sample")
	p := project(t, "..")
	o := small()
	o.Source = dir
	clean, err := p.Plan(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if clean.Source.Dirty || strings.Contains(clean.Source.Version, "dirty") {
		t.Errorf("without a change: %+v", clean.Source)
	}
	edit(t, filepath.Join(dir, "vm/main.c"), `\z`, "/* changed */\n")
	r, err := p.Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if s := r.Plan.Source; !s.Dirty || !strings.Contains(s.Version, "-dirty") {
		t.Errorf("with a change: %+v", s)
	}
	if len(r.Plan.Patches) == 0 || len(r.Plan.Patches) != len(clean.Patches) {
		t.Errorf("patches: %v, without the change %v", r.Plan.Patches, clean.Patches)
	}
	found, _ := filepath.Glob(filepath.Join(p.Dist, "vm", "*-dirty*.tar.gz"))
	if len(found) != 2 {
		t.Errorf("archives named dirty: %v", found)
	}
}
