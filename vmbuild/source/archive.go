package source

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"pharovm/vmbuild/patch"
)

// maxUnpacked bounds what an archive may unpack to, in bytes.
const maxUnpacked = 4 << 30

// member is one file of an archive; dirs are left out.
type member struct {
	name string
	mode fs.FileMode
	data []byte
}

// blob is what a git tree says of a file.
type blob struct {
	mode fs.FileMode
	id   [sha1.Size]byte
}

// readArchive reads the selected files of an archive and says how it was
// verified: by sha256, by the id of the git tree its content makes, or not.
func readArchive(ctx context.Context, file string, spec Spec) (content, string, error) {
	f, err := os.Open(file)
	if err != nil {
		return content{}, "", err
	}
	defer f.Close()
	fail := func(err error) (content, string, error) {
		return content{}, "", fmt.Errorf("archive %s: %w", file, err)
	}
	var members []member
	if strings.HasSuffix(file, ".zip") {
		members, err = readZip(ctx, f)
	} else {
		members, err = readTar(ctx, f)
	}
	if err != nil {
		return fail(err)
	}
	if err := stripFolder(members); err != nil {
		return fail(err)
	}
	files := map[string]patch.File{}
	blobs := map[string]blob{}
	crlf := map[string][]byte{}
	for _, m := range members {
		if _, ok := blobs[m.name]; ok {
			return fail(fmt.Errorf("holds %s twice", m.name))
		}
		m.data = collapseIdent(m.data)
		blobs[m.name] = blob{m.mode, blobID(m.data)}
		if bytes.Contains(m.data, []byte("\r\n")) {
			crlf[m.name] = m.data
		}
		if spec.selected(m.name) {
			files[m.name] = patch.File{Data: m.data, Mode: m.mode}
		}
	}
	c := content{files, hasIn(maps.Keys(blobs))}

	verified := ""
	if spec.ArchiveSHA256 != "" {
		sum, err := fileSHA256(file)
		if err != nil {
			return fail(err)
		}
		if sum == spec.ArchiveSHA256 {
			verified = "sha256"
		} else {
			verified = fmt.Sprintf("not verified: its sha256 is %s, the pinned one %s", sum, spec.ArchiveSHA256)
		}
	}
	if spec.Tree == "" {
		if verified == "" {
			verified = "not verified: nothing is pinned for this source"
		}
		return c, verified, nil
	}
	id := treeID(blobs)
	if id != spec.Tree {
		// `git archive` writes files with the attribute eol=crlf in that form.
		for name, data := range crlf {
			if eolCRLF(name, members) {
				data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
				blobs[name] = blob{blobs[name].mode, blobID(data)}
				if f, ok := files[name]; ok {
					files[name] = patch.File{Data: data, Mode: f.Mode}
				}
			}
		}
		if id2 := treeID(blobs); id2 == spec.Tree {
			id = id2
		}
	}
	switch {
	case id == spec.Tree && !strings.HasPrefix(verified, "not"):
		verified = strings.TrimPrefix(verified+", git tree", ", ")
	case id == spec.Tree:
		// The packing differs from the pinned archive, the content does not.
		verified = "git tree"
	case verified != "sha256":
		verified = fmt.Sprintf("not verified: its content makes the git tree %s, the pinned one is %s", id, spec.Tree)
	}
	return c, verified, nil
}

var identRE = regexp.MustCompile(`\$Id: ([0-9a-f]{40}) \$`)

// collapseIdent undoes git's ident expansion, which archives are made with:
// the id it put in is that of the file without it, which proves it.
func collapseIdent(data []byte) []byte {
	m := identRE.FindSubmatch(data)
	if m == nil {
		return data
	}
	plain := identRE.ReplaceAll(data, []byte("$$Id$$"))
	if id := blobID(plain); hex.EncodeToString(id[:]) == string(m[1]) {
		return plain
	}
	return data
}

// eolCRLF tells whether a .gitattributes of the archive gives name eol=crlf.
// It understands enough of the patterns; a wrong guess fails verification.
func eolCRLF(name string, members []member) bool {
	for _, m := range members {
		dir, base := path.Split(m.name)
		if base != ".gitattributes" || !strings.HasPrefix(name, dir) {
			continue
		}
		rel := strings.TrimPrefix(name, dir)
		for _, line := range strings.Split(string(m.data), "\n") {
			f := strings.Fields(line)
			if len(f) < 2 || !slices.Contains(f[1:], "eol=crlf") {
				continue
			}
			pat := regexp.QuoteMeta(strings.TrimPrefix(f[0], "/"))
			pat = strings.NewReplacer(`\*\*/`, `(.*/)?`, `\*\*`, `.*`, `\*`, `[^/]*`, `\?`, `[^/]`).Replace(pat)
			if !strings.Contains(f[0], "/") {
				pat = `(.*/)?` + pat
			}
			if re, err := regexp.Compile("^" + pat + "$"); err == nil && re.MatchString(rel) {
				return true
			}
		}
	}
	return false
}

