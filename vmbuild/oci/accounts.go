package oci

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// maxReadFile bounds what ReadFile takes into memory: it is for small text
// files, and the base comes from elsewhere.
const maxReadFile = 4 << 20

// ReadFile reads a regular file of img, as its topmost layers leave it. A file
// that is not there gives fs.ErrNotExist. Links are not followed.
func ReadFile(img v1.Image, name string) ([]byte, error) {
	data, h, err := lookup(img, name)
	if err == nil && h.Typeflag != tar.TypeReg {
		err = errors.New("not a regular file")
	}
	if err == nil && h.Size > maxReadFile {
		err = fmt.Errorf("it has %d bytes, more than %d", h.Size, maxReadFile)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s from an image: %w", name, err)
	}
	return data, nil
}

// lookup finds an entry of img, with its contents if they are small.
func lookup(img v1.Image, name string) ([]byte, *tar.Header, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, nil, err
	}
	name = strings.TrimPrefix(path.Clean(name), "/")
	for i := len(layers) - 1; i >= 0; i-- {
		data, h, err := findInLayer(layers[i], name)
		if h != nil || err != nil {
			return data, h, err
		}
	}
	return nil, nil, fs.ErrNotExist
}

// findInLayer gives no header when the layer does not speak of name, and
// fs.ErrNotExist when it deletes it.
func findInLayer(l v1.Layer, name string) ([]byte, *tar.Header, error) {
	r, err := l.Uncompressed()
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	deleted := false
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			if deleted {
				return nil, nil, fs.ErrNotExist
			}
			return nil, nil, nil
		}
		if err != nil {
			return nil, nil, err
		}
		switch strings.TrimPrefix(path.Clean(h.Name), "/") {
		case path.Join(path.Dir(name), ".wh."+path.Base(name)), path.Join(path.Dir(name), ".wh..wh..opq"):
			deleted = true
		case name:
			if h.Typeflag != tar.TypeReg || h.Size > maxReadFile {
				return nil, h, nil
			}
			data, err := io.ReadAll(tr)
			return data, h, err
		}
	}
}

// Accounts gives /etc/passwd and /etc/group as base has them (nil for none)
// with a user and a group called name added, without a password or a shell.
// An account of that name or number that is there already is an error.
func Accounts(base v1.Image, name string, uid, gid int, home string) ([]File, error) {
	passwd, err := account(base, "/etc/passwd", name, uid, fmt.Sprintf("%s:x:%d:%d::%s:/sbin/nologin\n", name, uid, gid, home))
	if err != nil {
		return nil, err
	}
	group, err := account(base, "/etc/group", name, gid, fmt.Sprintf("%s:x:%d:\n", name, gid))
	if err != nil {
		return nil, err
	}
	return []File{{Path: "/etc/group", Data: group}, {Path: "/etc/passwd", Data: passwd}}, nil
}

func account(base v1.Image, file, name string, id int, line string) ([]byte, error) {
	var old []byte
	if base != nil {
		var err error
		if old, err = ReadFile(base, file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if len(old) > 0 && !bytes.HasSuffix(old, []byte("\n")) {
		old = append(old, '\n')
	}
	for l := range strings.Lines(string(old)) {
		if f := strings.Split(strings.TrimSpace(l), ":"); len(f) > 2 && (f[0] == name || f[2] == fmt.Sprint(id)) {
			return nil, fmt.Errorf("the base's %s has %q already, where %s:%d should go: choose another user", file, f[0], name, id)
		}
	}
	return append(old, line...), nil
}
