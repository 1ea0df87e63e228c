package patch

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// files is a tree in memory.
type files map[string]string

func (f files) read(name string) (File, error) {
	s, ok := f[name]
	if !ok {
		return File{}, fs.ErrNotExist
	}
	if target, ok := strings.CutPrefix(s, "->"); ok {
		return File{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}, nil
	}
	return File{Data: []byte(s), Mode: 0o644}, nil
}

// after is the tree with what was applied laid over it.
func (f files) after(a *Applied) files {
	out := maps.Clone(f)
	for name, file := range a.Files {
		if file == nil {
			delete(out, name)
		} else {
			out[name] = string(file.Data)
		}
	}
	return out
}

func lines(s string) string { return strings.ReplaceAll(s, " ", "\n") + "\n" }

const change = `A patch, as git format-patch writes it.
---
 a.c | 2 +-

diff --git a/a.c b/a.c
index 1111111..2222222 100644
--- a/a.c
+++ b/a.c
@@ -2,3 +2,3 @@ int main
 two
-three
+THREE
 four
-- 
2.39.5
`

func TestApply(t *testing.T) {
	base := files{"a.c": lines("one two three four five"), "b.c": lines("x y z")}
	for name, c := range map[string]struct {
		patches []string
		tree    files
		want    files
		changes []Change
	}{
		"in place": {[]string{change}, base, files{"a.c": lines("one two THREE four five")},
			[]Change{{Patch: "0.patch", Path: "a.c", Action: "change", Offsets: []int{0}}}},
		"moved down": {[]string{change}, files{"a.c": lines("0 0 0 one two three four")}, files{"a.c": lines("0 0 0 one two THREE four")},
			[]Change{{Patch: "0.patch", Path: "a.c", Action: "change", Offsets: []int{3}}}},
		"moved up": {[]string{change}, files{"a.c": lines("two three four")}, files{"a.c": lines("two THREE four")},
			[]Change{{Patch: "0.patch", Path: "a.c", Action: "change", Offsets: []int{-1}}}},
		"the nearest of two": {[]string{change}, files{"a.c": lines("0 0 two three four 0 0 0 two three four")},
			files{"a.c": lines("0 0 two THREE four 0 0 0 two three four")},
			[]Change{{Patch: "0.patch", Path: "a.c", Action: "change", Offsets: []int{1}}}},
		"a series on one file": {[]string{change, strings.NewReplacer("-three", "-THREE", "+THREE", "+3").Replace(change)}, base,
			files{"a.c": lines("one two 3 four five")}, nil},
		"two hunks, the second shifted by the first": {[]string{`--- a/a.c
+++ b/a.c
@@ -1,2 +1,4 @@
 one
+1a
+1b
 two
@@ -4,2 +6,2 @@
 four
-five
+FIVE
`}, base, files{"a.c": lines("one 1a 1b two three four FIVE")}, []Change{{Patch: "0.patch", Path: "a.c", Action: "change", Offsets: []int{0, 0}}}},
		"new file": {[]string{"diff --git a/d/n.c b/d/n.c\nnew file mode 100755\n--- /dev/null\n+++ b/d/n.c\n@@ -0,0 +1,2 @@\n+n\n+m\n"}, base,
			files{"d/n.c": "n\nm\n"}, []Change{{Patch: "0.patch", Path: "d/n.c", Action: "create"}}},
		"new and then changed": {[]string{"--- /dev/null\n+++ b/n.c\n@@ -0,0 +1 @@\n+n\n", "--- a/n.c\n+++ b/n.c\n@@ -1 +1 @@\n-n\n+m\n"}, base, files{"n.c": "m\n"}, nil},
		"deletion": {[]string{"diff --git a/b.c b/b.c\ndeleted file mode 100644\n--- a/b.c\n+++ /dev/null\n@@ -1,3 +0,0 @@\n-x\n-y\n-z\n"}, base,
			files{"b.c": ""}, []Change{{Patch: "0.patch", Path: "b.c", Action: "delete", Offsets: []int{0}}}},
		"rename": {[]string{"diff --git a/b.c b/c.c\nsimilarity index 60%\nrename from b.c\nrename to c.c\n--- a/b.c\n+++ b/c.c\n@@ -1,3 +1,3 @@\n x\n-y\n+Y\n z\n"}, base,
			files{"b.c": "", "c.c": lines("x Y z")}, []Change{{Patch: "0.patch", Path: "c.c", From: "b.c", Action: "rename", Offsets: []int{0}}}},
		"no newline at the end": {[]string{"--- a/b.c\n+++ b/b.c\n@@ -1,2 +1,2 @@\n x\n-y\n\\ No newline at end of file\n+Y\n\\ No newline at end of file\n"},
			files{"b.c": "x\ny"}, files{"b.c": "x\nY"}, nil},
		"CRLF on both sides": {[]string{"--- a/b.c\n+++ b/b.c\n@@ -1,2 +1,2 @@\n x\r\n-y\r\n+Y\r\n"}, files{"b.c": "x\r\ny\r\n"}, files{"b.c": "x\r\nY\r\n"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var series []Patch
			for i, p := range c.patches {
				series = append(series, Patch{Name: string(rune('0'+i)) + ".patch", Data: []byte(p)})
			}
			got, err := Apply(series, c.tree.read)
			if err != nil {
				t.Fatal(err)
			}
			after := c.tree.after(got)
			for name, want := range c.want {
				if after[name] != want {
					t.Errorf("%s is %q, want %q", name, after[name], want)
				}
			}
			if c.changes != nil && !slices.EqualFunc(got.Changes, c.changes, func(a, b Change) bool {
				return a.Patch == b.Patch && a.Path == b.Path && a.From == b.From && a.Action == b.Action && slices.Equal(a.Offsets, b.Offsets)
			}) {
				t.Errorf("changes %+v, want %+v", got.Changes, c.changes)
			}
		})
	}
}

