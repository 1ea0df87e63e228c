package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/moby/moby/client"
)

// WriteDockerArchive writes img, tagged tag ("pharo-vm:alpine"), as the
// docker-archive that `docker load` of every Docker since 1.10 takes. Docker
// 20.10 does not take OCI archives.
func WriteDockerArchive(w io.Writer, tag string, img v1.Image) error {
	ref, err := name.NewTag(tag, name.WithDefaultRegistry(""))
	if err != nil {
		return fmt.Errorf("tagging an image %q: %w: use NAME:TAG", tag, err)
	}
	if err := tarball.Write(ref, img, w); err != nil {
		return fmt.Errorf("writing a docker archive of %s: %w", tag, err)
	}
	return nil
}

// Loader is the one method of the Docker client that loading needs.
type Loader interface {
	ImageLoad(ctx context.Context, input io.Reader, opts ...client.ImageLoadOption) (client.ImageLoadResult, error)
}

var _ Loader = (*client.Client)(nil)

// LoadDocker loads img into Docker and tags it, for example "pharo-vm:alpine".
func LoadDocker(ctx context.Context, docker Loader, tag string, img v1.Image) error {
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		pw.CloseWithError(WriteDockerArchive(pw, tag, img))
	}()
	defer func() { pr.CloseWithError(context.Canceled); <-done }()
	res, err := docker.ImageLoad(ctx, pr, client.ImageLoadWithQuiet(true))
	if err != nil {
		return fmt.Errorf("loading %s into Docker: %w: run `mage doctor`", tag, err)
	}
	defer res.Close()
	if err := loadError(res); err != nil {
		return fmt.Errorf("loading %s into Docker: %w", tag, err)
	}
	return nil
}

// loadError finds the failure in Docker's answer, which comes with status 200.
func loadError(r io.Reader) error {
	dec := json.NewDecoder(r)
	for {
		var msg struct {
			Error string `json:"error"`
		}
		err := dec.Decode(&msg)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading Docker's answer: %w", err)
		}
		if msg.Error != "" {
			return errors.New(strings.TrimSpace(msg.Error))
		}
	}
}
