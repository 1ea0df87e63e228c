package base

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// tree is a file system put together in memory, by path.
type tree map[string]entry

type entry struct {
	tar.Header
	data []byte
}

func (t tree) file(name string, mode int64, data string) {
	t[name] = entry{tar.Header{Typeflag: tar.TypeReg, Mode: mode}, []byte(data)}
}

func (t tree) link(name, target string) {
	t[name] = entry{tar.Header{Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: target}, nil}
}

func (t tree) dir(name string, mode int64) {
	t[name] = entry{tar.Header{Typeflag: tar.TypeDir, Mode: mode}, nil}
}

// readTree reads a tarball of packages.
func readTree(ctx context.Context, file string) (tree, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t := tree{}
	r := tar.NewReader(reader{ctx, f})
	for {
		h, err := r.Next()
		if err == io.EOF {
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		if name := path.Clean(h.Name); name != "." {
			t[name] = entry{*h, data}
		}
	}
}

// write writes the tree as a layer: sorted, parents first, dated alike.
func (t tree) write(to io.Writer) error {
	for name := range maps.Clone(t) {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := t[dir]; !ok {
				t.dir(dir, 0o755)
			}
		}
	}
	w := tar.NewWriter(to)
	for _, name := range slices.Sorted(maps.Keys(t)) {
		e := t[name]
		h := &tar.Header{Name: name, Typeflag: e.Typeflag, Mode: e.Mode & 0o7777, Uid: e.Uid, Gid: e.Gid,
			Linkname: e.Linkname, Size: int64(len(e.data)), ModTime: epoch, Format: tar.FormatPAX}
		if e.Typeflag == tar.TypeDir {
			h.Name += "/"
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(e.data); err != nil {
			return err
		}
	}
	return w.Close()
}

// bundle is Mozilla's certificates in one file, as update-ca-certificates would make it.
func (t tree) bundle() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if strings.HasPrefix(name, "usr/share/ca-certificates/mozilla/") && strings.HasSuffix(name, ".crt") {
			b.Write(t[name].data)
		}
	}
	return b.String()
}

// made keeps what build puts together in the cache, as a layout of one image of one layer.
func made(ctx context.Context, b *bootstrap, name string, p v1.Platform, comment string, build func(tree) (tree, error)) (v1.Image, error) {
	dir := b.opt.dir("images", name+"-"+b.suite+"-"+p.Architecture+"-1")
	if img, err := onlyImage(dir); err == nil {
		return img, nil
	}
	err := exclusive(ctx, dir, func() error {
		if _, err := onlyImage(dir); err == nil {
			return nil
		}
		from, err := b.unpacked(ctx, p)
		if err != nil {
			return err
		}
		in, err := readTree(ctx, from)
		if err != nil {
			return fmt.Errorf("read the unpacked packages: %w: run `mage cache:prune` and try again", err)
		}
		out, err := build(in)
		if err != nil {
			return err
		}
		layer := dir + ".tar.gz"
		defer os.Remove(layer)
		err = writeBeside(layer, func(w io.Writer) error {
			z := gzip.NewWriter(w)
			return errors.Join(out.write(z), z.Close())
		})
		if err != nil {
			return err
		}
		img, err := oneLayer(layer, p, comment)
		if err != nil {
			return err
		}
		return writeLayout(dir, img)
	})
	if err != nil {
		return nil, err
	}
	return onlyImage(dir)
}

// debian is a base of Debian packages unpacked, and a builder root configured.
type debian struct {
	boot *bootstrap
	opt  Options
}

func (d *debian) image(ctx context.Context, p v1.Platform) (v1.Image, error) {
	return made(ctx, d.boot, "debian", p, "bootstrapped from the packages of Debian "+d.boot.suite+", unpacked, not configured", debianTree)
}

func (d *debian) rootfs(ctx context.Context, p v1.Platform) (Rootfs, error) {
	return d.boot.minbase(ctx, p)
}

// dropped are what a base image has no use for, and what only the stand-in needs.
var dropped = []string{"boot", "dev", "etc/apt", "etc/ld-musl", "lib/ld-musl", "bin/busybox", "usr/bin/ld-musl-config", "usr/share/bash-completion",
	"usr/share/bug", "usr/share/doc-base", "usr/share/info", "usr/share/initramfs-tools", "usr/share/lintian", "usr/share/locale", "usr/share/man",
	"usr/share/menu", "usr/share/pixmaps", "usr/share/doc/musl", "usr/share/doc/busybox-static", "var/cache", "var/lib/apt", "var/log",
	"var/lib/dpkg/status.d/musl", "var/lib/dpkg/status.d/busybox-static"}

