package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Profile says which plugins a VM keeps. It names plugins or groups; a profile
// that extends another starts from that one's decisions.
type Profile struct {
	Name        Text    `yaml:"name"`
	Description string  `yaml:"description"`
	Extends     Text    `yaml:"extends"`
	Default     Text    `yaml:"default"` // keep or leave-out: for plugins no rule names
	Keep        []*Rule `yaml:"keep"`
	LeaveOut    []*Rule `yaml:"leave-out"`

	file string
}

// Rule is one reason and the plugins or groups it is about.
type Rule struct {
	Names []Text `yaml:"names"`
	Why   string `yaml:"why"`
}

// Decision is what a profile makes of one plugin, and why.
type Decision struct {
	Plugin *Plugin `json:"plugin"`
	Keep   bool    `json:"keep"`
	Why    string  `json:"why"`
	From   string  `json:"from"` // file:line of the rule, or the file when its default decided
}

// File is where the profile was read from.
func (p *Profile) File() string { return p.file }

func (c *Catalog) loadProfile(fsys fs.FS, file string) error {
	p := &Profile{}
	if err := decode(fsys, file, p); err != nil {
		return err
	}
	p.file = file // after decoding: a file that says nothing empties the value
	if err := errors.Join(named(file, p.Name), p.check()); err != nil {
		return err
	}
	c.Profiles[p.Name.Value] = p
	return nil
}

