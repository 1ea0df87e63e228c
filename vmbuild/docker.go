package vmbuild

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	docker "github.com/moby/moby/client"

	"pharovm/vmbuild/engine"
	"pharovm/vmbuild/oci"
)

// repository is what a source's images are called in the local Docker. The
// sample's are not for use, and never take the place of those that are.
func repository(source string) string {
	if source == "sample" {
		return "pharo-vm-sample"
	}
	return "pharo-vm"
}

// load puts the images into the local Docker, if one answers: as
// pharo-vm:NAME-ARCH, and for Docker's own processor also as pharo-vm:NAME.
// What fails is only logged, as all images are in dist/ by then; the error is
// for an interrupted run.
func (p *Project) load(ctx context.Context, spec string, r *Result) error {
	host := ""
	if rest, ok := strings.CutPrefix(spec, "docker://"); ok {
		host = rest
	}
	api, err := engine.DockerClient(host)
	if err != nil {
		return nil // a Docker that is not set up is no reason to say anything
	}
	defer api.Close()
	quick, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	ping, err := api.Ping(quick, docker.PingOptions{NegotiateAPIVersion: true})
	if err != nil || ping.OSType != "linux" {
		return nil
	}
	var tags []string
	version, err := api.ServerVersion(ctx, docker.ServerVersionOptions{})
	for i := 0; err == nil && i < len(r.Images); i++ {
		var loaded []string
		loaded, err = loadOne(ctx, api, repository(r.Plan.Source.Name), version.Arch, r.Images[i])
		tags = append(tags, loaded...)
	}
	if len(tags) > 0 {
		p.logf("loaded into Docker: %s", strings.Join(tags, " "))
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		p.logf("warning: not every image is in Docker: %v; all are in %s", err, p.layout().Dir())
	}
	return nil
}

func loadOne(ctx context.Context, api *docker.Client, repository, native string, m Made) (tags []string, err error) {
	_, arch, _ := strings.Cut(m.Platform, "/")
	tag := repository + ":" + m.Name + "-" + arch
	have, err := api.ImageInspect(ctx, tag)
	if err != nil || !same(have, m.image) {
		if err := oci.LoadDocker(ctx, api, tag, m.image); err != nil {
			return nil, err
		}
	}
	tags = append(tags, tag)
	if arch == native {
		short := repository + ":" + m.Name
		if _, err := api.ImageTag(ctx, docker.ImageTagOptions{Source: tag, Target: short}); err != nil {
			return tags, fmt.Errorf("tagging %s in Docker: %w", short, err)
		}
		tags = append(tags, short)
	}
	return tags, nil
}

// same tells whether Docker has an image already. Its ID does not say: where
// Docker keeps images in containerd, that is the digest of a manifest of its own.
func same(have docker.ImageInspectResult, img v1.Image) bool {
	want, err := img.ConfigFile()
	if err != nil || have.Config == nil {
		return false
	}
	layers := make([]string, len(want.RootFS.DiffIDs))
	for i, id := range want.RootFS.DiffIDs {
		layers[i] = id.String()
	}
	c := want.Config
	return slices.Equal(have.RootFS.Layers, layers) && have.Architecture == want.Architecture &&
		maps.Equal(have.Config.Labels, c.Labels) && slices.Equal(have.Config.Env, c.Env) &&
		slices.Equal(have.Config.Entrypoint, c.Entrypoint) && have.Config.User == c.User && have.Config.WorkingDir == c.WorkingDir
}