// debianTree does by hand what the packages' scripts would do on installation.
func debianTree(in tree) (tree, error) {
	out := tree{}
	merged := func(name string) string {
		top, _, _ := strings.Cut(name, "/")
		if top == "bin" || top == "sbin" || strings.HasPrefix(top, "lib") {
			return "usr/" + name
		}
		return name
	}
	for name, e := range in {
		drop := slices.ContainsFunc(dropped, func(d string) bool { return strings.HasPrefix(name, d) }) ||
			strings.HasPrefix(name, "usr/share/doc/") && path.Base(name) != "copyright" ||
			strings.Contains(name, "-linux-musl") ||
			strings.HasPrefix(name, "var/lib/dpkg/") && !strings.HasPrefix(name, "var/lib/dpkg/status.d/") ||
			e.Typeflag != tar.TypeReg && e.Typeflag != tar.TypeDir && e.Typeflag != tar.TypeSymlink && e.Typeflag != tar.TypeLink
		if drop {
			continue
		}
		to := merged(name)
		if e.Typeflag == tar.TypeLink {
			e.Linkname = merged(path.Clean(e.Linkname))
		}
		if e.Typeflag == tar.TypeSymlink && to != name && strings.HasPrefix(e.Linkname, "..") {
			e.Linkname = path.Join("/", path.Dir(name), e.Linkname)
		}
		if _, ok := out[to]; ok && e.Typeflag == tar.TypeDir {
			continue
		}
		out[to] = e
	}
	for _, dir := range []string{"bin", "sbin", "lib"} {
		out.link(dir, "usr/"+dir)
	}
	if _, ok := out["usr/lib64"]; ok {
		out.link("lib64", "usr/lib64")
	}
	for _, dir := range []string{"dev", "proc", "sys", "run", "home", "mnt", "opt", "srv", "var/cache", "var/log"} {
		out.dir(dir, 0o755)
	}
	out.dir("root", 0o700)
	out.dir("tmp", 0o1777)
	out.dir("var/tmp", 0o1777)
	for to, from := range map[string]string{"etc/passwd": "usr/share/base-passwd/passwd.master", "etc/group": "usr/share/base-passwd/group.master",
		"etc/nsswitch.conf": "usr/share/libc-bin/nsswitch.conf"} {
		e, ok := in[from]
		if !ok {
			return nil, fmt.Errorf("the packages hold no /%s", from)
		}
		out.file(to, 0o644, string(e.data))
	}
	certs := in.bundle()
	if certs == "" {
		return nil, errors.New("the packages hold no certificates")
	}
	out.file("etc/ssl/certs/ca-certificates.crt", 0o644, certs)
	return out, nil
}

// standIn serves in place of an Alpine image where none can be had.
type standIn struct {
	boot *bootstrap
	spec Spec
	opt  Options
}

func (s *standIn) image(ctx context.Context, p v1.Platform) (v1.Image, error) {
	return made(ctx, s.boot, s.spec.Name+"-stand-in", p, "a stand-in for "+s.spec.Ref+" made of Debian packages",
		func(in tree) (tree, error) { return standInTree(in, s.spec) })
}

func (s *standIn) rootfs(context.Context, v1.Platform) (Rootfs, error) {
	return Rootfs{}, errors.New("a stand-in can be the base of an image, not a builder: the debian builder builds for musl too")
}

const applets = "[ ash awk basename cat chgrp chmod chown cp cut date dd df dirname du echo env expr false find grep gunzip gzip head hostname id kill ln ls " +
	"md5sum mkdir mktemp more mount mv nslookup ping printf ps pwd readlink rm rmdir sed sh sha256sum sleep sort stat stty tail tar tee test touch tr " +
	"true tty umount uname uniq vi wc wget which whoami xargs zcat"

// standInTree has musl and busybox where Alpine has them.
func standInTree(in tree, spec Spec) (tree, error) {
	out := tree{}
	for name, e := range in {
		switch {
		case strings.HasSuffix(name, "-linux-musl/libc.so") && e.Typeflag == tar.TypeReg:
			arch := strings.TrimSuffix(path.Base(path.Dir(name)), "-linux-musl")
			out.file("lib/ld-musl-"+arch+".so.1", 0o755, string(e.data))
			out.link("lib/libc.musl-"+arch+".so.1", "ld-musl-"+arch+".so.1")
		case name == "bin/busybox" || name == "usr/bin/busybox":
			out.file("bin/busybox", 0o755, string(e.data))
		case slices.Contains([]string{"musl", "busybox-static", "ca-certificates"}, path.Base(name)) && path.Dir(name) == "var/lib/dpkg/status.d",
			name == "usr/share/doc/musl/copyright", name == "usr/share/doc/busybox-static/copyright", name == "usr/share/doc/ca-certificates/copyright":
			out.file(name, 0o644, string(e.data))
		}
	}
	certs := in.bundle()
	if _, ok := out["bin/busybox"]; !ok || certs == "" || len(out) < 6 {
		return nil, errors.New("the packages hold no musl, busybox or certificates")
	}
	for _, a := range strings.Fields(applets) {
		out.link("bin/"+a, "busybox")
	}
	for _, dir := range []string{"dev", "proc", "sys", "run", "home", "mnt", "opt", "srv", "sbin", "usr/bin", "usr/sbin", "usr/lib", "var/log", "var/cache"} {
		out.dir(dir, 0o755)
	}
	out.dir("root", 0o700)
	out.dir("tmp", 0o1777)
	out.dir("var/tmp", 0o1777)
	out.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n")
	out.file("etc/group", 0o644, "root:x:0:root\nnobody:x:65534:\n")
	out.file("etc/os-release", 0o644, "NAME=\"stand-in for "+spec.Name+"\"\nID=vmbuild-stand-in\nID_LIKE="+spec.Name+
		"\nPRETTY_NAME=\"A stand-in for "+spec.Ref+", made of Debian's musl and busybox; for trying out only\"\n")
	out.file("etc/ssl/certs/ca-certificates.crt", 0o644, certs)
	out.link("etc/ssl/cert.pem", "certs/ca-certificates.crt")
	return out, nil
}
