package vmbuild

import (
	"fmt"
	"io"
	"slices"
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
	fmt.Fprintf(w, "PROFILE\tKEPT\tLEFT OUT\tFOR\n")
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
	fmt.Fprintf(w, "\nof the %d plugins of %s %s\n", len(at.source.Plugins), at.source.Name, at.spec.Version)
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

// Table prints the plugins for people: the kept ones, then those left out, with
// the same reason together.
func (s *Shown) Table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(d ShownPlugin) {
		size := "-"
		if d.Bytes > 0 {
			size = report.Bytes(d.Bytes)
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", d.Plugin.Name, d.Plugin.Kind, size, d.Plugin.Does)
	}
	fmt.Fprintf(w, "kept by profile %s:\n", s.Profile)
	var reasons []string
	for _, d := range s.Plugins {
		if d.Keep {
			row(d)
		} else if why := d.Why + " (" + d.From + ")"; !slices.Contains(reasons, why) {
			reasons = append(reasons, why)
		}
	}
	for _, why := range reasons {
		fmt.Fprintf(w, "left out: %s\n", why)
		for _, d := range s.Plugins {
			if !d.Keep && d.Why+" ("+d.From+")" == why {
				row(d)
			}
		}
	}
	if s.Measured == "" {
		fmt.Fprintf(w, "Sizes are shown once dist/ has a VM of %s.\n", s.Source)
	} else {
		fmt.Fprintf(w, "Sizes: code and data of the plugin's objects, as last built (%s).\n", s.Measured)
	}
	return w.Flush()
}
