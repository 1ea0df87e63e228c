package vmbuild

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"text/tabwriter"

	"golang.org/x/sync/errgroup"

	"pharovm/vmbuild/base"
	"pharovm/vmbuild/catalog"
	"pharovm/vmbuild/engine"
)

// finding is one thing doctor looked at.
type finding struct {
	name   string
	ok     bool
	detail string
	stops  string // what cannot be done without it
	remedy string
}

// Doctor prints what is there, what is missing, what that stops, and how to
// mend it. It starts nothing and changes nothing. The error says that no engine
// is in reach, since nothing can be built then.
func (p *Project) Doctor(ctx context.Context, o Options, out io.Writer) error {
	found := make([][]finding, 3)
	var g errgroup.Group
	g.Go(func() error { found[0] = p.engines(ctx, o.Engine); return nil })
	g.Go(func() error { found[1] = p.programs(); return nil })
	g.Go(func() error { found[2] = p.pinnedBases(ctx, o); return nil })
	g.Wait()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, title := range []string{"engines (one is enough)", "programs", "bases"} {
		fmt.Fprintf(w, "%s\n", title)
		for _, f := range found[i] {
			if f.ok {
				fmt.Fprintf(w, "  ok\t%s\t%s\n", f.name, f.detail)
				continue
			}
			fmt.Fprintf(w, "  missing\t%s\t%s\n", f.name, f.detail)
			if f.stops != "" {
				fmt.Fprintf(w, "  \t\tstops: %s\n", f.stops)
			}
			fmt.Fprintf(w, "  \t\tto mend: %s\n", f.remedy)
		}
	}
	fmt.Fprintln(w, "so, with one of the engines")
	for _, name := range SortedKeys(p.Catalog.Images) {
		fmt.Fprintf(w, "  image\t%s\t%s\n", name, p.verdict(p.Catalog.Images[name], found[2]))
	}
	fmt.Fprintf(w, "  source\tsample\tneeds no download; %s is fetched from where its file in sources/ says, or given by -source=DIR\n", defaultSource)
	return w.Flush()
}

// verdict says whether an image can be made with the bases that were found.
func (p *Project) verdict(i *catalog.Image, found []finding) string {
	have := func(base string) bool {
		return slices.ContainsFunc(found, func(f finding) bool { return f.name == base && f.ok })
	}
	builder, standIn := p.Catalog.Builders[i.Builder.Value], p.Catalog.Builders[i.StandIn.Value]
	switch {
	case i.Base.Value != "" && !have(i.Base.Value):
		return "cannot be made without its base, but VMBUILD_STAND_IN=1 makes it on a stand-in, for trying out only"
	case have(builder.Base.Value):
		return "can be made"
	case standIn != nil && have(standIn.Base.Value):
		return fmt.Sprintf("can be made, by builder %s in place of %s", standIn.Name, builder.Name)
	default:
		return "cannot be made: the base of its builder " + builder.Name.Value + " is missing"
	}
}

func (p *Project) engines(ctx context.Context, spec string) []finding {
	var out []finding
	for _, f := range engine.Probe(ctx, spec, p.engineOptions()) {
		out = append(out, finding{f.Name, f.OK, f.Detail, "building with it", f.Remedy})
	}
	return out
}

// programs are those that only some paths need.
func (p *Project) programs() []finding {
	git, mmdebstrap := "sudo apt-get install git", "sudo apt-get install mmdebstrap (a run as root does it itself)"
	if runtime.GOOS != "linux" {
		git, mmdebstrap = "install git", "none on this system: reach a registry, or name another base, as said below"
	}
	var out []finding
	for _, t := range []struct{ name, stops, remedy string }{
		{"git", "fetching sources by git; an archive is downloaded instead", git},
		{"mmdebstrap", "making a Debian base where no registry is in reach", mmdebstrap},
	} {
		path, err := exec.LookPath(t.name)
		out = append(out, finding{t.name, err == nil, path, t.stops, t.remedy})
	}
	return out
}

// pinnedBases asks for every base by its digest, all at once.
func (p *Project) pinnedBases(ctx context.Context, o Options) []finding {
	names := SortedKeys(p.Catalog.Bases)
	out := make([]finding, len(names))
	var g errgroup.Group
	for i, name := range names {
		g.Go(func() error {
			r, err := p.lookForBase(ctx, o, name, false, nil)
			if err != nil {
				reach := "reach its registry"
				if o.Offline {
					reach = "unset VMBUILD_OFFLINE"
				}
				out[i] = finding{name, false, brief(name, err), "images and builders on it, unless something stands in",
					reach + ", or set VMBUILD_MIRROR=HOST[/PREFIX], or " + base.Variable(name) + "=LAYOUT|ROOTFS.tar.gz|REFERENCE"}
				return nil
			}
			out[i] = finding{name: name, ok: true, detail: fmt.Sprintf("%s: %s", r.How, r.Origin)}
			return nil
		})
	}
	g.Wait()
	return out
}
