package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what the tests get into testdata")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test -update accepts it):\n%s", file, got)
	}
}

func sample() *Report {
	var r Report
	for _, p := range []struct {
		libc, platform, arch string
		stripped, lzma       int64
	}{
		{"musl", "linux/amd64", "amd64", 786_208, 274_844}, {"musl", "linux/arm64", "arm64", 833_712, 256_872},
		{"glibc", "linux/amd64", "amd64", 787_928, 275_408}, {"glibc", "linux/arm64", "arm64", 835_472, 257_436},
	} {
		r.Builds = append(r.Builds, Build{
			ID: "opensmalltalk-server-" + p.libc + "-linux-" + p.arch, Source: "opensmalltalk", Version: "20210325-25e4f4a8",
			Profile: "server", Libc: p.libc, Platform: p.platform, Engine: "docker", Cached: p.libc == "glibc", Seconds: 16.24,
			VM:      VM{Stripped: p.stripped, Compressed: 401_000, Packed: map[string]int64{"lzma": p.lzma, "best": 310_400}},
			Plugins: []Plugin{{"SqueakSSL", "external", 32_864}, {"FilePlugin", "internal", 17_729}},
		})
	}
	image := func(name, platform string, base, own, budget Size) {
		r.Images = append(r.Images, Image{Name: name, Platform: platform, Build: "b", Digest: "sha256:" + strings.Repeat("0", 64), Base: base, Own: own, Budget: budget})
	}
	image("alpine", "linux/amd64", Size{7_800_000, 3_490_000}, Size{310_000, 282_000}, Size{500_000, 0})
	image("alpine", "linux/arm64", Size{8_500_000, 3_950_000}, Size{295_000, 265_000}, Size{500_000, 0})
	image("debian", "linux/amd64", Size{74_800_000, 27_100_000}, Size{990_000, 420_000}, Size{1_500_000, 0})
	image("scratch", "linux/amd64", Size{}, Size{1_050_000, 690_000}, Size{1_100_000, 750_000})
	image("scratch-tls-with-a-long-name-of-a-users-own", "linux/arm64", Size{}, Size{6_050_000, 2_690_000}, Size{})
	r.Boots = []Boot{
		{Name: "alpine", Platform: "linux/amd64", How: "native", Case: "no arguments", FirstOutput: 0.0121, ExitCode: 1, Resident: 6_200_000, OK: true},
		{Name: "alpine", Platform: "linux/arm64", How: "qemu", Case: "no arguments", FirstOutput: 0.204, ExitCode: 132, Problem: "killed by\nSIGILL | at start"},
	}
	return &r
}

func last() *Report {
	r := sample()
	r.Builds[0].VM.Stripped += 4_000
	r.Builds[1].VM.Stripped -= 1_234_567
	r.Builds = r.Builds[:3]
	r.Images[0].Own.Compressed -= 12
	r.Images = r.Images[:2]
	return r
}

func TestForms(t *testing.T) {
	r := sample()
	r.Compare(last())
	dir := t.TempDir()
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"report.json", "report.md", "report.svg"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, data)
	}
	golden(t, "table.txt", []byte(r.Table()))
	golden(t, "empty.svg", (&Report{}).SVG())
}

func TestWrittenReportIsReadBack(t *testing.T) {
	dir := t.TempDir()
	if r, err := Load(dir); r != nil || err != nil {
		t.Errorf("no report gives %v, %v", r, err)
	}
	if err := sample().Write(dir); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("reading and writing changed the report (%v)", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("a damaged report gives %v", err)
	}
}

func TestMergeKeepsWhatThisRunDidNotMake(t *testing.T) {
	r := &Report{Images: []Image{{Name: "alpine", Platform: "linux/amd64", Digest: "new"}}}
	last := sample()
	last.Images[2].Build = last.Builds[0].ID
	r.Merge(last)
	if len(r.Images) != 5 {
		t.Errorf("%d images, want 5", len(r.Images))
	}
	if len(r.Builds) != 1 || r.Builds[0].ID != last.Builds[0].ID {
		t.Errorf("builds %v: want the one that an image still holds", r.Builds)
	}
	if len(r.Boots) != 1 || r.Boots[0].Platform != "linux/arm64" {
		t.Errorf("boots %v: want only that of the image that was not made anew", r.Boots)
	}
	if r.Images[0].Digest != "new" {
		t.Error("the last run's image replaced this run's")
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 786_208: "786.2 kB", 999_949: "999.9 kB", 999_950: "1.00 MB",
		3_774_000: "3.77 MB", 9_995_000: "10.0 MB", 12_500_000: "12.5 MB", 99_950_000: "100 MB", 332_000_000: "332 MB", -1500: "-1.5 kB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) is %q, want %q", n, got, want)
		}
	}
}

// A name a user chose must neither break the XML nor run out of the picture.
func TestSVGTakesAnyName(t *testing.T) {
	r := &Report{Images: []Image{
		{Name: `<script>&"'` + strings.Repeat("ü", 200), Platform: "linux/amd64", Own: Size{1, 1}},
		{Name: "huge", Platform: "linux/amd64", Own: Size{1 << 50, 1 << 50}},
	}}
	dec := xml.NewDecoder(bytes.NewReader(r.SVG()))
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := tok.(xml.StartElement); ok && e.Name.Local == "script" {
			t.Error("a name became an element")
		}
		if text, ok := tok.(xml.CharData); ok && len([]rune(string(text))) > maxLabel && strings.HasSuffix(string(text), "linux/amd64") && strings.HasPrefix(string(text), "<") {
			t.Errorf("label %q is too long", text)
		}
	}
}
