package vmbuild_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gofrs/flock"

	"pharovm/vmbuild"
	"pharovm/vmbuild/internal/testengine"
)

// TestPruneSparesOthers prunes beside another run, without an engine, and with
// an engine that others use as well.
func TestPruneSparesOthers(t *testing.T) {
	t.Setenv("DOCKER_HOST", testengine.Docker(t))
	var log bytes.Buffer
	p, err := vmbuild.Open("..", &log)
	if err != nil {
		t.Fatal(err)
	}
	p.Cache = t.TempDir()
	tree, staged := filepath.Join(p.Cache, "builds", "key", "vm", "pharo"), filepath.Join(p.Cache, "sources", "a")
	for _, name := range []string{tree, staged} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("1234"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	there := func(name string) bool { _, err := os.Stat(name); return err == nil }

	run := flock.New(filepath.Join(p.Cache, "builds", "users.lock"))
	if err := run.RLock(); err != nil {
		t.Fatal(err)
	}
	if err := p.CachePrune(t.Context(), "auto", true); err == nil || !strings.Contains(err.Error(), "another run uses "+p.Cache) {
		t.Errorf("beside another run: got %v", err)
	}
	if !there(tree) || !there(staged) {
		t.Error("the other run lost its files")
	}
	if want := "engine docker: left alone"; !strings.Contains(log.String(), want) || !strings.Contains(log.String(), "-engine=docker") {
		t.Errorf("%q lacks %q, or how to name the engine", &log, want)
	}
	if err := run.Unlock(); err != nil {
		t.Fatal(err)
	}

	t.Setenv("BUILDKIT_HOST", "unix:///no/such.sock")
	if err := p.CachePrune(t.Context(), "auto", false); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("without an engine: got %v", err)
	}
	if there(tree) || !there(staged) {
		t.Errorf("VM tree there: %v, staged source there: %v; want only the latter", there(tree), there(staged))
	}
}
