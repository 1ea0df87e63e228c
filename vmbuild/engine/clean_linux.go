package engine

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// clean removes what a killed daemon leaves behind: processes, containers,
// mounts and the socket. The caller holds start.lock.
func (h home) clean() error {
	for _, pid := range h.daemons() {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	// A killed process keeps the state's lock until the kernel is done with it.
	h.awaitEnd()
	if left := h.daemons(); len(left) > 0 {
		return fmt.Errorf("process %d does not end: kill it", left[0])
	}
	bundles, err := filepath.Glob(h.path("root/runc-*/executor/*/config.json"))
	if err != nil {
		return err
	}
	for _, b := range bundles {
		// A container that ended by itself is no longer known to runc.
		del := exec.Command(lookPath("runc"), "delete", "--force", filepath.Base(filepath.Dir(b)))
		if os.Geteuid() != 0 {
			del.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+h.path("run"))
		}
		del.Run()
	}
	if err := h.unmount(); err != nil {
		return err
	}
	for _, b := range bundles {
		if err := os.RemoveAll(filepath.Dir(b)); err != nil {
			return err
		}
	}
	for _, name := range []string{"buildkitd.sock", "buildkitd.pid", "tmp", "run", "rootlesskit"} {
		if err := os.RemoveAll(h.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// unmount detaches every mount below the engine's folder, innermost first.
func (h home) unmount() error {
	dt, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var points []string
	for line := range strings.Lines(string(dt)) {
		fields := strings.Fields(line)
		if len(fields) > 4 {
			if p := unescape.Replace(fields[4]); strings.HasPrefix(p, h.dir+"/") {
				points = append(points, p)
			}
		}
	}
	slices.SortFunc(points, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	for _, p := range points {
		if err := syscall.Unmount(p, syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("unmounting %s: %w", p, err)
		}
	}
	return nil
}
