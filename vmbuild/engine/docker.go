package engine

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/cli/cli/connhelper"
	"github.com/moby/buildkit/client"
	docker "github.com/moby/moby/client"
)

// DockerClient connects to the Docker at host, or when host is empty to the
// one of DOCKER_HOST, DOCKER_CONTEXT or the current Docker context. It does
// not wait for an answer.
func DockerClient(host string) (*docker.Client, error) {
	if host == "" {
		host = os.Getenv("DOCKER_HOST")
	}
	if host == "" {
		ctxHost, tls, err := dockerContext()
		if err != nil {
			return nil, err
		}
		if ctxHost != "" {
			return newDocker(ctxHost, tls)
		}
	}
	return newDocker(host, docker.WithTLSClientConfigFromEnv())
}

func newDocker(host string, tls docker.Opt) (*docker.Client, error) {
	if strings.HasPrefix(host, "ssh://") {
		helper, err := connhelper.GetConnectionHelper(host)
		if err != nil {
			return nil, fmt.Errorf("docker host %s: %w", redact(host), err)
		}
		web := &http.Client{Transport: &http.Transport{DialContext: helper.Dialer}}
		return docker.New(docker.WithHTTPClient(web), docker.WithHost(helper.Host), docker.WithDialContext(helper.Dialer))
	}
	opts := []docker.Opt{docker.WithAPIVersionFromEnv()}
	if tls != nil {
		opts = append(opts, tls)
	}
	if host != "" {
		opts = append(opts, docker.WithHost(host))
	}
	c, err := docker.New(opts...)
	if err != nil {
		return nil, fmt.Errorf("docker host %s: %w", redact(host), err)
	}
	return c, nil
}

// dockerContext reads the host of the current Docker context from the files
// `docker context` keeps. It is empty for the default context.
func dockerContext() (host string, tls docker.Opt, err error) {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", nil, nil
		}
		dir = filepath.Join(home, ".docker")
	}
	name := os.Getenv("DOCKER_CONTEXT")
	if name == "" {
		var config struct{ CurrentContext string }
		switch dt, err := os.ReadFile(filepath.Join(dir, "config.json")); {
		case errors.Is(err, fs.ErrNotExist):
			return "", nil, nil
		case err != nil:
			return "", nil, fmt.Errorf("reading Docker's configuration: %w", err)
		default:
			if err := json.Unmarshal(dt, &config); err != nil {
				return "", nil, fmt.Errorf("reading %s: %w", filepath.Join(dir, "config.json"), err)
			}
		}
		name = config.CurrentContext
	}
	if name == "" || name == "default" {
		return "", nil, nil
	}
	id := fmt.Sprintf("%x", sha256.Sum256([]byte(name)))
	var meta struct {
		Endpoints map[string]struct {
			Host string
		}
	}
	dt, err := os.ReadFile(filepath.Join(dir, "contexts", "meta", id, "meta.json"))
	if err != nil {
		return "", nil, fmt.Errorf("docker context %q: %w: choose another with `docker context use`, or set DOCKER_HOST", name, err)
	}
	if err := json.Unmarshal(dt, &meta); err != nil {
		return "", nil, fmt.Errorf("docker context %q: %w", name, err)
	}
	certs := filepath.Join(dir, "contexts", "tls", id, "docker")
	if _, err := os.Stat(certs); err == nil {
		tls = docker.WithTLSClientConfig(ifThere(certs, "ca.pem"), ifThere(certs, "cert.pem"), ifThere(certs, "key.pem"))
	}
	return meta.Endpoints["docker"].Host, tls, nil
}

func ifThere(dir, name string) string {
	p := filepath.Join(dir, name)
	if _, err := os.Stat(p); err != nil {
		return ""
	}
	return p
}

// openDocker uses the BuildKit inside Docker. The daemon lets its gRPC calls
// and the client's session through two hijacked HTTP requests.
func openDocker(ctx context.Context, host, why string) (Engine, error) {
	api, err := DockerClient(host)
	if err != nil {
		return nil, err
	}
	name := "docker"
	if host != "" {
		name += " " + redact(host)
	}
	c, err := dialDocker(ctx, api)
	if err != nil {
		api.Close()
		return nil, &dockerError{redact(api.DaemonHost()), err}
	}
	return &single{c: c, name: name, why: why, close: api.Close}, nil
}

type dockerError struct {
	host string
	err  error
}

func (e *dockerError) Error() string {
	err := e.err
	// The client's own wrapping says the same in three ways.
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = op
	}
	return fmt.Sprintf("docker at %s does not answer: %v: start Docker, or set DOCKER_HOST", e.host, err)
}

func (e *dockerError) Unwrap() error { return e.err }

func dialDocker(ctx context.Context, api *docker.Client) (*client.Client, error) {
	pctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, fmt.Errorf("no answer in %v", dialTimeout))
	defer cancel()
	ping, err := api.Ping(pctx, docker.PingOptions{NegotiateAPIVersion: true})
	if err != nil {
		if pctx.Err() != nil {
			err = context.Cause(pctx)
		}
		return nil, err
	}
	if ping.OSType != "" && ping.OSType != "linux" {
		return nil, fmt.Errorf("it runs %s containers, not Linux ones", ping.OSType)
	}
	c, err := client.New(ctx, "",
		client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return api.DialHijack(ctx, "/grpc", "h2c", nil)
		}),
		client.WithSessionDialer(func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
			return api.DialHijack(ctx, "/session", proto, meta)
		}))
	if err != nil {
		return nil, err
	}
	if err := answers(ctx, c, dialTimeout); err != nil {
		c.Close()
		return nil, fmt.Errorf("its BuildKit: %w", err)
	}
	return c, nil
}
