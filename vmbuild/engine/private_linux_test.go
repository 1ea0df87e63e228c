package engine_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"pharovm/vmbuild/engine"
	"pharovm/vmbuild/internal/testengine"
)

// processes lists the live processes with an argument that contains text.
func processes(t *testing.T, text string) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, f := range files {
		dt, err := os.ReadFile(f)
		pid, _ := strconv.Atoi(strings.Split(f, "/")[2])
		if err == nil && pid != os.Getpid() && strings.Contains(string(dt), text) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func daemons(t *testing.T, opt engine.Options) []int {
	return processes(t, "--addr=unix://"+opt.CacheDir)
}

func mounts(t *testing.T, opt engine.Options) (found []string) {
	t.Helper()
	dt, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(dt)) {
		if strings.Contains(line, opt.CacheDir) {
			found = append(found, line)
		}
	}
	return found
}

// eventually waits for what another process does in its own time.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func TestConcurrentOpensShareOneDaemon(t *testing.T) {
	opt := testengine.Options(t)
	opt.Log = nil
	src := locals(t, nil)
	one := job(t, "a", amd64, "echo >/out/f")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			e, err := engine.Open(t.Context(), "private", opt)
			if err != nil {
				t.Error(err)
				return
			}
			defer e.Close()
			if err := e.Solve(t.Context(), engine.Request{Locals: src, Jobs: []engine.Job{one}}, t.TempDir(), nil); err != nil {
				t.Error(err)
			}
			if pids := daemons(t, opt); len(pids) != 1 {
				t.Errorf("daemons: %v, want one", pids)
			}
		})
	}
	all.Wait()
}

func TestDaemonStopsAfterLastUser(t *testing.T) {
	opt := testengine.Options(t)
	e := open(t, "private", opt)
	second := open(t, "private", opt)
	pids := daemons(t, opt)
	e.Close()
	if _, err := second.DiskUsage(t.Context()); err != nil {
		t.Errorf("the second user lost the daemon: %v", err)
	}
	second.Close()
	again := open(t, "private", opt)
	if got := daemons(t, opt); !slices.Equal(got, pids) {
		t.Errorf("the next user got daemon %v, want %v again", got, pids)
	}
	again.Close()
	eventually(t, "the daemon ends", func() bool { return len(daemons(t, opt)) == 0 })
	eventually(t, "its watchdog ends", func() bool { return len(processes(t, "--root="+opt.CacheDir)) == 0 })
}

