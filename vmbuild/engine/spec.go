package engine

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

type kind int

const (
	kindAuto kind = iota
	kindDocker
	kindPrivate
	kindAddress
	kindMulti
)

// spec is a parsed engine specification.
type spec struct {
	kind  kind
	text  string
	addr  string // Docker host or BuildKit address
	parts []part // kindMulti, sorted by platform
}

type part struct {
	platform string
	spec     spec
}

const specForms = `use one of:
  auto                                   BUILDKIT_HOST if set, else Docker, else private
  docker                                 the Docker of DOCKER_HOST or the current context
  docker:///run/docker.sock              a Docker by socket (or docker://tcp://HOST:2375, docker://ssh://HOST)
  private                                a buildkitd of our own (Linux)
  unix:///run/buildkit/buildkitd.sock    a BuildKit by socket
  tcp://HOST:1234?ca=…&cert=…&key=…      a BuildKit over TCP; without ca, cert, key: VMBUILD_TLS_CACERT, _CERT, _KEY, else no TLS
  docker-container://NAME, kube-pod://NAME?namespace=…, ssh://USER@HOST
  linux/amd64=ENGINE,linux/arm64=ENGINE  one of the above per platform`

var (
	addressSchemes = []string{"unix", "tcp", "docker-container", "kube-pod", "ssh"}
	knownPlatforms = []string{"linux/amd64", "linux/arm64"}
)

func badSpec(text, why string) error {
	return fmt.Errorf("engine %q: %s; %s", redact(text), why, specForms)
}

// Check tells whether a specification can be read, without opening anything.
func Check(spec string) error {
	_, err := parseSpec(spec)
	return err
}

func parseSpec(text string) (spec, error) {
	text = strings.TrimSpace(text)
	s := spec{text: redact(text)}
	scheme, rest, hasScheme := strings.Cut(text, "://")
	switch {
	case text == "" || text == "auto":
		s.kind = kindAuto
	case text == "docker":
		s.kind = kindDocker
	case text == "private":
		s.kind = kindPrivate
	case strings.Contains(strings.SplitN(scheme, "=", 2)[0], "/"):
		return parseMulti(text)
	case !hasScheme:
		return s, badSpec(text, "not an engine")
	case rest == "":
		return s, badSpec(text, "nothing follows "+scheme+"://")
	case scheme == "docker":
		s.kind = kindDocker
		switch {
		case strings.HasPrefix(rest, "/"):
			s.addr = "unix://" + rest
		case strings.Contains(rest, "://"):
			s.addr = rest
		default:
			s.addr = "tcp://" + rest
		}
	case slices.Contains(addressSchemes, scheme):
		if _, err := url.Parse(text); err != nil {
			return s, badSpec(text, err.Error())
		}
		s.kind, s.addr = kindAddress, text
	default:
		return s, badSpec(text, "unknown scheme "+scheme)
	}
	return s, nil
}

func parseMulti(text string) (spec, error) {
	s := spec{kind: kindMulti, text: redact(text)}
	for item := range strings.SplitSeq(text, ",") {
		platform, engine, ok := strings.Cut(strings.TrimSpace(item), "=")
		if !ok || engine == "" {
			return s, badSpec(text, fmt.Sprintf("%q is not PLATFORM=ENGINE", redact(item)))
		}
		if !slices.Contains(knownPlatforms, platform) {
			return s, badSpec(text, fmt.Sprintf("unknown platform %q, there are %s", platform, strings.Join(knownPlatforms, " and ")))
		}
		if slices.ContainsFunc(s.parts, func(p part) bool { return p.platform == platform }) {
			return s, badSpec(text, platform+" is given twice")
		}
		sub, err := parseSpec(engine)
		if err != nil {
			return s, err
		}
		if sub.kind == kindMulti {
			return s, badSpec(text, "a platform's engine cannot be a list")
		}
		s.parts = append(s.parts, part{platform, sub})
	}
	slices.SortFunc(s.parts, func(a, b part) int { return strings.Compare(a.platform, b.platform) })
	return s, nil
}

// parseHost reads BUILDKIT_HOST, which may name any engine but the automatic
// choice, as that asks for it.
func parseHost(addr string) (spec, error) {
	s, err := parseSpec(addr)
	if err != nil {
		return s, fmt.Errorf("reading BUILDKIT_HOST: %w", err)
	}
	if s.kind == kindAuto || slices.ContainsFunc(s.parts, func(p part) bool { return p.spec.kind == kindAuto }) {
		return s, fmt.Errorf("reading BUILDKIT_HOST: %q is no address: unset it, or name an engine there", s.text)
	}
	return s, nil
}

var password = regexp.MustCompile(`(://[^:@/]*):[^@/]*@`)

// redact hides passwords in an address or a list of them, which may be printed
// or logged.
func redact(addr string) string { return password.ReplaceAllString(addr, "$1:xxxxx@") }
