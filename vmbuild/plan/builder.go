package plan

import (
	"fmt"
	"strings"

	"pharovm/vmbuild/catalog"
)

// builderFor is the builder of an image and, when that is the stand-in, what it
// stands in for and why.
func builderFor(c *catalog.Catalog, img *catalog.Image, f Facts) (b *catalog.Builder, why reason, err error) {
	first := c.Builders[img.Builder.Value]
	missing, gone := f.Missing[first.Base.Value]
	if !gone {
		return first, reason{}, nil
	}
	const remedy = "reach a registry or name another base, as `mage doctor` says"
	if img.StandIn.Value == "" {
		return nil, reason{}, fmt.Errorf("image %s: its builder %s cannot be had and nothing stands in for it: %s: %s", img.Name, first.Name, missing, remedy)
	}
	second := c.Builders[img.StandIn.Value]
	if also, gone := f.Missing[second.Base.Value]; gone {
		return nil, reason{}, fmt.Errorf("image %s: neither its builder %s nor %s, which stands in for it, can be had: %s: %s; %s: %s: %s",
			img.Name, first.Name, second.Name, first.Base, missing, second.Base, also, remedy)
	}
	return second, reason{first.Name.Value, missing}, nil
}

// reason is why a builder was chosen: the zero value for a first choice.
type reason struct{ standsInFor, missing string }

// choice is a builder chosen for a reason, and the images that it was chosen for.
type choice struct {
	builder string
	reason  reason
	images  []string
}

type choices []choice

func (c *choices) add(builder string, why reason, image string) {
	for i := range *c {
		if at := &(*c)[i]; at.builder == builder && at.reason == why {
			at.images = append(at.images, image)
			return
		}
	}
	*c = append(*c, choice{builder, why, []string{image}})
}

// why says it in words. A first choice needs none, unless the builder also stands
// in for another.
func (c choices) why(builder string) string {
	var first, others []string
	for _, at := range c {
		switch {
		case at.builder != builder:
		case at.reason == reason{}:
			first = []string{"first choice of " + strings.Join(at.images, ", ")}
		default:
			others = append(others, fmt.Sprintf("stands in for %s (%s): %s", at.reason.standsInFor, strings.Join(at.images, ", "), at.reason.missing))
		}
	}
	if len(others) == 0 {
		return "first choice"
	}
	return strings.Join(append(first, others...), "; ")
}

func (p *Plan) addBuilder(c *catalog.Catalog, b *catalog.Builder, f Facts) {
	if p.Builder(b.Name.Value) != nil {
		return
	}
	p.Builders = append(p.Builders, Builder{Name: b.Name.Value, Base: f.base(c, b.Base.Value), Packages: b.Packages,
		Manager: b.Manager.Value, Release: b.Release, Snapshot: b.Snapshot})
}
