package vmbuild

import (
	"context"
	"fmt"
	"strings"
	"time"

	docker "github.com/moby/moby/client"

	"pharovm/vmbuild/engine"
	"pharovm/vmbuild/oci"
)

// repository is what images are called in the local Docker.
const repository = "pharo-vm"

// load puts the images into the local Docker, if one answers: as
// pharo-vm:NAME-ARCH, and for Docker's own processor also as pharo-vm:NAME.
// It returns the tags.
func (p *Project) load(ctx context.Context, spec string, images []Made) ([]string, error) {
	host := ""
	if rest, ok := strings.CutPrefix(spec, "docker://"); ok {
		host = rest
	}
	api, err := engine.DockerClient(host)
	if err != nil {
		return nil, nil // a Docker that is not set up is no reason to fail
	}
	defer api.Close()
	quick, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	ping, err := api.Ping(quick, docker.PingOptions{NegotiateAPIVersion: true})
	if err != nil || ping.OSType != "linux" {
		return nil, nil
	}
	version, err := api.ServerVersion(ctx, docker.ServerVersionOptions{})
	if err != nil {
		return nil, fmt.Errorf("asking Docker for its version: %w", err)
	}
	var tags []string
	for _, m := range images {
		_, arch, _ := strings.Cut(m.Platform, "/")
		names := []string{repository + ":" + m.Name + "-" + arch}
		if arch == version.Arch {
			names = append(names, repository+":"+m.Name)
		}
		for _, tag := range names {
			tags = append(tags, tag)
			config, err := m.image.ConfigName()
			if err != nil {
				return nil, fmt.Errorf("loading %s into Docker: %w", tag, err)
			}
			if have, err := api.ImageInspect(ctx, tag); err == nil && have.ID == config.String() {
				continue
			}
			if err := oci.LoadDocker(ctx, api, tag, m.image); err != nil {
				return nil, err
			}
		}
	}
	return tags, nil
}