// TestDaemonKilled kills the daemon in the middle of a step.
func TestDaemonKilled(t *testing.T) {
	opt := testengine.Options(t)
	e := open(t, "private", opt)
	out := filepath.Join(t.TempDir(), "out")
	req := engine.Request{Locals: locals(t, nil), Jobs: []engine.Job{job(t, "a", amd64, "echo begun; sleep 4321")}}
	err := watchLogs(t, e, req, out, func() {
		for _, pid := range daemons(t, opt) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	if !errors.Is(err, engine.ErrLost) {
		t.Errorf("got %v, want ErrLost", err)
	}
	for _, want := range []string{"private", "stopped answering", "buildkitd.log", "start the same command again"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	if got := tree(t, out); got != ". drwxr-xr-x\n" {
		t.Errorf("left in the output:\n%s", got)
	}

	req.Jobs = []engine.Job{job(t, "a", amd64, "echo >/out/f")}
	again := open(t, "private", opt)
	if err := again.Solve(t.Context(), req, out, nil); err != nil {
		t.Fatal(err)
	}
	if pids := processes(t, "sleep\x004321"); len(pids) > 0 {
		t.Errorf("the killed daemon's step still runs: %v", pids)
	}
	eventually(t, "no mounts", func() bool { return len(mounts(t, opt)) == 0 })
}

// watchLogs solves and calls then at the first output of a step.
func watchLogs(t *testing.T, e engine.Engine, req engine.Request, out string, then func()) error {
	t.Helper()
	status := make(chan *client.SolveStatus)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := range status {
			if len(s.Logs) > 0 {
				then()
			}
		}
	}()
	err := e.Solve(t.Context(), req, out, status)
	<-done
	return err
}

// TestUserKilled kills a process in the middle of a build on the private
// engine, of which it was the only user.
func TestUserKilled(t *testing.T) {
	opt := testengine.Options(t)
	out := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^TestHelperUser$", "-test.v")
	child.Env = append(os.Environ(), "ENGINE_TEST_CACHE="+opt.CacheDir, "ENGINE_TEST_OUT="+out, "TMPDIR="+t.TempDir())
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && lines.Text() != "step runs" {
	}
	if len(daemons(t, opt)) == 0 {
		t.Error("the child has no daemon")
	}
	child.Process.Kill()
	child.Wait()
	eventually(t, "the daemon ends", func() bool { return len(daemons(t, opt)) == 0 })
	eventually(t, "its step ends", func() bool { return len(processes(t, "sleep\x005432")) == 0 })
	eventually(t, "its mounts go", func() bool { return len(mounts(t, opt)) == 0 })

	// The next run into the same folder removes the unfinished result.
	e := open(t, "private", opt)
	req := engine.Request{Locals: locals(t, nil), Jobs: []engine.Job{job(t, "a", amd64, "echo >/out/f")}}
	if err := e.Solve(t.Context(), req, out, nil); err != nil {
		t.Fatal(err)
	}
	if got, want := tree(t, out), ". drwxr-xr-x\na drwxr-xr-x\na/f -rw-r--r-- \"\\n\"\n"; got != want {
		t.Errorf("got\n%s", got)
	}
}

// TestHelperUser is not a test: it is what TestUserKilled kills.
func TestHelperUser(t *testing.T) {
	cache := os.Getenv("ENGINE_TEST_CACHE")
	if cache == "" {
		return
	}
	e, err := engine.Open(t.Context(), "private", engine.Options{CacheDir: cache})
	if err != nil {
		t.Fatal(err)
	}
	req := engine.Request{Locals: locals(t, nil), Jobs: []engine.Job{job(t, "a", amd64, "echo begun; sleep 5432")}}
	watchLogs(t, e, req, os.Getenv("ENGINE_TEST_OUT"), func() { fmt.Println("step runs") })
}

// TestWatchdogKilled has the next user start another watchdog.
func TestWatchdogKilled(t *testing.T) {
	opt := testengine.Options(t)
	e := open(t, "private", opt)
	watchdogs := func() (pids []int) {
		for _, pid := range processes(t, "--root="+opt.CacheDir) {
			if !slices.Contains(daemons(t, opt), pid) {
				pids = append(pids, pid)
			}
		}
		return pids
	}
	eventually(t, "one watchdog", func() bool { return len(watchdogs()) == 1 })
	killed := watchdogs()[0]
	syscall.Kill(killed, syscall.SIGKILL)
	eventually(t, "no watchdog", func() bool { return len(watchdogs()) == 0 })
	second := open(t, "private", opt)
	e.Close()
	second.Close()
	eventually(t, "the daemon ends", func() bool { return len(daemons(t, opt)) == 0 })
}

// TestForeignProgram runs an arm64 program on amd64 without binfmt_misc.
func TestForeignProgram(t *testing.T) {
	testengine.Programs(t, "qemu-aarch64-static", "qemu-user-static")
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "main.go"), []byte(`package main
import ("os"; "runtime")
func main() { os.WriteFile("/out/arch", []byte(runtime.GOARCH), 0o644) }
`), 0o644); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", "hello", "main.go")
	build.Dir = src
	build.Env = append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	e := open(t, "private", testengine.Options(t))
	root := llb.Scratch().File(llb.Copy(llb.Local("src"), "/hello", "/hello"))
	run := root.Run(llb.Args([]string{"/hello"}), llb.Network(pb.NetMode_NONE))
	def, err := run.AddMount("/out", llb.Scratch()).Marshal(t.Context(), llb.LinuxArm64)
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	req := engine.Request{Locals: map[string]string{"src": src}, Jobs: []engine.Job{{ID: "a", Platform: arm64, Definition: def}}}
	if err := e.Solve(t.Context(), req, out, nil); err != nil {
		t.Fatal(err)
	}
	if dt, err := os.ReadFile(filepath.Join(out, "a", "arch")); string(dt) != "arm64" {
		t.Errorf("got %q %v", dt, err)
	}
}

func TestPrivateStartFails(t *testing.T) {
	opt := testengine.Options(t)
	programs, err := filepath.Glob(filepath.Join(opt.CacheDir, "engine", "buildkitd-*"))
	if err != nil || len(programs) != 1 {
		t.Fatal(programs, err)
	}
	os.Remove(programs[0])
	if err := os.WriteFile(programs[0], []byte("#!/bin/sh\necho no space left on device\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = engine.Open(t.Context(), "private", opt)
	for _, want := range []string{"private engine", "ended at once", "exit status 3", "no space left on device", "buildkitd.log"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

func TestLongCacheFolder(t *testing.T) {
	opt := engine.Options{CacheDir: filepath.Join(t.TempDir(), strings.Repeat("x", 100))}
	_, err := engine.Open(t.Context(), "private", opt)
	if err == nil || !strings.Contains(err.Error(), "set VMBUILD_CACHE to a shorter folder") {
		t.Errorf("got %v", err)
	}
}

func TestProbe(t *testing.T) {
	opt := testengine.Options(t)
	t.Setenv("DOCKER_HOST", testengine.Docker(t))
	t.Setenv("BUILDKIT_HOST", "unix:///no/such.sock")
	found := map[string]engine.Finding{}
	for _, f := range engine.Probe(t.Context(), "auto", opt) {
		found[f.Name] = f
		if f.Detail == "" || f.OK != (f.Remedy == "") {
			t.Errorf("%+v: want a detail, and a remedy just when it is not OK", f)
		}
	}
	if f := found["docker"]; !f.OK || !strings.Contains(f.Detail, "linux/amd64") {
		t.Errorf("docker: %+v", f)
	}
	if f := found["BUILDKIT_HOST"]; f.OK {
		t.Errorf("%+v", f)
	}
	for _, name := range []string{"private", "runc", "go"} {
		if !found[name].OK {
			t.Errorf("%s: %+v", name, found[name])
		}
	}
	if pids := daemons(t, opt); len(pids) > 0 {
		t.Errorf("it started %v", pids)
	}
}
