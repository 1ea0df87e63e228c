package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/moby/buildkit/client"
)

// home is where the private engine lives: everything is below one folder.
//
//	buildkitd-VERSION  the program    build.lock  who compiles it
//	root/              its state      start.lock  who starts it or cleans up
//	buildkitd.sock     its address    users.lock  held shared by every user
//	buildkitd.pid      its process    watch.lock  held by the watchdog
//	buildkitd.log      its log        bin/        emulators for it
//	tmp/, run/         its TMPDIR and, rootless, its XDG_RUNTIME_DIR
type home struct{ dir string }

func (h home) path(name string) string { return filepath.Join(h.dir, name) }
func (h home) root() string            { return h.path("root") }
func (h home) sock() string            { return h.path("buildkitd.sock") }
func (h home) rootFlag() string        { return "--root=" + h.root() }

// lockRetry is how often a lock somebody else holds is asked for again.
const lockRetry = 20 * time.Millisecond

// openPrivate uses the private engine, starting it if it does not run.
//
// Users hold a shared lock, which the kernel lets go of however a user ends.
// A watchdog waits until it can have the lock alone and then stops the daemon,
// so that no killed process leaves one behind.
func openPrivate(ctx context.Context, opt Options, why string) (_ Engine, err error) {
	h := home{filepath.Join(opt.CacheDir, "engine")}
	if err := h.check(ctx, opt); err != nil {
		return nil, fmt.Errorf("private engine: %w", err)
	}
	program, err := buildBuildkitd(ctx, h, opt)
	if err != nil {
		return nil, fmt.Errorf("private engine: %w", err)
	}

	start := flock.New(h.path("start.lock"))
	if _, err := start.TryLockContext(ctx, lockRetry); err != nil {
		return nil, fmt.Errorf("private engine: waiting for another start: %w", err)
	}
	defer start.Unlock()
	// Not only at a start: qemu may have been installed since.
	if err := h.emulators(); err != nil {
		return nil, fmt.Errorf("private engine: %w", err)
	}
	users := flock.New(h.path("users.lock"))
	if _, err := users.TryRLockContext(ctx, lockRetry); err != nil {
		return nil, fmt.Errorf("private engine: waiting for the last one to stop: %w", err)
	}
	defer func() {
		if err != nil {
			users.Unlock()
		}
	}()

	c, err := h.connect(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err := h.clean(); err != nil {
			return nil, fmt.Errorf("private engine: cleaning up after one that was killed: %w", err)
		}
		if c, err = h.start(ctx, program); err != nil {
			return nil, fmt.Errorf("private engine: %w", err)
		}
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if err := h.watch(); err != nil {
		return nil, fmt.Errorf("private engine: %w", err)
	}
	return &single{
		c: c, name: "private", why: why,
		logHint:  " (its log is " + h.path("buildkitd.log") + ")",
		close:    users.Unlock,
		emulated: h.emulated(),
	}, nil
}

// Stop stops the private engine of opt.CacheDir. If others use it, Stop waits
// for them as long as ctx allows.
func Stop(ctx context.Context, opt Options) error {
	opt, err := opt.withDefaults()
	if err != nil {
		return err
	}
	h := home{filepath.Join(opt.CacheDir, "engine")}
	if _, err := os.Stat(h.root()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	start := flock.New(h.path("start.lock"))
	if _, err := start.TryLockContext(ctx, lockRetry); err != nil {
		return fmt.Errorf("stopping the private engine: waiting for a start: %w", err)
	}
	defer start.Unlock()
	users := flock.New(h.path("users.lock"))
	if _, err := users.TryLockContext(ctx, lockRetry); err != nil {
		return fmt.Errorf("stopping the private engine: waiting for its users: %w", err)
	}
	defer users.Unlock()
	for _, pid := range h.daemons() {
		syscall.Kill(pid, syscall.SIGTERM)
	}
	h.awaitEnd()
	if err := h.clean(); err != nil {
		return fmt.Errorf("stopping the private engine: %w", err)
	}
	return nil
}

// awaitEnd waits up to ten seconds for the daemon to end.
func (h home) awaitEnd() {
	for range 10 * time.Second / lockRetry {
		if len(h.daemons()) == 0 {
			return
		}
		time.Sleep(lockRetry)
	}
}

// daemons finds the processes of this engine by their command line, which
// unlike a pid file cannot be stale.
func (h home) daemons() []int {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var pids []int
	for _, p := range procs {
		dt, err := os.ReadFile(p)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(dt), "\x00")
		if slices.Contains(args, h.rootFlag()) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			if err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// connect returns a client of the daemon if it runs and answers.
func (h home) connect(ctx context.Context) (*client.Client, error) {
	// gRPC would wait a second before it dials again after a failure.
	conn, err := net.Dial("unix", h.sock())
	if err != nil {
		return nil, err
	}
	conn.Close()
	c, err := client.New(ctx, "unix://"+h.sock())
	if err != nil {
		return nil, err
	}
	if err := answers(ctx, c, helperTimeout); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// start starts the daemon in a session of its own and waits until it answers.
func (h home) start(ctx context.Context, program string) (*client.Client, error) {
	for _, d := range []string{"root", "bin", "tmp", "run"} {
		if err := os.MkdirAll(h.path(d), 0o700); err != nil {
			return nil, err
		}
	}
	env := append(os.Environ(), "PATH="+h.path("bin")+":"+searchPath(), "TMPDIR="+h.path("tmp"))
	args := []string{
		program, h.rootFlag(), "--addr=unix://" + h.sock(),
		"--containerd-worker=false", "--oci-worker=true", "--oci-worker-net=host",
		"--otel-socket-path=" + h.path("otel.sock"), "--cdi-disabled",
	}
	if os.Geteuid() != 0 {
		args = append(args, "--rootless", "--oci-worker-no-process-sandbox")
		args = append([]string{lookPath("rootlesskit"), "--net=host", "--state-dir=" + h.path("rootlesskit")}, args...)
		// Where runc keeps its containers; not every session has one.
		env = append(env, "XDG_RUNTIME_DIR="+h.path("run"))
	}
	// The previous log may be what explains why a start was needed.
	os.Rename(h.path("buildkitd.log"), h.path("buildkitd.log.1"))
	log, err := os.Create(h.path("buildkitd.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = h.dir
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting buildkitd: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	if err := os.WriteFile(h.path("buildkitd.pid"), fmt.Appendln(nil, cmd.Process.Pid), 0o600); err != nil {
		return nil, err
	}

	ctx, cancel := context.WithTimeoutCause(ctx, helperTimeout, fmt.Errorf("no answer in %v", helperTimeout))
	defer cancel()
	for {
		if c, err := h.connect(ctx); err == nil {
			return c, nil
		}
		select {
		case err := <-exited:
			return nil, fmt.Errorf("buildkitd ended at once (%v); the end of %s:\n%s", err, h.path("buildkitd.log"), tail(h.path("buildkitd.log"), 15))
		case <-ctx.Done():
			cmd.Process.Kill()
			return nil, fmt.Errorf("buildkitd did not start: %w; the end of %s:\n%s", context.Cause(ctx), h.path("buildkitd.log"), tail(h.path("buildkitd.log"), 15))
		case <-time.After(lockRetry):
		}
	}
}

// watchdog stops the daemon once it can have the users' lock alone. It is a
// shell script because it must outlive us, and every Linux has sh and flock.
// Its waiting children must not inherit its own lock, or a killed watchdog
// would seem alive.
const watchdog = `
exec 8>>watch.lock && flock -n 8 || exit 0
export root="$1" ours='grep -qasF -e "$root" /proc/$pid/cmdline'
while pid=$(cat buildkitd.pid); do
  flock -x users.lock true 8>&-
  sleep 3 8>&-
  [ -d "$PWD" ] || { eval "$ours" && kill $pid; exit; }
  flock -n -x users.lock sh -c '
    pid=$(cat buildkitd.pid)
    eval "$ours" && kill $pid
    i=0; while eval "$ours"; do
      sleep 0.1; i=$((i+1)); [ $i = 100 ] && kill -9 $pid
    done
    rm -f buildkitd.sock buildkitd.pid' 8>&- && exit
done`

// watch starts a watchdog; one too many ends at once.
func (h home) watch() error {
	cmd := exec.Command("sh", "-c", watchdog, "pharovm-engine-watchdog", h.rootFlag())
	cmd.Dir = h.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting its watchdog: %w", err)
	}
	go cmd.Wait()
	return nil
}

// emulators lets buildkitd run programs of the other architecture where the
// kernel is not told how: it looks for buildkit-qemu-ARCH on its PATH.
func (h home) emulators() error {
	if err := os.MkdirAll(h.path("bin"), 0o700); err != nil {
		return err
	}
	for _, arch := range machines {
		link, qemu := h.path("bin/buildkit-qemu-"+arch), lookPath("qemu-"+arch+"-static")
		if to, err := os.Readlink(link); err == nil && to == qemu {
			continue
		}
		if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if qemu == "" {
			continue
		}
		if err := os.Symlink(qemu, link); err != nil {
			return err
		}
	}
	return nil
}

// emulated are the platforms that emulators makes runnable.
func (h home) emulated() []string {
	var out []string
	for goarch, arch := range machines {
		if _, err := os.Stat(h.path("bin/buildkit-qemu-" + arch)); err == nil {
			out = append(out, "linux/"+goarch)
		}
	}
	slices.Sort(out)
	return out
}

// searchPath is PATH with the folders where Debian keeps runc, which a user's
// PATH does not hold.
func searchPath() string {
	return os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin"
}

// lookPath finds a program in searchPath, else it returns "".
func lookPath(name string) string {
	for _, dir := range filepath.SplitList(searchPath()) {
		p := filepath.Join(dir, name)
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 && filepath.IsAbs(p) {
			return p
		}
	}
	return ""
}

// tail returns a file's last lines, as far as it can be read.
func tail(file string, lines int) string {
	dt, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(dt), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
