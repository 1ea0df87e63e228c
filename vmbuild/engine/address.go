package engine

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"os"

	"github.com/moby/buildkit/client"
	_ "github.com/moby/buildkit/client/connhelper/dockercontainer"
	_ "github.com/moby/buildkit/client/connhelper/kubepod"
	_ "github.com/moby/buildkit/client/connhelper/ssh"
)

// openAddress connects to a BuildKit by its address.
func openAddress(ctx context.Context, addr, why string) (Engine, error) {
	name := "buildkit " + redact(addr)
	timeout := dialTimeout
	var opts []client.ClientOpt
	u, err := url.Parse(addr)
	if err != nil {
		return nil, badSpec(addr, err.Error())
	}
	switch u.Scheme {
	case "tcp":
		if opts, err = tlsOpts(u); err != nil {
			return nil, fmt.Errorf("engine %s: %w", name, err)
		}
		u.RawQuery = ""
		addr, name = u.String(), "buildkit "+u.Redacted()
	case "unix":
	default:
		timeout = helperTimeout
	}
	c, err := client.New(ctx, addr, opts...)
	if err != nil {
		return nil, fmt.Errorf("engine %s: %w", name, err)
	}
	if err := answers(ctx, c, timeout); err != nil {
		c.Close()
		return nil, fmt.Errorf("engine %s does not answer: %w: start buildkitd there, or choose another with -engine", name, err)
	}
	return &single{c: c, name: name, why: why}, nil
}

// tlsOpts reads certificates from the address's query, else from VMBUILD_TLS_*.
func tlsOpts(u *url.URL) ([]client.ClientOpt, error) {
	q := u.Query()
	for k := range q {
		switch k {
		case "ca", "cert", "key", "servername":
		default:
			return nil, fmt.Errorf("unknown parameter %q: use ca, cert, key, servername", k)
		}
	}
	ca := cmp.Or(q.Get("ca"), os.Getenv("VMBUILD_TLS_CACERT"))
	cert := cmp.Or(q.Get("cert"), os.Getenv("VMBUILD_TLS_CERT"))
	key := cmp.Or(q.Get("key"), os.Getenv("VMBUILD_TLS_KEY"))
	server := cmp.Or(q.Get("servername"), os.Getenv("VMBUILD_TLS_SERVERNAME"))
	if ca == "" && cert == "" && key == "" && server == "" {
		return nil, nil
	}
	if (cert == "") != (key == "") {
		return nil, fmt.Errorf("a client certificate needs both cert and key")
	}
	server = cmp.Or(server, u.Hostname())
	opts := []client.ClientOpt{client.WithServerConfigSystem(server)}
	if ca != "" {
		opts = []client.ClientOpt{client.WithServerConfig(server, ca)}
	}
	if cert != "" {
		opts = append(opts, client.WithCredentials(cert, key))
	}
	return opts, nil
}
