package engine_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/cli/cli/config"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"pharovm/vmbuild/engine"
	"pharovm/vmbuild/internal/testengine"
)

func TestBadSpec(t *testing.T) {
	cases := map[string]string{
		"dokcer":                                 "not an engine",
		"http://host":                            "unknown scheme http",
		"unix://":                                "nothing follows unix://",
		"linux/amd64":                            "not PLATFORM=ENGINE",
		"linux/riscv64=docker":                   `unknown platform "linux/riscv64"`,
		"linux/amd64=docker,linux/amd64=private": "linux/amd64 is given twice",
		"linux/amd64=docker,linux/arm64=podman":  "not an engine",
		"linux/amd64=linux/arm64=docker":         "cannot be a list",
		"tcp://user:secret@host:1234?verify=no":  `unknown parameter "verify"`,
		"linux/amd64=tcp://a:secret@b:1,linux/arm64=tcp://a:secret@b:1,x": "is not PLATFORM=ENGINE",
		"tcp://127.0.0.1:1?cert=/a":                                       "needs both cert and key",
		"tcp://127.0.0.1:1?cert=/no&key=/no":                              "/no",
		"docker://unix:///no/such/docker.sock":                            "start Docker, or set DOCKER_HOST",
		"unix:///no/such/buildkitd.sock":                                  "start buildkitd there",
		"tcp://127.0.0.1:1":                                               "start buildkitd there",
		"linux/amd64=unix:///no/such/buildkitd":                           "engine for linux/amd64",
		"docker-container://":                                             "nothing follows",
	}
	for spec, want := range cases {
		t.Run(spec, func(t *testing.T) {
			e, err := engine.Open(t.Context(), spec, engine.Options{CacheDir: t.TempDir()})
			if err == nil {
				e.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want something with %q", err, want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("%v shows a password", err)
			}
			if strings.Contains(want, "not") && !strings.Contains(err.Error(), "kube-pod://") && strings.Contains(err.Error(), "use one of") {
				t.Errorf("%v does not list the forms", err)
			}
		})
	}
}

// TestAuto walks through the order in which auto tries.
func TestAuto(t *testing.T) {
	docker, buildkit, opt := testengine.Docker(t), testengine.Buildkitd(t), testengine.Options(t)
	nowhere := "unix://" + filepath.Join(t.TempDir(), "none.sock")
	cases := map[string]struct {
		docker, buildkit string
		name, why        string
	}{
		"a set address wins over Docker": {docker, buildkit, "buildkit " + buildkit, "BUILDKIT_HOST is set to " + buildkit},
		"Docker":                         {docker, "", "docker", "Docker answers and has BuildKit"},
		"no Docker":                      {nowhere, "", "private", "no Docker answers at " + nowhere + " and BUILDKIT_HOST is not set"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Setenv("DOCKER_HOST", c.docker)
			t.Setenv("BUILDKIT_HOST", c.buildkit)
			for _, spec := range []string{"", "auto"} {
				e := open(t, spec, opt)
				if e.Name() != c.name || !strings.HasPrefix(e.Why(), c.why) {
					t.Errorf("got %q because %q, want %q because %q", e.Name(), e.Why(), c.name, c.why)
				}
			}
		})
	}
	t.Run("an address for each platform", func(t *testing.T) {
		t.Setenv("DOCKER_HOST", nowhere)
		t.Setenv("BUILDKIT_HOST", "linux/amd64="+buildkit)
		if e := open(t, "auto", opt); e.Name() != "linux/amd64=buildkit "+buildkit {
			t.Errorf("got %q", e.Name())
		}
		if _, err := engine.Open(t.Context(), "linux/arm64=auto", opt); err == nil || !strings.Contains(err.Error(), "is a list of engines") {
			t.Errorf("a list inside a list: got %v", err)
		}
		t.Setenv("BUILDKIT_HOST", "linux/amd64=auto")
		if _, err := engine.Open(t.Context(), "auto", opt); err == nil || !strings.Contains(err.Error(), "is no address") {
			t.Errorf("itself: got %v", err)
		}
	})
	t.Run("a set address that does not answer", func(t *testing.T) {
		t.Setenv("DOCKER_HOST", docker)
		t.Setenv("BUILDKIT_HOST", nowhere)
		_, err := engine.Open(t.Context(), "", opt)
		if err == nil || !strings.Contains(err.Error(), "unset it to use another engine") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		t.Setenv("DOCKER_HOST", nowhere)
		t.Setenv("BUILDKIT_HOST", "")
		_, err := engine.Open(t.Context(), "", engine.Options{CacheDir: "/dev/null"})
		for _, want := range []string{"no engine", "start Docker, or set DOCKER_HOST", "BUILDKIT_HOST is not set", "private engine: "} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v lacks %q", err, want)
			}
		}
	})
}

