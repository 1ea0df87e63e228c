package oci

import (
	"archive/tar"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Size is in bytes. Unpacked is the sum of the files' sizes; Compressed is the
// layer as a registry sends it.
type Size struct {
	Unpacked, Compressed int64
}

// LayerSize is the size of one layer.
type LayerSize struct {
	Digest    v1.Hash
	CreatedBy string
	Base      bool
	Size
}

// ImageSize is what an image weighs: its base, what is ours above it, and every
// layer. Config and manifest, a few kB, are not counted.
type ImageSize struct {
	Base   Size
	Own    Size
	Layers []LayerSize
}

// Total is base and own layers together: what a first pull costs, and what it
// takes on disk.
func (s ImageSize) Total() Size {
	return Size{s.Base.Unpacked + s.Own.Unpacked, s.Base.Compressed + s.Own.Compressed}
}

// Sizes measures img, whose lowest layers are base's (nil for none). It reads
// every layer, so give it an image from a Layout, not from a registry.
func Sizes(img, base v1.Image) (ImageSize, error) {
	var out ImageSize
	below := 0
	if base != nil {
		layers, err := base.Layers()
		if err != nil {
			return out, fmt.Errorf("measuring the base: %w", err)
		}
		below = len(layers)
	}
	layers, err := img.Layers()
	if err != nil {
		return out, fmt.Errorf("measuring an image: %w", err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return out, fmt.Errorf("measuring an image: %w", err)
	}
	var history []string
	for _, h := range cfg.History {
		if !h.EmptyLayer {
			history = append(history, h.CreatedBy)
		}
	}
	for i, l := range layers {
		ls := LayerSize{Base: i < below}
		// Bases made by other tools may have less history than layers.
		if len(history) == len(layers) {
			ls.CreatedBy = history[i]
		}
		if ls.Digest, err = l.Digest(); err == nil {
			ls.Compressed, err = l.Size()
		}
		if err == nil {
			ls.Unpacked, err = unpacked(l)
		}
		if err != nil {
			return out, fmt.Errorf("measuring layer %d: %w", i, err)
		}
		sum := &out.Own
		if ls.Base {
			sum = &out.Base
		}
		sum.Unpacked += ls.Unpacked
		sum.Compressed += ls.Compressed
		out.Layers = append(out.Layers, ls)
	}
	return out, nil
}

func unpacked(l v1.Layer) (total int64, err error) {
	r, err := l.Uncompressed()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return 0, err
		}
		if h.Typeflag == tar.TypeReg {
			total += h.Size
		}
	}
}
