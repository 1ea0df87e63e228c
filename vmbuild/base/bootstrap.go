package base

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// standInSuite is the Debian whose musl and busybox stand in for Alpine.
const standInSuite = "bookworm"

// contents are the packages unpacked for base images of both kinds; they bring what they depend on.
var contents = []string{"base-files", "base-passwd", "busybox-static", "ca-certificates", "coreutils", "dash",
	"libc-bin", "libc6", "libgcc-s1", "libssl3", "musl", "netbase", "tzdata"}

// statusHook keeps what each package says of itself where distroless images do.
const statusHook = `set -eu; mkdir -p "$1/var/lib/dpkg/status.d"
for deb in "$1"/var/cache/apt/archives/*.deb; do
  name=${deb##*/}; dpkg-deb --field "$deb" > "$1/var/lib/dpkg/status.d/${name%%_*}"
done`

// bootstrap runs mmdebstrap with the sources, proxy and keys of this machine's apt.
type bootstrap struct {
	suite string
	opt   Options
}

const installMmdebstrap = "apt-get install -y --no-install-recommends mmdebstrap debian-archive-keyring"

// newBootstrap finds out whether mmdebstrap is there or can be installed, and
// changes nothing.
func newBootstrap(suite string, opt Options) (*bootstrap, error) {
	if _, err := exec.LookPath("mmdebstrap"); err == nil {
		return &bootstrap{suite, opt}, nil
	}
	if _, aptErr := exec.LookPath("apt-get"); aptErr != nil {
		return nil, errors.New("mmdebstrap is not installed, and there is no apt-get to install it with: do this on Debian")
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("mmdebstrap is not installed: run `sudo " + installMmdebstrap + "`")
	}
	return &bootstrap{suite, opt}, nil
}

// installing is held by the one run of a process that installs mmdebstrap.
var installing sync.Mutex

// program is mmdebstrap, which is installed through apt if it is not there.
func (b *bootstrap) program(ctx context.Context) (string, error) {
	installing.Lock()
	defer installing.Unlock()
	if path, err := exec.LookPath("mmdebstrap"); err == nil {
		return path, nil
	}
	b.opt.log("running %s", installMmdebstrap)
	args := append(strings.Fields(installMmdebstrap)[1:], "-o", "DPkg::Lock::Timeout=300")
	apt := exec.CommandContext(ctx, "apt-get", args...)
	apt.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if err := runQuiet(apt); err != nil {
		update := exec.CommandContext(ctx, "apt-get", "update", "-q")
		again := exec.CommandContext(ctx, "apt-get", args...)
		again.Env = apt.Env
		if err := errors.Join(runQuiet(update), runQuiet(again)); err != nil {
			return "", fmt.Errorf("install mmdebstrap: %w", err)
		}
	}
	return exec.LookPath("mmdebstrap")
}

func runQuiet(cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, lastLines(out.String(), 6))
	}
	return nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

// run writes the tarball mmdebstrap makes.
func (b *bootstrap) run(ctx context.Context, to io.Writer, args ...string) error {
	tmp, err := os.MkdirTemp("", "vmbuild-bootstrap-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	conf := filepath.Join(tmp, "apt.conf")
	if err := os.WriteFile(conf, aptSettings(ctx), 0o644); err != nil {
		return err
	}
	program, err := b.program(ctx)
	if err != nil {
		return err
	}
	args = append(args, "--format=tar", "--skip=output/dev", "--aptopt="+conf, b.suite, "-", "-")
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "SOURCE_DATE_EPOCH="+strconv.FormatInt(epoch.Unix(), 10))
	cmd.Stdin = strings.NewReader(strings.Join(aptSources("/etc/apt", b.suite), "\n") + "\n")
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = to, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it then clears up after itself
	cmd.WaitDelay = 15 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("mmdebstrap: %w: %s", err, lastLines(stderr.String(), 6))
	}
	return nil
}

// unpacked is a tarball of the packages in contents, unpacked and not
// configured: that runs no program of theirs, so any architecture takes seconds.
func (b *bootstrap) unpacked(ctx context.Context, p v1.Platform) (string, error) {
	file := b.opt.dir("packages", b.suite+"-"+p.Architecture+"-1.tar")
	return file, exclusive(ctx, file, func() error {
		if _, err := os.Stat(file); err == nil {
			return nil
		}
		b.opt.log("unpacking %d packages of Debian %s for %s", len(contents), b.suite, p.String())
		return writeBeside(file, func(w io.Writer) error {
			return b.run(ctx, w, "--variant=extract", "--architectures="+p.Architecture, "--skip=check/qemu",
				"--include="+strings.Join(contents, ","), "--extract-hook="+statusHook)
		})
	})
}