func TestMode(t *testing.T) {
	got, err := Apply([]Patch{{"m.patch", []byte("diff --git a/run b/run\nold mode 100644\nnew mode 100755\n")}}, files{"run": "x"}.read)
	if err != nil {
		t.Fatal(err)
	}
	if f := got.Files["run"]; f.Mode != 0o755 || string(f.Data) != "x" || got.Changes[0].Action != "mode" {
		t.Errorf("got %+v, %+v", f, got.Changes)
	}
}

func TestDoesNotApply(t *testing.T) {
	for name, c := range map[string]struct {
		patch string
		tree  files
		want  []string
	}{
		"other lines": {change, files{"a.c": lines("one two drei four five")},
			[]string{"x.patch:9", "hunk 1", "a.c:2", "-three", "+THREE", "!     3  drei", "      4  four", "mend the hunk"}},
		"nothing like it":    {change, files{"a.c": lines("alpha beta")}, []string{"none of these lines are in the file"}},
		"line endings":       {change, files{"a.c": "one\r\ntwo\r\nthree\r\nfour\r\n"}, []string{"only line endings differ"}},
		"white space":        {change, files{"a.c": "one\ntwo\n\tthree\nfour\n"}, []string{"only white space differs"}},
		"equally near twice": {change, files{"a.c": lines("two three four x two three four")}, nil},
		"already applied":    {change, files{"a.c": lines("one two THREE four five")}, []string{"already applied"}},
		"already created":    {"--- /dev/null\n+++ b/n.c\n@@ -0,0 +1 @@\n+n\n", files{"n.c": "n\n"}, []string{"n.c is to be created and already exists", "already applied"}},
		"another is there":   {"--- /dev/null\n+++ b/n.c\n@@ -0,0 +1 @@\n+n\n", files{"n.c": "m\n"}, []string{"already exists"}},
		"no such file":       {change, files{}, []string{"a.c is to be changed and does not exist in this source"}},
		"deletes more":       {"--- a/b.c\n+++ /dev/null\n@@ -1,1 +0,0 @@\n-x\n", files{"b.c": "x\ny\n"}, []string{"holds more than the patch removes"}},
		"absolute":           {"--- /etc/passwd\n+++ /etc/passwd\n@@ -1 +1 @@\n-x\n+y\n", files{}, []string{"/etc/passwd", "refused"}},
		"climbs":             {strings.NewReplacer("a/a.c", "a/../../x", "b/a.c", "b/../../x").Replace(change), files{}, []string{"refused"}},
		"in .git":            {"--- /dev/null\n+++ b/.git/hooks/x\n@@ -0,0 +1 @@\n+n\n", files{}, []string{".git"}},
		"through a link":     {"--- /dev/null\n+++ b/d/x\n@@ -0,0 +1 @@\n+n\n", files{"d": "->/etc"}, []string{"d is not a directory"}},
		"a link itself":      {change, files{"a.c": "->/etc/passwd"}, []string{"symbolic link"}},
		"makes a link":       {"diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc/passwd\n\\ No newline at end of file\n", files{}, []string{"symbolic link"}},
		"binary":             {"diff --git a/i.png b/i.png\nindex 1..2 100644\nBinary files a/i.png and b/i.png differ\n", files{"i.png": "x"}, []string{"binary"}},
		"no patch":           {"hello\n", files{}, []string{"holds no diff"}},
		"cut short":          {change[:strings.Index(change, "-three")], files{}, []string{"not a unified diff"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Apply([]Patch{{"x.patch", []byte(c.patch)}}, c.tree.read)
			if c.want == nil {
				return
			}
			if err == nil {
				t.Fatal("it applies")
			}
			for _, w := range append(c.want, "x.patch") {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("message lacks %q:\n%s", w, err)
				}
			}
		})
	}
}