// treeID computes the id git gives a tree of these files.
func treeID(blobs map[string]blob) string {
	type entry struct {
		mode, name string
		id         [sha1.Size]byte
	}
	var build func(prefix string, names []string) [sha1.Size]byte
	build = func(prefix string, names []string) [sha1.Size]byte {
		var entries []entry
		for len(names) > 0 {
			first, _, isDir := strings.Cut(names[0][len(prefix):], "/")
			if !isDir {
				b := blobs[names[0]]
				mode := "100644"
				if b.mode&fs.ModeSymlink != 0 {
					mode = "120000"
				} else if b.mode&0o111 != 0 {
					mode = "100755"
				}
				entries = append(entries, entry{mode, first, b.id})
				names = names[1:]
				continue
			}
			n := 0
			for n < len(names) && strings.HasPrefix(names[n], prefix+first+"/") {
				n++
			}
			entries = append(entries, entry{"40000", first, build(prefix+first+"/", names[:n])})
			names = names[n:]
		}
		// git sorts a directory as if its name ended in a slash.
		key := func(e entry) string {
			if e.mode == "40000" {
				return e.name + "/"
			}
			return e.name
		}
		slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(key(a), key(b)) })
		var body bytes.Buffer
		for _, e := range entries {
			fmt.Fprintf(&body, "%s %s\x00", e.mode, e.name)
			body.Write(e.id[:])
		}
		h := sha1.New()
		fmt.Fprintf(h, "tree %d\x00", body.Len())
		h.Write(body.Bytes())
		return [sha1.Size]byte(h.Sum(nil))
	}
	id := build("", slices.Sorted(maps.Keys(blobs)))
	return hex.EncodeToString(id[:])
}

// hasIn answers for files and for the directories they lie in.
func hasIn(names iter.Seq[string]) func(string) bool {
	known := map[string]bool{}
	for n := range names {
		for ; n != "." && !known[n]; n = path.Dir(n) {
			known[n] = true
		}
	}
	return func(mark string) bool { return known[strings.Trim(mark, "/")] }
}

// stripFolder removes the one folder that archives put everything in.
func stripFolder(members []member) error {
	if len(members) == 0 {
		return errors.New("is empty")
	}
	top, _, ok := strings.Cut(members[0].name, "/")
	for _, m := range members {
		if !ok || !strings.HasPrefix(m.name, top+"/") {
			return nil
		}
	}
	for i := range members {
		members[i].name = strings.TrimPrefix(members[i].name, top+"/")
	}
	return nil
}

func safeName(name string) (string, error) {
	clean := strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if !fs.ValidPath(clean) || strings.ContainsAny(clean, "\\\x00") {
		return "", fmt.Errorf("member %q leads out of the archive: this is not an archive of a source tree", name)
	}
	return clean, nil
}

func readTar(ctx context.Context, f io.ReadSeeker) ([]member, error) {
	var in io.Reader = f
	magic := make([]byte, 2)
	if _, err := io.ReadFull(f, magic); err != nil {
		return nil, fmt.Errorf("is empty or cut short (%w): fetch it again", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil, damaged(err)
		}
		defer z.Close()
		in = z
	}
	var members []member
	var total int64
	r := tar.NewReader(in)
	for {
		h, err := r.Next()
		switch {
		case err == io.EOF:
			return members, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return nil, damaged(err)
		case h.Typeflag == tar.TypeXGlobalHeader || h.Typeflag == tar.TypeDir && h.Name == "./":
			continue
		}
		name, err := safeName(h.Name)
		if err != nil {
			return nil, err
		}
		m := member{name: name}
		switch h.Typeflag {
		case tar.TypeDir:
			continue
		case tar.TypeSymlink:
			m.mode, m.data = fs.ModeSymlink|0o777, []byte(h.Linkname)
		case tar.TypeReg:
			if total += h.Size; h.Size < 0 || total > maxUnpacked {
				return nil, fmt.Errorf("unpacks to more than %d bytes", int64(maxUnpacked))
			}
			m.mode = regular(h.Mode&0o100 != 0)
			if m.data, err = io.ReadAll(r); err != nil {
				return nil, fmt.Errorf("at %s it %w", name, damaged(err))
			}
		default:
			return nil, fmt.Errorf("member %s is neither a file, a directory nor a symbolic link", name)
		}
		members = append(members, m)
	}
}

func damaged(err error) error {
	return fmt.Errorf("cannot be read, it is cut short, damaged or no archive (%w): fetch it again", err)
}

func readZip(ctx context.Context, f *os.File) ([]member, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	z, err := zip.NewReader(f, info.Size())
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return nil, damaged(err)
	}
	var members []member
	var total uint64
	for _, e := range z.File {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		name, err := safeName(e.Name)
		if err != nil {
			return nil, err
		}
		if e.Mode().IsDir() {
			continue
		}
		if total += e.UncompressedSize64; total > maxUnpacked {
			return nil, fmt.Errorf("unpacks to more than %d bytes", int64(maxUnpacked))
		}
		in, err := e.Open()
		if err != nil {
			return nil, fmt.Errorf("at %s it %w", name, damaged(err))
		}
		data, err := io.ReadAll(io.LimitReader(in, int64(e.UncompressedSize64)+1))
		in.Close()
		if err != nil {
			return nil, fmt.Errorf("at %s it %w", name, damaged(err))
		}
		m := member{name, regular(e.Mode()&0o100 != 0), data}
		switch {
		case e.Mode()&fs.ModeSymlink != 0:
			m.mode = fs.ModeSymlink | 0o777
		case !e.Mode().IsRegular():
			return nil, fmt.Errorf("member %s is neither a file, a directory nor a symbolic link", name)
		}
		members = append(members, m)
	}
	return members, nil
}
