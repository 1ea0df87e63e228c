// Package source turns "where the VM sources come from" into a verified,
// patched directory in the cache, and the facts a build records about it.
package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"pharovm/vmbuild/patch"
)

// ErrNotSource says that what was given is there but is no VM source tree.
var ErrNotSource = errors.New("not a VM source tree")

// Spec is a source as the catalogue and its lock file pin it.
type Spec struct {
	Name          string   // "opensmalltalk"
	Version       string   // "20210325": what the pinned commit or archive is called
	Dir           string   // set when the source is a directory of this project: then nothing is fetched
	URL           string   // git URL
	Commit, Tree  string   // pinned commit and the id of its git tree, both full sha1s
	ArchiveURL    string   // .tar.gz of the same commit, or the only form the source has
	ArchiveSHA256 string   // hex; may be empty: then Tree verifies the archive
	Epoch         int64    // SOURCE_DATE_EPOCH in seconds; 0 takes the commit's time
	Paths         []string // what is staged: files, directories or path.Match patterns; empty is all
	Marks         []string // files or directories without which it is no such tree
}

// Options is how to resolve; the zero value needs only CacheDir.
type Options struct {
	CacheDir string // below it everything is kept in sources/
	// Patches returns the series for a release (Identity.Release); nil for none.
	Patches  func(release string) ([]patch.Patch, error)
	Git      string         // git executable; "" finds it in PATH, "none" does without
	Client   *http.Client   // for archives; nil uses one with timeouts and the environment's proxy
	Progress func(Progress) // called while downloading; may be nil
	Log      func(string)   // one line per thing worth telling; may be nil
}

// Progress is how far a download is, in bytes; Total is 0 when unknown.
type Progress struct {
	URL         string
	Done, Total int64
}

// Identity is what is known of a source before its content is read.
type Identity struct {
	Version string // Release, and what makes it differ from a pinned one: "20210325-dirty.1f2e3d4c", "local"
	Release string // what patch constraints are matched against
	Commit  string // full sha1; empty when there is none
	Dirty   bool   // a checkout with changes
	Epoch   int64  // SOURCE_DATE_EPOCH in seconds
	Origin  string // where it came from, to print and record; holds no path of this machine
	// Verified says by what: "git commit", "git tree", "sha256", "part of this
	// project" or "not verified: …". It is for people; the same source may be
	// verified in different ways.
	Verified string
}

// Pinned tells whether the source is exactly what the catalogue pins.
func (i Identity) Pinned() bool {
	return i.Verified != "" && !strings.HasPrefix(i.Verified, "not verified")
}

// Resolved is a staged source.
type Resolved struct {
	Identity
	Dir     string         // the staged directory, read-only by agreement: it is shared and reused
	Digest  string         // hex sha256 over path, mode and content of every staged file, patches applied
	Changes []patch.Change // what the patches did
	Reused  bool           // it was staged before
}

// Identify tells what where is without fetching, reading or staging content.
// A remote ref is left unresolved (Commit empty).
func Identify(ctx context.Context, where string, spec Spec, opt Options) (Identity, error) {
	o, err := find(ctx, where, spec, opt, false)
	if err != nil {
		return Identity{}, fmt.Errorf("source %s: %w", spec.Name, err)
	}
	return o.Identity, nil
}

// Resolve stages the source that where names: "" for the pinned one, a
// checkout (optionally DIR#ref), a directory, an archive, or URL#ref. Ctrl-C
// leaves no partial result; concurrent calls wait for one another.
func Resolve(ctx context.Context, where string, spec Spec, opt Options) (Resolved, error) {
	r, err := resolve(ctx, where, spec, opt)
	switch {
	case ctx.Err() != nil:
		return Resolved{}, context.Cause(ctx)
	case errors.Is(err, syscall.ENOSPC):
		return Resolved{}, fmt.Errorf("source %s: %w: free some room, or set VMBUILD_CACHE to a directory on a larger disk", spec.Name, err)
	case err != nil:
		return Resolved{}, fmt.Errorf("source %s: %w", spec.Name, err)
	}
	return r, nil
}

func resolve(ctx context.Context, where string, spec Spec, opt Options) (Resolved, error) {
	o, err := find(ctx, where, spec, opt, true)
	if err != nil {
		return Resolved{}, err
	}
	var series []patch.Patch
	if opt.Patches != nil {
		if series, err = opt.Patches(o.Release); err != nil {
			return Resolved{}, err
		}
	}
	store := filepath.Join(opt.CacheDir, "sources")
	if err := os.MkdirAll(store, 0o755); err != nil {
		return Resolved{}, fmt.Errorf("create the source cache: %w: name another folder with VMBUILD_CACHE", err)
	}
	lock := flock.New(filepath.Join(store, spec.Name+".lock"))
	if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return Resolved{}, fmt.Errorf("wait for another run that stages the source: %w", err)
	}
	defer lock.Unlock()

	index := filepath.Join(store, "index", indexKey(o, spec, series)+".json")
	if r, ok := reuse(index, store); ok {
		if o.Verified != "" {
			r.Verified = o.Verified
		}
		return r, nil
	}
	files, err := o.load(ctx, &o.Identity)
	if err != nil {
		return Resolved{}, err
	}
	return stage(ctx, store, index, spec, o.Identity, files, series)
}

// indexKey names everything the staged content and its facts depend on.
func indexKey(o *origin, spec Spec, series []patch.Patch) string {
	b, _ := json.Marshal(struct { // plain data: it always marshals
		Format                          int
		Key, Name, Version, Tree, Where string
		Epoch, Pin                      int64
		Paths, Marks                    []string
		Series                          []patch.Patch
	}{2, o.key, spec.Name, spec.Version, spec.Tree, o.Origin, o.Epoch, spec.Epoch, spec.Paths, spec.Marks, series})
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// origin is a found source whose content is still to be read.
type origin struct {
	Identity
	key  string // names the content without reading it
	load func(context.Context, *Identity) (content, error)
}

// content is the selected part of a tree.
type content struct {
	files map[string]patch.File
	has   func(mark string) bool // asks the whole tree, not only what was selected
}

func (s Spec) selected(name string) bool {
	if len(s.Paths) == 0 {
		return true
	}
	parts := strings.Split(name, "/")
	for _, p := range s.Paths {
		want := strings.Split(strings.Trim(p, "/"), "/")
		if len(want) > len(parts) {
			continue
		}
		ok := true
		for i, w := range want {
			m, err := path.Match(w, parts[i])
			ok = ok && m && err == nil
		}
		if ok {
			return true
		}
	}
	return false
}

func (o Options) log(format string, args ...any) {
	if o.Log != nil {
		o.Log(fmt.Sprintf(format, args...))
	}
}
