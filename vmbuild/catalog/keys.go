package catalog

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// checkKeys compares a file's keys with those of the type it is going to be
// decoded into. The decoder's own check names one stray key, at random, and not
// the right one; this one names all of them, each with the nearest right key.
// An empty entry where a definition is wanted is a mistake as well.
func checkKeys(file string, data []byte, into any) error {
	parsed, err := parser.ParseBytes(data, 0)
	if err != nil || len(parsed.Docs) == 0 || parsed.Docs[0].Body == nil {
		return nil // the decoder says what is wrong with the syntax
	}
	return keys(file, "", reflect.TypeOf(into), parsed.Docs[0].Body)
}

var (
	nodeUnmarshaler  = reflect.TypeFor[yaml.NodeUnmarshaler]()
	bytesUnmarshaler = reflect.TypeFor[yaml.BytesUnmarshaler]()
)

// keys checks one node; name is the key it stands under.
func keys(file, name string, t reflect.Type, node ast.Node) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if tag, ok := node.(*ast.TagNode); ok {
		return &Error{file, tag.Start.Position.Line, fmt.Sprintf("tags are not used here: take %s out", tag.Start.Value)}
	}
	if p := reflect.PointerTo(t); p.Implements(nodeUnmarshaler) || p.Implements(bytesUnmarshaler) {
		return nil
	}
	if anchor, ok := node.(*ast.AnchorNode); ok {
		node = anchor.Value
	}
	var errs []error
	switch n := node.(type) {
	case *ast.NullNode:
		if t.Kind() == reflect.Struct && name != "" {
			return &Error{file, n.Token.Position.Line, name + " is empty: fill it in or take it out"}
		}
	case *ast.AliasNode, *ast.MergeKeyNode: // checked where they are anchored
	case ast.MapNode:
		if t.Kind() != reflect.Struct && t.Kind() != reflect.Map {
			return wanted(file, name, t, node)
		}
		for entries := n.MapRange(); entries.Next(); {
			token := entries.Key().GetToken()
			if token == nil || token.Value == "<<" {
				continue
			}
			switch t.Kind() {
			case reflect.Map:
				errs = append(errs, keys(file, token.Value, t.Elem(), entries.Value()))
			case reflect.Struct:
				fields := fieldsOf(t)
				field, ok := fields[token.Value]
				if !ok {
					known := slices.Collect(maps.Keys(fields))
					errs = append(errs, &Error{file, token.Position.Line, fmt.Sprintf("unknown key %q: %s", token.Value, Suggest(token.Value, known))})
					continue
				}
				errs = append(errs, keys(file, token.Value, field, entries.Value()))
			}
		}
	case *ast.SequenceNode:
		if t.Kind() != reflect.Slice {
			return wanted(file, name, t, node)
		}
		for _, v := range n.Values {
			errs = append(errs, keys(file, "an entry of "+name, t.Elem(), v))
		}
	default:
		if k := t.Kind(); k == reflect.Slice || k == reflect.Struct || k == reflect.Map {
			return wanted(file, name, t, node)
		}
	}
	return errors.Join(errs...)
}

// wanted says which shape a value should have.
func wanted(file, name string, t reflect.Type, node ast.Node) error {
	shape := "one value is"
	switch t.Kind() {
	case reflect.Slice:
		shape = "a list, such as [a, b], is"
	case reflect.Struct, reflect.Map:
		shape = "keys with values are"
	}
	if name == "" {
		name = "this file"
	}
	line := 0
	if token := node.GetToken(); token != nil {
		line = token.Position.Line
	}
	return &Error{file, line, fmt.Sprintf("%s: %s wanted here, not a %s", name, shape, strings.ToLower(node.Type().String()))}
}

// fieldsOf are a struct's types by YAML key.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		key, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if key != "" && key != "-" {
			out[key] = t.Field(i).Type
		}
	}
	return out
}
