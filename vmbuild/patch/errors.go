package patch

import (
	"bytes"
	"fmt"
	"strings"
)

// FileError says why a patch cannot be applied to a file as a whole.
type FileError struct {
	Patch, Path    string
	Problem        string
	AlreadyApplied bool // the file is already as the patch would leave it
}

func (e *FileError) Error() string {
	s := fmt.Sprintf("patch %s does not apply: %s %s", e.Patch, e.Path, e.Problem)
	if e.AlreadyApplied {
		s += "\nit looks already applied: drop the patch for this source, or give the original source"
	}
	return s
}

// HunkError says which hunk does not fit, and what is there instead.
type HunkError struct {
	Patch, Path string
	Hunk        int    // counted from 1 within the file
	PatchLine   int    // line of the hunk's header in the patch; 0 when unknown
	Line        int    // line of the file where the hunk was expected
	Text        string // the hunk itself
	Found       string // the closest lines of the file, numbered, differing ones marked; empty when nothing is like it
	Hint        string // what alone makes the difference, when that is known
}

func (e *HunkError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "patch %s", e.Patch)
	if e.PatchLine > 0 {
		fmt.Fprintf(&b, ":%d", e.PatchLine)
	}
	fmt.Fprintf(&b, " does not apply: hunk %d expects at %s:%d\n%s", e.Hunk, e.Path, e.Line, indent(e.Text))
	if e.Found == "" {
		b.WriteString("\nnone of these lines are in the file")
	} else {
		fmt.Fprintf(&b, "\nthe closest lines in %s are (! differs)\n%s", e.Path, indent(e.Found))
	}
	if e.Hint != "" {
		b.WriteString("\n" + e.Hint)
	}
	b.WriteString("\nmend the hunk, or limit the patch to the versions it fits")
	return b.String()
}

func (a *applier) hunkError(name string, lines [][]byte, i, expected, tie int) error {
	h := a.diff.TextFragments[i]
	e := &HunkError{Patch: a.patch, Path: name, Hunk: i + 1, Line: expected + 1,
		Text: strings.TrimSuffix(h.String(), "\n")}
	if i < len(a.lines) {
		e.PatchLine = a.lines[i]
	}
	if tie >= 0 {
		e.Hint = fmt.Sprintf("it fits equally near at lines %d and %d: give it more context", tie+1, 2*expected-tie+1)
	}
	want := oldLines(h)
	at := tie
	if at < 0 {
		at = closest(lines, want, expected)
	}
	if at < 0 {
		return e
	}
	var b strings.Builder
	spaceOnly, endingOnly := true, true
	for j, w := range want {
		if at+j >= len(lines) {
			b.WriteString("! end of file\n")
			spaceOnly, endingOnly = false, false
			break
		}
		l, mark := lines[at+j], ' '
		if !bytes.Equal(l, w) {
			mark = '!'
			spaceOnly = spaceOnly && bytes.Equal(bytes.Join(bytes.Fields(l), nil), bytes.Join(bytes.Fields(w), nil))
			endingOnly = endingOnly && bytes.Equal(bytes.TrimRight(l, "\r\n"), bytes.TrimRight(w, "\r\n"))
		}
		fmt.Fprintf(&b, "%c %5d  %s\n", mark, at+j+1, bytes.TrimRight(l, "\r\n"))
	}
	e.Found = strings.TrimSuffix(b.String(), "\n")
	if e.Hint == "" && endingOnly {
		e.Hint = "only line endings differ: one side has CRLF, the other LF"
	} else if e.Hint == "" && spaceOnly {
		e.Hint = "only white space differs"
	}
	return e
}

func indent(s string) string {
	return "    " + strings.ReplaceAll(s, "\n", "\n    ")
}
