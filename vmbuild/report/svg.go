package report

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// Reference is a size people know, shown beside ours.
type Reference struct {
	Name    string
	Size    Size // a 0 is not shown
	Remarks string
}

// Today is what Pharo users have without this project: unpacked sizes, as
// `docker images` shows them, from the projects' own announcements.
var Today = []Reference{
	{Name: "Alpine VM image, 2020 (amd64)", Size: Size{Unpacked: 14_000_000}, Remarks: "does not build any more"},
	{Name: "Ubuntu + get.pharo.org, 2025 (amd64)", Size: Size{Unpacked: 332_000_000}, Remarks: "root, one architecture"},
}

// Layout of the chart in SVG user units, which are pixels at 100 %.
const (
	chartWidth = 960
	labelEnd   = 284 // labels end here, the axis begins 8 further on
	axisStart  = labelEnd + 8
	axisEnd    = 652 // bars may reach here
	pullEnd    = 748 // figures end here: what a pull costs,
	diskEnd    = 848 // what lies on disk,
	oursEnd    = 944 // and how much of the pull is ours
	rowHeight  = 32
	chartTop   = 96
	maxLabel   = 36 // characters that fit before labelEnd at 13 px
)

// The axis is logarithmic, from 100 kB to 1 GB: four decades.
const (
	axisMin     = 100_000.0
	axisDecades = 4
)

func axisX(size float64) float64 {
	share := math.Log10(max(size, axisMin)/axisMin) / axisDecades
	return axisStart + min(share, 1)*(axisEnd-axisStart)
}

type bar struct {
	label string
	notes string
	size  Size
	ours  int64 // compressed bytes above the base
	today bool
}

// SVG is the chart of all images beside Today's: what a pull costs and what
// lies on disk.
func (r *Report) SVG() []byte {
	var bars []bar
	for _, i := range r.Images {
		bars = append(bars, bar{label: i.Name + " " + i.Platform, size: i.Total(), ours: i.Own.Compressed})
	}
	for _, t := range Today {
		bars = append(bars, bar{label: t.Name, notes: t.Remarks, size: t.Size, today: true})
	}
	bottom := chartTop + rowHeight*len(bars)
	if len(r.Images) > 0 {
		bottom += 14 // the gap between ours and today's
	}
	height := bottom + 64

	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-labelledby="t d">`, chartWidth, height, chartWidth, height)
	p(`<title id="t">Pharo base images: size of a pull and on disk</title>`)
	p(`<desc id="d">%s</desc>`, html.EscapeString(describe(bars)))
	p(`<style>
text{font:13px system-ui,"Segoe UI","DejaVu Sans",sans-serif;fill:#6a737d}
.h{font-size:17px;font-weight:600}.s{font-size:12px}.e{text-anchor:end}.m{text-anchor:middle}
.g{stroke:#8b949e;stroke-opacity:.35}.pull{fill:#3b82c4}.disk{fill:#3b82c4;fill-opacity:.45}.today{fill:#9a6b3f;fill-opacity:.75}
@media (prefers-color-scheme:dark){text{fill:#c9d1d9}.pull{fill:#58a6ff}.disk{fill:#58a6ff}.today{fill:#c99a6b}}
</style>`)
	p(`<text x="16" y="30" class="h">Pharo base images: size of a pull and on disk</text>`)
	p(`<text x="%d" y="30" class="s e">%s</text>`, oursEnd, html.EscapeString(shorten(r.subject(), 64)))
	p(`<rect x="16" y="46" width="12" height="12" class="pull"/><text x="34" y="56" class="s">pull, compressed</text>`)
	p(`<rect x="152" y="46" width="12" height="12" class="disk"/><text x="170" y="56" class="s">on disk, unpacked</text>`)
	p(`<rect x="294" y="46" width="12" height="12" class="today"/><text x="312" y="56" class="s">today's images, on disk</text>`)
	p(`<text x="%d" y="%d" class="s e">pull</text><text x="%d" y="%d" class="s e">on disk</text><text x="%d" y="%d" class="s e">ours in pull</text>`,
		pullEnd, chartTop-12, diskEnd, chartTop-12, oursEnd, chartTop-12)
	for d := 0; d <= axisDecades; d++ {
		mark := axisMin * math.Pow(10, float64(d))
		x := axisX(mark)
		p(`<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" class="g"/>`, x, chartTop-8, x, bottom)
		p(`<text x="%.1f" y="%d" class="s m">%s</text>`, x, bottom+18, axisLabel(mark))
	}
	p(`<text x="%.1f" y="%d" class="s m">size, logarithmic: each line is ten times the one before (1 MB = 1,000,000 bytes)</text>`, (axisStart+axisEnd)/2.0, bottom+42)
	y := chartTop
	for i, bar := range bars {
		if i > 0 && !bars[i-1].today && bar.today {
			y += 14
		}
		bar.draw(p, y)
		y += rowHeight
	}
	p(`</svg>`)
	return b.Bytes()
}

// subject says what VMs the report is about.
func (r *Report) subject() string {
	var out []string
	for _, b := range r.Builds {
		if s := b.Source + " " + b.Version + ", profile " + b.Profile; !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return strings.Join(out, "; ")
}

func (b bar) draw(p func(string, ...any), y int) {
	p(`<g><title>%s</title>`, html.EscapeString(b.text()))
	p(`<text x="%d" y="%d" class="e">%s</text>`, labelEnd, y+17, html.EscapeString(shorten(b.label, maxLabel)))
	disk := "disk"
	if b.today {
		disk = "today"
	}
	rect := func(size int64, top, height int, class string) {
		if size > 0 {
			p(`<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" class="%s"/>`, axisStart, y+top, axisX(float64(size))-axisStart, height, class)
		}
	}
	if b.size.Compressed > 0 {
		rect(b.size.Compressed, 2, 11, "pull")
		rect(b.size.Unpacked, 15, 7, disk)
	} else {
		rect(b.size.Unpacked, 5, 15, disk)
	}
	for _, f := range []struct {
		x    int
		size int64
	}{{pullEnd, b.size.Compressed}, {diskEnd, b.size.Unpacked}, {oursEnd, b.ours}} {
		p(`<text x="%d" y="%d" class="e">%s</text>`, f.x, y+17, size(f.size))
	}
	p(`</g>`)
}

func (b bar) text() string {
	if b.size.Compressed == 0 {
		return fmt.Sprintf("%s: %s on disk, %s", b.label, Bytes(b.size.Unpacked), b.notes)
	}
	return fmt.Sprintf("%s: %s to pull, %s on disk", b.label, Bytes(b.size.Compressed), Bytes(b.size.Unpacked))
}

func describe(bars []bar) string {
	out := ""
	for i, b := range bars {
		if i > 0 {
			out += "; "
		}
		out += b.text()
	}
	return out + "."
}

func axisLabel(size float64) string {
	switch {
	case size >= 1e9:
		return fmt.Sprintf("%.0f GB", size/1e9)
	case size >= 1e6:
		return fmt.Sprintf("%.0f MB", size/1e6)
	}
	return fmt.Sprintf("%.0f kB", size/1e3)
}

// shorten cuts the middle out of a text longer than n characters: names differ
// at both ends.
func shorten(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	runes := []rune(s)
	head := (n - 1) / 2
	return string(runes[:head]) + "…" + string(runes[len(runes)-(n-1-head):])
}
