package testengine

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// Cache returns a cache folder that every test of this machine shares and that
// is kept, so that only the first of them waits for builders and bases. The
// pinned buildkitd is compiled into it.
func Cache(t testing.TB) string {
	t.Helper()
	user, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(user, "pharovm-test")
	program := buildkitd(t)
	there := filepath.Join(dir, "engine", filepath.Base(program))
	if err := os.MkdirAll(filepath.Dir(there), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(there); err != nil {
		if err := linkOrCopy(program, there); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Binfmt tells the kernel to run arm64 programs with qemu, as Debian's own
// service would.
func Binfmt(t testing.TB) {
	t.Helper()
	Programs(t, "qemu-aarch64-static", "qemu-user-static")
	const dir = "/proc/sys/fs/binfmt_misc"
	if _, err := os.Stat(dir + "/qemu-aarch64"); err == nil {
		return
	}
	if _, err := os.Stat(dir + "/register"); err != nil {
		if err := mountBinfmt(dir); err != nil {
			t.Fatalf("mounting binfmt_misc: %v", err)
		}
	}
	entry, err := os.ReadFile("/usr/lib/binfmt.d/qemu-aarch64.conf")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/register", entry, 0o200); err != nil {
		if _, there := os.Stat(dir + "/qemu-aarch64"); there != nil {
			t.Fatalf("registering qemu for arm64: %v", err)
		}
	}
}

// Registry starts Debian's docker-registry, empty and without a password, and
// returns its host and port.
func Registry(t testing.TB) string {
	t.Helper()
	Programs(t, "docker-registry", "docker-registry")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := free.Addr().String()
	free.Close()
	dir := t.TempDir()
	config := fmt.Sprintf("version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %s\n", filepath.Join(dir, "data"), host)
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	stop, _ := run(t, dir, "docker-registry", "serve", file)
	t.Cleanup(stop)
	waitFor(t, filepath.Join(dir, "log"), func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/v2/", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		return res.Body.Close()
	})
	return host
}
