// Package testengine gives tests real engines: a Docker, buildkitds, and
// private engines in folders of their own. Nothing here skips: what is
// missing is installed through apt, which is announced, or fails the test.
package testengine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gofrs/flock"
	docker "github.com/moby/moby/client"
	"pharovm/vmbuild/engine"
)

// Options returns options for a private engine that only this test uses. It
// is stopped and removed after the test.
func Options(t testing.TB) engine.Options {
	t.Helper()
	program := buildkitd(t)
	// t.TempDir would make a path too long for a socket.
	dir, err := os.MkdirTemp("", "engine")
	if err != nil {
		t.Fatal(err)
	}
	opt := engine.Options{CacheDir: dir, Install: true, Log: t.Output()}
	if err := os.Mkdir(filepath.Join(dir, "engine"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := linkOrCopy(program, filepath.Join(dir, "engine", filepath.Base(program))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := engine.Stop(ctx, opt); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return opt
}

// buildkitd compiles buildkitd in the user's own cache folder, where it is
// kept for the next test and the user alike.
var compiled = sync.OnceValues(func() (string, error) {
	return engine.Buildkitd(context.Background(), engine.Options{Log: os.Stderr})
})

func buildkitd(t testing.TB) string {
	t.Helper()
	program, err := compiled()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

func linkOrCopy(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return errors.Join(err, out.Close())
	}
	return out.Close()
}

// Buildkitd starts a buildkitd that only this test uses and returns its
// address. Flags are passed to it; one that starts with "--addr=" is the
// address returned.
func Buildkitd(t testing.TB, flags ...string) (addr string) {
	t.Helper()
	Programs(t, "runc", "runc")
	dir, err := os.MkdirTemp("", "buildkitd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range flags {
		if a, ok := strings.CutPrefix(f, "--addr="); ok {
			addr = a
		}
	}
	if addr == "" {
		addr = "unix://" + filepath.Join(dir, "sock")
		flags = append(flags, "--addr="+addr)
	}
	args := append([]string{
		"--root=" + filepath.Join(dir, "root"), "--otel-socket-path=" + filepath.Join(dir, "otel"),
		"--containerd-worker=false", "--oci-worker-net=host", "--cdi-disabled",
	}, flags...)
	stop, _ := run(t, dir, buildkitd(t), args...)
	t.Cleanup(func() {
		stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	log := filepath.Join(dir, "log")
	waitFor(t, log, func(context.Context) error {
		dt, err := os.ReadFile(log)
		if err == nil && !strings.Contains(string(dt), "running server on") {
			err = errors.New("it does not listen")
		}
		return err
	})
	return addr
}

// run starts a daemon that ends with this process at the latest, with its
// output in dir/log.
func run(t testing.TB, dir, program string, args ...string) (stop func(), pid int) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	started, ended := make(chan error), make(chan struct{})
	go func() {
		// The kernel sends the signal when the thread that forked ends.
		runtime.LockOSThread()
		endWithParent(cmd)
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
		close(ended)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	return func() {
		cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	}, cmd.Process.Pid
}

// Docker returns the host of a Docker: the machine's own if it answers, else
// one started from Debian's package. That one is shared by all test processes,
// keeps its cache for the next, and stops when the last of them ends, however
// it ends.
func Docker(t testing.TB) (host string) {
	t.Helper()
	host, err := sharedDocker()
	if err != nil {
		t.Fatal(err)
	}
	return host
}

// dockerUser is never unlocked: the kernel does it when this process ends.
var dockerUser *flock.Flock

var sharedDocker = sync.OnceValues(func() (string, error) {
	ctx := context.Background()
	own := cmp.Or(os.Getenv("DOCKER_HOST"), docker.DefaultDockerHost)
	// Opened, not pinged: what answers there may have no BuildKit.
	if e, err := engine.Open(ctx, "docker://"+own, engine.Options{}); err == nil {
		return own, e.Close()
	}
	if err := install(ctx, "dockerd", "docker.io"); err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "pharovm-test", "docker")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	start := flock.New(filepath.Join(dir, "start.lock"))
	if err := start.Lock(); err != nil {
		return "", err
	}
	defer start.Unlock()
	dockerUser = flock.New(filepath.Join(dir, "users.lock"))
	if err := dockerUser.RLock(); err != nil {
		return "", err
	}
	host := "unix://" + filepath.Join(dir, "sock")
	if err := ping(ctx, host); err == nil {
		return host, nil
	}
	cmd := exec.Command("sh", "-c", dockerScript, "pharovm-test-docker", host)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	newSession(cmd)
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("starting dockerd: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := wait(ctx, filepath.Join(dir, "log"), func(ctx context.Context) error { return ping(ctx, host) }); err != nil {
		return "", err
	}
	return host, nil
})

// dockerScript starts dockerd, and a watchdog that stops it once it can lock
// users.lock alone. The MTU is low because a VM's own often is.
const dockerScript = `
dockerd --data-root "$PWD/data" --exec-root "$PWD/exec" -p "$PWD/pid" --mtu 1400 -H "$1" >log 2>&1 </dev/null &
pid=$!
{ while :; do
    flock -x users.lock true
    sleep 3
    flock -n -x users.lock sh -c '
      kill $1; while kill -0 $1 && [ "$(cut -d" " -f3 /proc/$1/stat)" != Z ]; do sleep 0.1; done
    ' sh $pid && exit
  done
} >/dev/null 2>&1 </dev/null &`

func ping(ctx context.Context, host string) error {
	api, err := engine.DockerClient(host)
	if err != nil {
		return err
	}
	defer api.Close()
	_, err = api.Ping(ctx, docker.PingOptions{})
	return err
}

func wait(ctx context.Context, log string, ready func(context.Context) error) error {
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			dt, _ := os.ReadFile(log)
			return fmt.Errorf("the daemon does not answer: %w; its log:\n%s", err, dt[max(0, len(dt)-4000):])
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func waitFor(t testing.TB, log string, ready func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := wait(ctx, log, ready); err != nil {
		t.Fatal(err)
	}
}

// Programs installs a Debian package through apt if its program is missing.
func Programs(t testing.TB, program, pkg string) {
	t.Helper()
	if err := install(t.Context(), program, pkg); err != nil {
		t.Fatal(err)
	}
}

func install(ctx context.Context, program, pkg string) error {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if _, err := os.Stat(filepath.Join(dir, program)); err == nil {
			return nil
		}
	}
	if apt(ctx, "", "install", "-y", "--no-install-recommends", pkg) == nil {
		return nil
	}
	if err := apt(ctx, "", "update"); err != nil {
		return err
	}
	return apt(ctx, "", "install", "-y", "--no-install-recommends", pkg)
}

func apt(ctx context.Context, dir string, args ...string) error {
	args = append([]string{"-o", "DPkg::Lock::Timeout=300"}, args...)
	fmt.Fprintln(os.Stderr, "+ apt-get", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w:\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// Busybox returns a folder that holds bin/busybox, statically linked for this
// machine: enough of a root for steps to run in.
func Busybox(t testing.TB) string {
	t.Helper()
	root, err := busybox()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

var busybox = sync.OnceValues(func() (string, error) {
	ctx := context.Background()
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "pharovm-test", "busybox")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	if err := lock.Lock(); err != nil {
		return "", err
	}
	defer lock.Unlock()
	root := filepath.Join(dir, "root")
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	if apt(ctx, dir, "download", "busybox-static") != nil {
		if err := apt(ctx, dir, "update"); err != nil {
			return "", err
		}
		if err := apt(ctx, dir, "download", "busybox-static"); err != nil {
			return "", err
		}
	}
	debs, err := filepath.Glob(filepath.Join(dir, "busybox-static_*.deb"))
	if err != nil || len(debs) == 0 {
		return "", fmt.Errorf("apt-get download left no package in %s", dir)
	}
	files := filepath.Join(dir, "files")
	if out, err := exec.CommandContext(ctx, "dpkg", "-x", debs[0], files).CombinedOutput(); err != nil {
		return "", fmt.Errorf("dpkg -x: %w:\n%s", err, out)
	}
	fresh := filepath.Join(dir, "root.new")
	if err := os.MkdirAll(filepath.Join(fresh, "bin"), 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(files, "bin", "busybox"), filepath.Join(fresh, "bin", "busybox")); err != nil {
		return "", err
	}
	return root, os.Rename(fresh, root)
})