// Profile finds a profile by name, or reads the user's own when name is a path
// (it holds a separator or ends in .yaml).
func (c *Catalog) Profile(name string) (*Profile, error) {
	if !strings.ContainsAny(name, `/\`) && !strings.HasSuffix(name, ".yaml") {
		p, err := Lookup("profile", c.Profiles, name)
		if _, own := os.Stat(name + ".yaml"); err != nil && own == nil {
			return nil, fmt.Errorf("%w; for the file here, write ./%s.yaml", err, name)
		}
		return p, err
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading the profile %s: %w: name one of %s, or the path of your own", name, err,
			strings.Join(slices.Sorted(maps.Keys(c.Profiles)), ", "))
	}
	file := filepath.ToSlash(name)
	p := &Profile{}
	if err := decodeBytes(file, data, p); err != nil {
		return nil, err
	}
	p.file = file
	if err := errors.Join(named(file, p.Name), p.check(), c.checkProfile(p)); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Profile) check() error {
	var errs []error
	if p.Default.Value != "" || p.Extends.Value == "" {
		errs = append(errs, oneOf(p.file, "default", p.Default, "keep", "leave-out"))
	}
	seen := map[string]Text{}
	for _, r := range slices.Concat(p.Keep, p.LeaveOut) {
		if r == nil || len(r.Names) == 0 {
			errs = append(errs, &Error{p.file, 0, "a rule names no plugin or group: fill its `names`"})
			continue
		}
		if r.Why == "" {
			errs = append(errs, &Error{p.file, r.Names[0].Line, "say why: every rule has a `why`"})
		}
		for _, n := range r.Names {
			if first, ok := seen[n.Value]; ok {
				errs = append(errs, &Error{p.file, n.Line, fmt.Sprintf("%s is named on line %d already: name it once", n.Value, first.Line)})
			}
			seen[n.Value] = n
		}
	}
	return errors.Join(errs...)
}

// checkProfile checks what needs the whole catalogue: names and `extends`.
func (c *Catalog) checkProfile(p *Profile) error {
	known := map[string]bool{}
	for _, s := range c.Sources {
		for name := range s.Plugins {
			known[name] = true
		}
		for group := range s.Groups {
			known[group] = true
		}
	}
	var errs []error
	for _, r := range slices.Concat(p.Keep, p.LeaveOut) {
		for _, n := range r.Names {
			if !known[n.Value] {
				errs = append(errs, &Error{p.file, n.Line, fmt.Sprintf("no source has a plugin or group %q: %s", n.Value, Suggest(n.Value, slices.Collect(maps.Keys(known))))})
			}
		}
	}
	_, err := c.chain(p)
	return errors.Join(append(errs, err)...)
}

// chain is the profile and what it extends, the furthest ancestor first.
func (c *Catalog) chain(p *Profile) ([]*Profile, error) {
	chain := []*Profile{p}
	names := []string{p.Name.Value}
	for at := p; at.Extends.Value != ""; {
		next, ok := c.Profiles[at.Extends.Value]
		if !ok {
			return nil, &Error{at.file, at.Extends.Line, fmt.Sprintf("it extends %q, which is no profile: %s", at.Extends.Value, Suggest(at.Extends.Value, slices.Collect(maps.Keys(c.Profiles))))}
		}
		if slices.Contains(names, next.Name.Value) {
			return nil, &Error{at.file, at.Extends.Line, fmt.Sprintf("profiles extend each other in a circle: %s: take one `extends` out", strings.Join(append(names, next.Name.Value), " → "))}
		}
		names = append(names, next.Name.Value)
		chain = append(chain, next)
		at = next
	}
	slices.Reverse(chain)
	return chain, nil
}

// Decide applies a profile to a source: one decision for every plugin the
// source has, sorted by name.
//
// Within one profile a plugin's own name beats its groups', and leaving a group
// out beats keeping another; a profile's rules and default beat those of the
// one it extends, and any rule beats any default. It is an error to leave out what a kept plugin needs, and to keep by
// name a plugin that the source does not have or that cannot be built.
func (c *Catalog) Decide(p *Profile, s *Source) ([]Decision, error) {
	chain, err := c.chain(p)
	if err != nil {
		return nil, err
	}
	decided := map[string]*Decision{}
	for _, name := range s.PluginNames() {
		decided[name] = &Decision{Plugin: s.Plugins[name]}
	}
	byName := map[string]bool{}
	var errs []error
	for _, p := range chain {
		if p.Default.Value != "" {
			for _, d := range decided {
				d.Keep, d.From, d.Why = p.Default.Value == "keep", p.file, "default of profile "+p.Name.Value
			}
		}
	}
	for _, p := range chain {
		// Weakest first: kept groups, groups left out, then single plugins.
		apply := func(rules []*Rule, keep, single bool) {
			for _, r := range rules {
				for _, n := range r.Names {
					_, isPlugin := s.Plugins[n.Value]
					if single && !isPlugin && keep && !c.isGroup(n.Value) {
						errs = append(errs, &Error{p.file, n.Line, fmt.Sprintf("it keeps %s, which the source %s does not have: %s", n.Value, s.Name, Suggest(n.Value, s.PluginNames()))})
					}
					for name, d := range decided {
						hit := name == n.Value
						if !single {
							hit = slices.Contains(d.Plugin.Groups, n.Value)
						}
						if hit {
							d.Keep, d.Why, d.From = keep, r.Why, fmt.Sprintf("%s:%d", p.file, n.Line)
							byName[name] = single
						}
					}
				}
			}
		}
		apply(p.Keep, true, false)
		apply(p.LeaveOut, false, false)
		apply(p.Keep, true, true)
		apply(p.LeaveOut, false, true)
	}

	out := make([]Decision, 0, len(decided))
	for _, name := range s.PluginNames() {
		d := decided[name]
		if d.Keep && d.Plugin.Broken != "" {
			if byName[name] {
				errs = append(errs, fmt.Errorf("%s: it keeps %s, which cannot be built from %s: %s: take it out of `keep`", d.From, name, s.Name, d.Plugin.Broken))
			}
			d.Keep, d.Why = false, "cannot be built: "+d.Plugin.Broken
		}
		out = append(out, *d)
	}
	for _, d := range out {
		if !d.Keep {
			continue
		}
		for _, need := range d.Plugin.Needs {
			if n := decided[need]; !n.Keep {
				errs = append(errs, fmt.Errorf("%s: it leaves out %s, which %s needs: keep %s, or leave out %s too",
					n.From, need, d.Plugin.Name, need, d.Plugin.Name))
			}
		}
	}
	return out, errors.Join(errs...)
}

func (c *Catalog) isGroup(name string) bool {
	for _, s := range c.Sources {
		if _, ok := s.Groups[name]; ok {
			return true
		}
	}
	return false
}
