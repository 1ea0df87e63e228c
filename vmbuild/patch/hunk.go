package patch

import (
	"bytes"
	"errors"

	"github.com/bluekeyes/go-gitdiff/gitdiff"
)

// hunks applies every hunk to data, or reports every one that does not fit.
func (a *applier) hunks(name string, data []byte) ([]byte, []int, error) {
	lines := bytes.SplitAfter(data, []byte("\n"))
	if n := len(lines); len(lines[n-1]) == 0 {
		lines = lines[:n-1]
	}
	var out []byte
	var offsets []int
	var errs []error
	next, shift := 0, 0
	for i, h := range a.diff.TextFragments {
		want := oldLines(h)
		stated := int(h.OldPosition) - 1
		if h.OldLines == 0 {
			stated++ // an insertion without context names the line before it
		}
		pos, ties := locate(lines, want, stated+shift, next)
		if pos < 0 || ties {
			errs = append(errs, a.hunkError(name, lines, i, stated+shift, pos))
			continue
		}
		shift = pos - stated
		offsets = append(offsets, shift)
		for _, l := range lines[next:pos] {
			out = append(out, l...)
		}
		out = append(out, side(h, gitdiff.Line.New)...)
		next = pos + len(want)
	}
	if len(errs) > 0 {
		if a.reversed(lines) {
			return nil, nil, &FileError{Patch: a.patch, Path: name, Problem: "already holds what the patch would make of it", AlreadyApplied: true}
		}
		return nil, nil, errors.Join(errs...)
	}
	for _, l := range lines[next:] {
		out = append(out, l...)
	}
	return out, offsets, nil
}

// reversed tells whether the new side of every hunk is in the file, in order.
func (a *applier) reversed(lines [][]byte) bool {
	next := 0
	for _, h := range a.diff.TextFragments {
		var want [][]byte
		for _, l := range h.Lines {
			if l.New() {
				want = append(want, []byte(l.Line))
			}
		}
		if len(want) == 0 {
			return false
		}
		pos, _ := locate(lines, want, max(int(h.NewPosition)-1, next), next)
		if pos < 0 {
			return false
		}
		next = pos + len(want)
	}
	return true
}

func oldLines(h *gitdiff.TextFragment) [][]byte {
	var want [][]byte
	for _, l := range h.Lines {
		if l.Old() {
			want = append(want, []byte(l.Line))
		}
	}
	return want
}

func side(h *gitdiff.TextFragment, keep func(gitdiff.Line) bool) []byte {
	var b []byte
	for _, l := range h.Lines {
		if keep(l) {
			b = append(b, l.Line...)
		}
	}
	return b
}

// locate finds want in lines at or after from, as near to expected as it can
// be. ties is true when two places are equally near and neither is expected.
// A hunk without old lines has no context to search by and stays in its place.
func locate(lines, want [][]byte, expected, from int) (pos int, ties bool) {
	last := len(lines) - len(want)
	if len(want) > 0 {
		expected = max(from, min(expected, last))
	}
	fits := func(p int) bool {
		if p < from || p > last {
			return false
		}
		for i, w := range want {
			if !bytes.Equal(lines[p+i], w) {
				return false
			}
		}
		return true
	}
	if fits(expected) {
		return expected, false
	}
	if len(want) == 0 {
		return -1, false
	}
	for d := 1; expected-d >= from || expected+d <= last; d++ {
		before, after := fits(expected-d), fits(expected+d)
		switch {
		case before && after:
			return expected - d, true
		case before:
			return expected - d, false
		case after:
			return expected + d, false
		}
	}
	return -1, false
}

// closest returns where most of want's lines are found, nearest to expected,
// or -1 when no line of it is anywhere.
func closest(lines, want [][]byte, expected int) int {
	best, score, dist := -1, 0, 0
	for p := 0; p < len(lines); p++ {
		n := 0
		for i, w := range want {
			if p+i < len(lines) && bytes.Equal(bytes.TrimSpace(lines[p+i]), bytes.TrimSpace(w)) && len(bytes.TrimSpace(w)) > 0 {
				n++
			}
		}
		d := p - expected
		if d < 0 {
			d = -d
		}
		if n > score || n == score && n > 0 && d < dist {
			best, score, dist = p, n, d
		}
	}
	return best
}
