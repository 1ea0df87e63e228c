package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// section is one table, shown the same way in the terminal and in Markdown.
type section struct {
	title string
	head  []string // a leading ">" aligns the column to the right
	rows  [][]string
}

func (r *Report) sections() []section {
	var out []section
	for _, s := range []section{r.images(), r.builds(), r.boots()} {
		if len(s.rows) > 0 {
			out = append(out, s.filled())
		}
	}
	return out
}

func (r *Report) images() section {
	s := section{title: "Images", head: []string{"image", "platform", ">pull", ">on disk", ">base (pull)", ">ours (pull)", ">ours (on disk)", ">of budget", ">since last run"}}
	for _, i := range r.Images {
		since := "new"
		if i.Change != nil {
			since = change(i.Change.Compressed)
		}
		total := i.Total()
		base := Bytes(i.Base.Compressed)
		if i.Base == (Size{}) {
			base = "none"
		}
		s.rows = append(s.rows, []string{i.Name, i.Platform, Bytes(total.Compressed), Bytes(total.Unpacked), base,
			Bytes(i.Own.Compressed), Bytes(i.Own.Unpacked), ofBudget(i), since})
	}
	return s
}

// ofBudget is the fuller of the two budgets.
func ofBudget(i Image) string {
	share := -1.0
	if b := i.Budget.Unpacked; b > 0 {
		share = max(share, float64(i.Own.Unpacked)/float64(b))
	}
	if b := i.Budget.Compressed; b > 0 {
		share = max(share, float64(i.Own.Compressed)/float64(b))
	}
	if share < 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f %%", share*100)
}

func (r *Report) builds() section {
	methods := map[string]bool{}
	for _, b := range r.Builds {
		for m := range b.VM.Packed {
			methods[m] = true
		}
	}
	packed := slices.Sorted(maps.Keys(methods))
	s := section{title: "Builds", head: []string{"build", "version", "engine", ">time", ">plugins", ">VM", ">VM gzipped"}}
	for _, m := range packed {
		s.head = append(s.head, ">upx "+m)
	}
	s.head = append(s.head, ">since last run")
	for _, b := range r.Builds {
		took := fmt.Sprintf("%.1f s", b.Seconds)
		if b.Cached {
			took = "cached"
		}
		row := []string{b.ID, orDash(b.Version), orDash(b.Engine), took, count(len(b.Plugins)), size(b.VM.Stripped), size(b.VM.Compressed)}
		for _, m := range packed {
			row = append(row, size(b.VM.Packed[m]))
		}
		since := "new"
		if b.VM.Change != nil {
			since = change(*b.VM.Change)
		}
		s.rows = append(s.rows, append(row, since))
	}
	return s
}

func (r *Report) boots() section {
	s := section{title: "Boots", head: []string{"VM", "platform", "how", "case", ">first output", ">exit code", ">resident", "result"}}
	for _, b := range r.Boots {
		result := "ok"
		if !b.OK {
			result = "FAILED"
			if b.Problem != "" {
				result += ": " + strings.Join(strings.Fields(b.Problem), " ")
			}
		}
		s.rows = append(s.rows, []string{b.Name, b.Platform, b.How, orDash(b.Case), fmt.Sprintf("%.0f ms", b.FirstOutput*1000),
			fmt.Sprint(b.ExitCode), size(b.Resident), result})
	}
	return s
}

// filled is the section without the columns that no row fills.
func (s section) filled() section {
	out := section{title: s.title, rows: make([][]string, len(s.rows))}
	for c, head := range s.head {
		empty := func(row []string) bool { return row[c] == "–" }
		if len(s.rows) > 0 && !slices.ContainsFunc(s.rows, func(row []string) bool { return !empty(row) }) {
			continue
		}
		out.head = append(out.head, head)
		for i, row := range s.rows {
			out.rows[i] = append(out.rows[i], row[c])
		}
	}
	return out
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

func size(n int64) string {
	if n == 0 {
		return "–"
	}
	return Bytes(n)
}

func count(n int) string {
	if n == 0 {
		return "–"
	}
	return fmt.Sprint(n)
}

const units = "Sizes are decimal: 1 MB is 1,000,000 bytes. “Pull” is what a registry sends, “on disk” is unpacked, “ours” is what lies above the base."

// Table is the report for a terminal.
func (r *Report) Table() string {
	var b strings.Builder
	for i, s := range r.sections() {
		if i > 0 {
			b.WriteString("\n")
		}
		widths := make([]int, len(s.head))
		for _, row := range append([][]string{s.head}, s.rows...) {
			for c, cell := range row {
				widths[c] = max(widths[c], utf8.RuneCountInString(strings.TrimPrefix(cell, ">")))
			}
		}
		for n, row := range append([][]string{s.head}, s.rows...) {
			var line strings.Builder
			for c, cell := range row {
				if n == 0 {
					cell = strings.ToUpper(strings.TrimPrefix(cell, ">"))
				}
				pad := strings.Repeat(" ", widths[c]-utf8.RuneCountInString(cell))
				if strings.HasPrefix(s.head[c], ">") {
					line.WriteString(pad + cell)
				} else {
					line.WriteString(cell + pad)
				}
				line.WriteString("  ")
			}
			b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
		}
	}
	return b.String()
}

// Markdown is the report as report.md holds it.
func (r *Report) Markdown() string {
	var b strings.Builder
	b.WriteString("# Sizes and times\n\n![Image sizes beside today's](report.svg)\n\n" + units + "\n")
	for _, s := range r.sections() {
		fmt.Fprintf(&b, "\n## %s\n\n", s.title)
		var head, rule []string
		for _, h := range s.head {
			name, right := strings.CutPrefix(h, ">")
			head = append(head, name)
			rule = append(rule, map[bool]string{true: "--:", false: ":--"}[right])
		}
		for _, row := range append([][]string{head, rule}, s.rows...) {
			b.WriteString("|")
			for _, cell := range row {
				b.WriteString(" " + strings.ReplaceAll(cell, "|", `\|`) + " |")
			}
			b.WriteString("\n")
		}
	}
	if p := r.plugins(); p != "" {
		b.WriteString("\n## Plugins\n\n" + p)
	}
	return b.String()
}

// plugins lists what each build kept, builds with the same list together.
func (r *Report) plugins() string {
	lists := map[string][]string{}
	for _, build := range r.Builds {
		var names []string
		for _, p := range build.Plugins {
			name := p.Name
			if p.Kind == "external" {
				name += " (external)"
			}
			if p.Bytes > 0 {
				name += " " + Bytes(p.Bytes)
			}
			names = append(names, name)
		}
		if len(names) > 0 {
			list := strings.Join(names, ", ")
			lists[list] = append(lists[list], "`"+build.ID+"`")
		}
	}
	var out []string
	for list, ids := range lists {
		out = append(out, fmt.Sprintf("- %s: %s\n", strings.Join(ids, ", "), list))
	}
	slices.Sort(out)
	return strings.Join(out, "")
}