func TestEqualDistance(t *testing.T) {
	tree := files{"a.c": lines("two three four")}
	p := strings.Replace(change, "@@ -2,3 +2,3 @@", "@@ -5,3 +5,3 @@", 1)
	tree["a.c"] = lines("0 two three four 0 0 0 two three four") // lines 2 and 8, stated 5
	_, err := Apply([]Patch{{"x.patch", []byte(p)}}, tree.read)
	var h *HunkError
	if !errors.As(err, &h) || !strings.Contains(err.Error(), "lines 2 and 8") {
		t.Errorf("got %v", err)
	}
}

func TestReportsEveryHunk(t *testing.T) {
	p := change[:strings.Index(change, "-- \n")] + "--- a/b.c\n+++ b/b.c\n@@ -1 +1 @@\n-x\n+y\n"
	_, err := Apply([]Patch{{"x.patch", []byte(p)}}, files{"a.c": lines("a two b four"), "b.c": "q\n"}.read)
	if err == nil || !strings.Contains(err.Error(), "x.patch:9") || !strings.Contains(err.Error(), "x.patch:16") {
		t.Errorf("got %v", err)
	}
}

func TestApplyDir(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put("a.c", lines("one two three four"))
	put("sub/b.c", "x\n")
	good := Patch{"good.patch", []byte(change[:strings.Index(change, "-- \n")] + "--- /dev/null\n+++ b/new/n.c\n@@ -0,0 +1 @@\n+n\n--- a/sub/b.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n")}
	bad := Patch{"bad.patch", []byte("--- a/gone.c\n+++ b/gone.c\n@@ -1 +1 @@\n-x\n+y\n")}
	if _, err := ApplyDir(dir, []Patch{good, bad}); err == nil {
		t.Fatal("a bad series applies")
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "a.c")); string(got) != lines("one two three four") {
		t.Errorf("a failing series changed a.c: %q", got)
	}
	if _, err := ApplyDir(dir, []Patch{good}); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "a.c")); string(got) != lines("one two THREE four") {
		t.Errorf("a.c is %q", got)
	}
	if info, _ := os.Stat(filepath.Join(dir, "a.c")); runtime.GOOS != "windows" && info.Mode().Perm() != 0o755 {
		t.Errorf("a.c lost its mode: %v", info.Mode())
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "new/n.c")); string(got) != "n\n" {
		t.Errorf("new/n.c is %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "sub/b.c")); !os.IsNotExist(err) {
		t.Errorf("sub/b.c is still there: %v", err)
	}
}

func TestApplyDirKeepsInside(t *testing.T) {
	outside := t.TempDir()
	dir := t.TempDir()
	victim := filepath.Join(outside, "a.c")
	if err := os.WriteFile(victim, []byte(lines("one two three four")), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, "a.c")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{change, strings.NewReplacer("a/a.c", "a/out/a.c", "b/a.c", "b/out/a.c").Replace(change)} {
		if _, err := ApplyDir(dir, []Patch{{"x.patch", []byte(p)}}); err == nil {
			t.Error("a patch goes through a symbolic link")
		}
	}
	if got, _ := os.ReadFile(victim); string(got) != lines("one two three four") {
		t.Errorf("the file outside is changed: %q", got)
	}
}