// TestDockerContext finds Docker as the docker command would.
func TestDockerContext(t *testing.T) {
	host := testengine.Docker(t)
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("DOCKER_HOST", "")
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("config.json", `{"currentContext": "team"}`)
	meta := fmt.Sprintf("contexts/meta/%x/meta.json", sha256.Sum256([]byte("team")))
	write(meta, fmt.Sprintf(`{"Name":"team","Endpoints":{"docker":{"Host":%q}}}`, host))
	open(t, "docker", engine.Options{})

	t.Setenv("DOCKER_CONTEXT", "other")
	_, err := engine.Open(t.Context(), "docker", engine.Options{})
	if err == nil || !strings.Contains(err.Error(), `docker context "other"`) {
		t.Errorf("got %v", err)
	}
}

// TestPlatforms sends each platform's build to its own daemon.
func TestPlatforms(t *testing.T) {
	addr := map[string]string{"linux/amd64": testengine.Buildkitd(t), "linux/arm64": testengine.Buildkitd(t)}
	e := open(t, "linux/amd64="+addr["linux/amd64"]+",linux/arm64="+addr["linux/arm64"], engine.Options{})
	req := engine.Request{Locals: locals(t, nil), Jobs: []engine.Job{
		job(t, "vm-linux-amd64", amd64, "echo >/out/linux-amd64"), job(t, "vm-linux-arm64", arm64, "echo >/out/linux-arm64"),
	}}
	out := t.TempDir()
	if err := watch(t, e, req, out, func(*client.Vertex) {}); err != nil {
		t.Fatal(err)
	}
	for platform, addr := range addr {
		id := strings.ReplaceAll(platform, "/", "-")
		if _, err := os.Stat(filepath.Join(out, "vm-"+id, id)); err != nil {
			t.Error(err)
		}
		du, err := open(t, addr, engine.Options{}).DiskUsage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var ran []string
		for _, r := range du {
			if _, step, ok := strings.Cut(r.Description, "echo >/out/"); ok {
				ran = append(ran, strings.Fields(step)[0])
			}
		}
		if strings.Join(ran, " ") != id {
			t.Errorf("the engine for %s ran %v", platform, ran)
		}
	}
	if du, err := e.DiskUsage(t.Context()); err != nil || len(du) == 0 {
		t.Errorf("disk usage of both: %v %v", du, err)
	}

	// A failure on one stops the other, and nothing is written.
	req.Jobs = []engine.Job{job(t, "vm-linux-amd64", amd64, "sleep 600"), job(t, "vm-linux-arm64", arm64, "exit 4")}
	before := tree(t, out)
	err := e.Solve(t.Context(), req, out, nil)
	var step *engine.StepError
	if !errors.As(err, &step) || step.Jobs[0] != "vm-linux-arm64" || step.Engine != "buildkit "+addr["linux/arm64"] {
		t.Errorf("got %v", err)
	}
	if after := tree(t, out); after != before {
		t.Errorf("a failed build changed the output to\n%s", after)
	}

	one := open(t, "linux/amd64="+addr["linux/amd64"], engine.Options{})
	if err := one.Solve(t.Context(), req, out, nil); err == nil || !strings.Contains(err.Error(), "no engine for linux/arm64") {
		t.Errorf("got %v", err)
	}
}

