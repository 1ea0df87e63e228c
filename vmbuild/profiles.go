package vmbuild

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"pharovm/vmbuild/catalog"
	"pharovm/vmbuild/report"
)

// ProfileList prints every profile and what it makes of the request's source.
func (p *Project) ProfileList(o Options, out io.Writer) error {
	at, err := p.locate(o.withDefaults())
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "PROFILE\tKEPT\tLEFT OUT\tOF %s\n", strings.ToUpper(at.source.Name.Value))
	for _, name := range SortedKeys(p.Catalog.Profiles) {
		profile := p.Catalog.Profiles[name]
		decisions, err := p.Catalog.Decide(profile, at.source)
		if err != nil {
			return err
		}
		kept := 0
		for _, d := range decisions {
			if d.Keep {
				kept++
			}
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", name, kept, len(decisions)-kept, profile.Description)
	}
	return w.Flush()
}

// Shown is a profile applied to a source.
type Shown struct {
	Source   string        `json:"source"`
	Profile  string        `json:"profile"`
	Measured string        `json:"measured,omitempty"` // the build that sizes come from
	Plugins  []ShownPlugin `json:"plugins"`
}

// ShownPlugin is one plugin: the profile's decision, and its code and data in
// bytes where a build was there to measure.
type ShownPlugin struct {
	catalog.Decision
	Bytes int64 `json:"bytes,omitempty"`
}

// ProfileShow applies the request's profile to its source. Sizes come from the
// last report in dist/ that has a build of that source.
func (p *Project) ProfileShow(o Options) (*Shown, error) {
	o = o.withDefaults()
	at, err := p.locate(o)
	if err != nil {
		return nil, err
	}
	profile, err := p.Catalog.Profile(o.Profile)
	if err != nil {
		return nil, err
	}
	decisions, err := p.Catalog.Decide(profile, at.source)
	if err != nil {
		return nil, err
	}
	last, err := report.Load(p.Dist)
	if err != nil {
		return nil, err
	}
	shown := &Shown{Source: at.source.Name.Value, Profile: profile.Name.Value}
	sizes := map[string]int64{}
	if last != nil {
		for _, b := range last.Builds {
			if b.Source != shown.Source {
				continue
			}
			for _, plugin := range b.Plugins {
				if plugin.Bytes > 0 && sizes[plugin.Name] == 0 {
					sizes[plugin.Name], shown.Measured = plugin.Bytes, b.ID
				}
			}
		}
	}
	for _, d := range decisions {
		shown.Plugins = append(shown.Plugins, ShownPlugin{d, sizes[d.Plugin.Name]})
	}
	return shown, nil
}

// Table prints the plugins for people, the kept ones first.
func (s *Shown) Table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PLUGIN\tKIND\tGROUPS\tSIZE\tWHAT IT DOES\tWHY")
	for _, keep := range []bool{true, false} {
		fmt.Fprintf(w, "%s\n", map[bool]string{true: "kept:", false: "left out:"}[keep])
		for _, d := range s.Plugins {
			if d.Keep != keep {
				continue
			}
			size := "-"
			if d.Bytes > 0 {
				size = report.Bytes(d.Bytes)
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s (%s)\n", d.Plugin.Name, d.Plugin.Kind, strings.Join(d.Plugin.Groups, " "), size, d.Plugin.Does, d.Why, d.From)
		}
	}
	if s.Measured == "" {
		fmt.Fprintf(w, "Sizes are shown once a VM of %s has been built.\n", s.Source)
	} else {
		fmt.Fprintf(w, "Sizes: code and data of the plugin's objects, as last built (%s).\n", s.Measured)
	}
	return w.Flush()
}