// minbase is a complete small Debian, configured.
func (b *bootstrap) minbase(ctx context.Context, p v1.Platform) (Rootfs, error) {
	file := b.opt.dir("rootfs", b.suite+"-minbase-"+p.Architecture+"-1.tar.gz")
	err := exclusive(ctx, file, func() error {
		if _, err := os.Stat(file); err == nil {
			return nil
		}
		b.opt.log("bootstrapping Debian %s for %s", b.suite, p.String())
		return writeBeside(file, func(w io.Writer) error {
			z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
			err := b.run(ctx, z, "--variant=minbase", "--architectures="+p.Architecture)
			return errors.Join(err, z.Close())
		})
	})
	if err != nil {
		return Rootfs{}, err
	}
	return described(file)
}

// aptSettings are what this machine's apt needs to reach its mirrors.
func aptSettings(ctx context.Context) []byte {
	out, _ := exec.CommandContext(ctx, "apt-config", "dump").Output()
	var keep []byte
	for _, line := range strings.Split(string(out), "\n") {
		for _, p := range []string{"Acquire::http::", "Acquire::https::", "Acquire::Retries", "Acquire::ForceIPv"} {
			if strings.HasPrefix(line, p) {
				keep = append(keep, line+"\n"...)
			}
		}
	}
	return keep
}

// aptSources are the lines of Debian's own archive for a suite, from the apt
// configuration in dir; the public mirror when there are none.
func aptSources(dir, suite string) []string {
	var lines []string
	add := func(uri, s string, components []string) {
		last := uri[strings.LastIndexByte(strings.TrimRight(uri, "/"), '/')+1:]
		last = strings.TrimRight(last, "/")
		scheme, _, _ := strings.Cut(uri, ":")
		own := s == suite || slices.Contains([]string{suite + "-updates", suite + "-security", suite + "-backports"}, s)
		if line := "deb " + uri + " " + s + " main"; own && slices.Contains([]string{"debian", "debian-security"}, last) &&
			slices.Contains([]string{"http", "https", "file"}, scheme) && slices.Contains(components, "main") && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	lists, _ := filepath.Glob(filepath.Join(dir, "sources.list.d", "*.list"))
	for _, file := range append([]string{filepath.Join(dir, "sources.list")}, lists...) {
		data, _ := os.ReadFile(file)
		for _, line := range strings.Split(string(data), "\n") {
			rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
			if !ok {
				continue
			}
			if rest = strings.TrimSpace(rest); strings.HasPrefix(rest, "[") {
				_, rest, _ = strings.Cut(rest, "]")
			}
			if f := strings.Fields(rest); len(f) >= 3 {
				add(f[0], f[1], f[2:])
			}
		}
	}
	stanzas, _ := filepath.Glob(filepath.Join(dir, "sources.list.d", "*.sources"))
	for _, file := range stanzas {
		data, _ := os.ReadFile(file)
		for _, f := range paragraphs(string(data)) {
			if !slices.Contains(strings.Fields(f["types"]), "deb") || strings.EqualFold(f["enabled"], "no") {
				continue
			}
			for _, uri := range strings.Fields(f["uris"]) {
				for _, s := range strings.Fields(f["suites"]) {
					add(uri, s, strings.Fields(f["components"]))
				}
			}
		}
	}
	main := func(l string) bool { return strings.Contains(l, " "+suite+" main") }
	if !slices.ContainsFunc(lines, main) {
		return []string{"deb http://deb.debian.org/debian " + suite + " main",
			"deb http://deb.debian.org/debian " + suite + "-updates main",
			"deb http://deb.debian.org/debian-security " + suite + "-security main"}
	}
	return lines
}

// paragraphs parses deb822 text into its fields, names in lower case.
func paragraphs(text string) []map[string]string {
	var all []map[string]string
	for _, para := range strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n\n") {
		fields, last := map[string]string{}, ""
		for _, line := range strings.Split(para, "\n") {
			if strings.HasPrefix(line, "#") {
				continue
			}
			if strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t") {
				fields[last] += "\n" + strings.TrimSpace(line)
				continue
			}
			if k, v, ok := strings.Cut(line, ":"); ok {
				last = strings.ToLower(k)
				fields[last] = strings.TrimSpace(v)
			}
		}
		if len(fields) > 0 {
			all = append(all, fields)
		}
	}
	return all
}