// TestRegistryCredentials pulls from a registry that wants a password, which
// only the user's Docker configuration has.
func TestRegistryCredentials(t *testing.T) {
	layer := static.NewLayer(tarWith(t, "etc/base", "a base\n"), types.OCIUncompressedLayer)
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layer)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	const user, password = "somebody", "pass-9f3c"
	inside := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		inside.ServeHTTP(w, r)
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	ref, err := name.ParseReference(host + "/base:latest")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: user, Password: password})); err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}

	// The Docker CLI's packages read DOCKER_CONFIG once for each process.
	before := config.Dir()
	defer config.SetDir(before)
	anonymous, known := t.TempDir(), t.TempDir()
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	text := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, host, auth)
	if err := os.WriteFile(filepath.Join(known, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	e := open(t, "private", testengine.Options(t))
	out := t.TempDir()
	req := engine.Request{Jobs: []engine.Job{marshal(t, "a", amd64, llb.Image(host+"/base@"+digest.String(), llb.LinuxAmd64))}}
	config.SetDir(anonymous)
	if err := e.Solve(t.Context(), req, out, nil); err == nil {
		t.Error("the registry let in somebody without a password")
	}
	config.SetDir(known)
	if err := e.Solve(t.Context(), req, out, nil); err != nil {
		t.Fatal(err)
	}
	if dt, err := os.ReadFile(filepath.Join(out, "a/etc/base")); string(dt) != "a base\n" {
		t.Errorf("got %q %v", dt, err)
	}
	if info, err := e.Info(t.Context()); err != nil || info.Version == "" || len(info.Platforms) == 0 {
		t.Errorf("got %+v %v", info, err)
	}
}

// TestTLS builds over TCP with certificates on both sides.
func TestTLS(t *testing.T) {
	dir := certificates(t)
	addr := "tcp://" + freePort(t)
	file := func(name string) string { return filepath.Join(dir, name) }
	testengine.Buildkitd(t, "--addr="+addr, "--tlscacert="+file("ca.pem"), "--tlscert="+file("server.pem"), "--tlskey="+file("server-key.pem"))
	query := addr + "?ca=" + file("ca.pem") + "&cert=" + file("client.pem") + "&key=" + file("client-key.pem")
	req := engine.Request{Locals: locals(t, nil), Jobs: []engine.Job{job(t, "a", amd64, "echo >/out/f")}}

	e := open(t, query, engine.Options{})
	if want := "buildkit " + addr; e.Name() != want {
		t.Errorf("name is %q, want %q", e.Name(), want)
	}
	if err := e.Solve(t.Context(), req, t.TempDir(), nil); err != nil {
		t.Error(err)
	}
	for _, spec := range []string{addr, addr + "?ca=" + file("ca.pem"), strings.ReplaceAll(query, "ca.pem", "client.pem")} {
		if e, err := engine.Open(t.Context(), spec, engine.Options{}); err == nil {
			e.Close()
			t.Errorf("%s: got in", spec)
		}
	}
	t.Setenv("VMBUILD_TLS_CACERT", file("ca.pem"))
	t.Setenv("VMBUILD_TLS_CERT", file("client.pem"))
	t.Setenv("VMBUILD_TLS_KEY", file("client-key.pem"))
	open(t, addr, engine.Options{})
}

// certificates writes an authority, and a server's and a client's certificate.
func certificates(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	caKey := newKey()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	write("ca.pem", "CERTIFICATE", der)
	for i, name := range []string{"server", "client"} {
		key := newKey()
		cert := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i) + 2), Subject: pkix.Name{CommonName: name},
			NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		der, err := x509.CreateCertificate(rand.Reader, cert, ca, &key.PublicKey, caKey)
		if err != nil {
			t.Fatal(err)
		}
		write(name+".pem", "CERTIFICATE", der)
		keyDER, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(name+"-key.pem", "EC PRIVATE KEY", keyDER)
	}
	return dir
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func tarWith(t *testing.T, name, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
