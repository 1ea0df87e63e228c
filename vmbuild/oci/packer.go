package oci

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
)

// Packer makes layers and archives. Compressing is most of what that costs, so
// a packer with a folder keeps what it compressed there, by content.
type Packer struct {
	Cache string // folder; empty keeps nothing
}

// Layer is Packer.Layer without a cache.
func Layer(files []File, epoch time.Time) (v1.Layer, error) { return Packer{}.Layer(files, epoch) }

// VMTarball is Packer.VMTarball without a cache.
func VMTarball(ctx context.Context, tree, out string, epoch time.Time) ([]string, error) {
	return Packer{}.VMTarball(ctx, tree, out, epoch)
}

// compression names what decides the compressed bytes beside the content. A
// test holds it against go.mod, since another version must not find what this
// one kept.
const compression = "klauspost-compress-v1.19.2-level9"

// compress gzips without a name or time in the header, at the level where a
// pull is smallest: layers of a base image are written once and pulled often.
func (p Packer) compress(plain []byte) ([]byte, error) {
	name := filepath.Join(p.Cache, fmt.Sprintf("%x-%s.gz", sha256.Sum256(plain), compression))
	if p.Cache != "" {
		if kept, err := os.ReadFile(name); err == nil && holds(kept, plain) {
			return kept, nil
		}
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(plain); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	if p.Cache != "" && os.MkdirAll(p.Cache, 0o755) == nil {
		// Failing to keep it costs time, nothing else.
		_ = writeFile(name, bytes.NewReader(packed.Bytes()))
	}
	return packed.Bytes(), nil
}

// holds compares the checksum and length that end a gzip file (RFC 1952, 2.3.1)
// with the content it should hold.
func holds(packed, plain []byte) bool {
	if len(packed) < 18 {
		return false
	}
	end := packed[len(packed)-8:]
	return binary.LittleEndian.Uint32(end) == crc32.ChecksumIEEE(plain) && binary.LittleEndian.Uint32(end[4:]) == uint32(len(plain))
}
