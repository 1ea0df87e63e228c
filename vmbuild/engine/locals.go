package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// contentKey is a digest of all local sources. BuildKit sends again only files
// whose size or time changed since the last build with the same key. Our
// sources have fixed times, so that a patch that keeps a file's size would be
// missed: a key made from the content cannot miss it.
func contentKey(ctx context.Context, locals map[string]string) (string, error) {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(locals)) {
		fmt.Fprintf(h, "%q\n", name)
		root := locals[name]
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return hashFile(h, root, p, d)
		})
		if err != nil {
			return "", fmt.Errorf("reading local source %s: %w", name, err)
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:32], nil
}

func hashFile(h io.Writer, root, p string, d fs.DirEntry) error {
	rel, err := filepath.Rel(root, p)
	if err != nil {
		return err
	}
	info, err := d.Info()
	if err != nil {
		return err
	}
	fmt.Fprintf(h, "%q %v %d\n", filepath.ToSlash(rel), info.Mode(), info.ModTime().UnixNano())
	switch {
	case info.Mode().IsRegular():
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		fmt.Fprintf(h, "%d\n", info.Size())
		_, err = io.Copy(h, f)
		return err
	case info.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(p)
		fmt.Fprintf(h, "%q\n", to)
		return err
	}
	return nil
}

// shareLocals gives the local sources of a definition the content's key as
// their identity. llb makes a random one each time it marshals, so that no two
// builds share a step that reads a local source, and progress shows each of
// them once per build.
func shareLocals(def *llb.Definition, key string) (*pb.Definition, error) {
	in := def.ToPB()
	out := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}
	renamed := map[string]string{}
	for _, dt := range in.Def { // inputs come first
		old := string(digest.FromBytes(dt))
		var op pb.Op
		if err := op.Unmarshal(dt); err != nil {
			return nil, fmt.Errorf("reading LLB: %w", err)
		}
		changed := false
		for _, input := range op.Inputs {
			if to, ok := renamed[input.Digest]; ok && to != input.Digest {
				input.Digest, changed = to, true
			}
		}
		if src := op.GetSource(); src != nil && src.Attrs[pb.AttrLocalUniqueID] != "" {
			src.Attrs[pb.AttrLocalUniqueID], changed = key, true
		}
		if changed {
			var err error
			if dt, err = op.Marshal(); err != nil {
				return nil, fmt.Errorf("writing LLB: %w", err)
			}
		}
		renamed[old] = string(digest.FromBytes(dt))
		out.Def = append(out.Def, dt)
	}
	for old, meta := range in.Metadata {
		if to, ok := renamed[old]; ok {
			old = to
		}
		out.Metadata[old] = meta
	}
	if in.Source != nil {
		out.Source = &pb.Source{Infos: in.Source.Infos, Locations: map[string]*pb.Locations{}}
		for old, where := range in.Source.Locations {
			if to, ok := renamed[old]; ok {
				old = to
			}
			out.Source.Locations[old] = where
		}
	}
	return out, nil
}
