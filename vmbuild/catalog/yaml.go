package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// Error is a mistake in one of the catalogue's files. It prints as
// "file:line: message", which editors and terminals turn into a link.
type Error struct {
	File string
	Line int // 1-based; 0 when the whole file is meant
	Msg  string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Msg)
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Msg)
}

// Text is a YAML scalar that remembers the line it stands on, so that a check
// made long after parsing can still point at it.
type Text struct {
	Value string
	Line  int
}

// UnmarshalYAML implements yaml.NodeUnmarshaler.
func (t *Text) UnmarshalYAML(node ast.Node) error {
	t.Line = node.GetToken().Position.Line
	switch n := node.(type) {
	case *ast.StringNode:
		t.Value = n.Value
	case *ast.LiteralNode:
		t.Value = n.Value.Value
	case ast.ScalarNode:
		t.Value = n.GetToken().Value
	default:
		return &Error{Line: t.Line, Msg: "a single word or text is wanted here, not a " + strings.ToLower(node.Type().String())}
	}
	return nil
}

// MarshalText writes the value alone, in JSON as elsewhere.
func (t Text) MarshalText() ([]byte, error) { return []byte(t.Value), nil }

func (t Text) String() string { return t.Value }

// decode reads one YAML file strictly: a key that the type does not have is an
// error, so that a misspelt key never passes for an absent one.
func decode(fsys fs.FS, file string, into any) error {
	data, err := fs.ReadFile(fsys, file)
	if err != nil {
		return fmt.Errorf("reading the catalogue: %w", err)
	}
	return decodeBytes(file, data, into)
}

func decodeBytes(file string, data []byte, into any) (err error) {
	// The decoder has faults that odd files reach; a user's file must not end the program.
	defer func() {
		if fault := recover(); fault != nil {
			err = &Error{File: file, Msg: "this YAML cannot be read: write it as plainly as the files beside it"}
		}
	}()
	if err := checkKeys(file, data, into); err != nil {
		return err
	}
	err = yaml.UnmarshalWithOptions(data, into, yaml.DisallowUnknownField())
	if err == nil {
		return nil
	}
	var own *Error
	if errors.As(err, &own) {
		return &Error{file, own.Line, own.Msg}
	}
	var at yaml.Error
	if errors.As(err, &at) && at.GetToken() != nil {
		return &Error{File: file, Line: at.GetToken().Position.Line, Msg: at.GetMessage()}
	}
	return &Error{File: file, Msg: firstLine(err.Error())}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// Suggest ends a sentence about an unknown name with the nearest right one, or
// with all of them when they are few or none is near.
func Suggest(name string, known []string) string {
	known = slices.Clone(known)
	slices.Sort(known)
	best, score := "", 0.0
	for _, k := range known {
		s := levenshtein.Match(strings.ToLower(name), strings.ToLower(k), nil)
		part := strings.Contains(strings.ToLower(k), strings.ToLower(name))
		if part && (len(name) > 2 || name != "" && strings.HasPrefix(strings.ToLower(k), strings.ToLower(name))) {
			s = max(s, 0.8)
		}
		if s > score {
			best, score = k, s
		}
	}
	switch {
	case score >= 0.6 && len(known) > 8:
		return fmt.Sprintf("did you mean %s?", best)
	case score >= 0.6:
		return fmt.Sprintf("did you mean %s? (allowed: %s)", best, strings.Join(known, ", "))
	case len(known) == 0:
		return "there are none"
	default:
		return "allowed: " + strings.Join(known, ", ")
	}
}

func isHex(s string, digits int) bool {
	return len(s) == digits && strings.Trim(s, "0123456789abcdef") == ""
}

func isDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	return ok && isHex(hex, 64)
}

func oneOf(file, what string, t Text, allowed ...string) error {
	if slices.Contains(allowed, t.Value) {
		return nil
	}
	if t.Value == "" {
		return &Error{file, t.Line, fmt.Sprintf("%s is missing: %s", what, Suggest("", allowed))}
	}
	return &Error{file, t.Line, fmt.Sprintf("%s %q is not known: %s", what, t.Value, Suggest(t.Value, allowed))}
}
