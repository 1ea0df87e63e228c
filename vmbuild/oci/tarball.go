package oci

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// VMTarball writes the vm folder of a VM tree as out, which ends in ".tar.gz",
// with its checksum in out+".sha256" as `sha256sum -c` reads it, and the
// symbols folder, if there is one, as "…-symbols.tar.gz" with its own checksum.
// The archives unpack into a folder called as out is. The same tree gives the
// same bytes. It returns the names of the files written.
func (p Packer) VMTarball(ctx context.Context, tree, out string, epoch time.Time) ([]string, error) {
	stem, ok := strings.CutSuffix(out, ".tar.gz")
	if !ok {
		return nil, fmt.Errorf("writing %s: the name must end in .tar.gz", out)
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return nil, fmt.Errorf("writing %s: %w", out, err)
	}
	var written []string
	for _, part := range []struct{ dir, out string }{
		{"vm", out}, {"symbols", stem + "-symbols.tar.gz"},
	} {
		dir := filepath.Join(tree, part.dir)
		if _, err := os.Stat(dir); os.IsNotExist(err) && part.dir == "symbols" {
			continue
		}
		if err := ctx.Err(); err != nil {
			return written, err
		}
		if err := p.archive(dir, path.Base(filepath.ToSlash(stem)), part.out, epoch); err != nil {
			return written, fmt.Errorf("writing %s: %w", part.out, err)
		}
		written = append(written, part.out, part.out+".sha256")
	}
	return written, nil
}

func (p Packer) archive(dir, prefix, out string, epoch time.Time) error {
	files, err := Tree(dir, prefix, 0, 0, func(name string) bool { return name == "pharo" })
	if err != nil {
		return err
	}
	if files, err = arrange(files); err != nil {
		return err
	}
	var plain bytes.Buffer
	if err := writeTar(&plain, files, epoch); err != nil {
		return err
	}
	packed, err := p.compress(plain.Bytes())
	if err != nil {
		return err
	}
	sum := fmt.Sprintf("%x  %s\n", sha256.Sum256(packed), filepath.Base(out))
	if err := writeFile(out, bytes.NewReader(packed)); err != nil {
		return err
	}
	return writeFile(out+".sha256", strings.NewReader(sum))
}
