package gate

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Row is the outcome of one rule on one artefact.
type Row struct {
	Artefact string `json:"artefact"` // path in the tree, plugin name, or image and platform
	Rule     string `json:"rule"`
	Found    string `json:"found"`
	OK       bool   `json:"ok"`
	Remedy   string `json:"remedy,omitempty"` // what the user can do; only when not OK
}

// Report is every rule that was tried.
type Report struct {
	Rows []Row `json:"rows"`
}

// OK says whether every rule holds.
func (r Report) OK() bool { return r.Err() == nil }

// Err joins the failures, each naming artefact, rule, what was found and the
// remedy; nil when there is none.
func (r Report) Err() error {
	var errs []error
	for _, row := range r.Rows {
		if !row.OK {
			errs = append(errs, fmt.Errorf("%s fails gate %q: found %s: %s", row.Artefact, row.Rule, row.Found, row.Remedy))
		}
	}
	return errors.Join(errs...)
}

// Failures gives the failing rows only.
func (r Report) Failures() Report {
	var out Report
	for _, row := range r.Rows {
		if !row.OK {
			out.Rows = append(out.Rows, row)
		}
	}
	return out
}

// String is the report as an aligned table, one line per rule, with the remedy
// below each failure.
func (r Report) String() string {
	rows := [][3]string{{"ARTEFACT", "RULE", "FOUND"}}
	for _, row := range r.Rows {
		rows = append(rows, [3]string{row.Artefact, row.Rule, row.Found})
	}
	var wide [2]int
	for _, row := range rows {
		for i := range wide {
			wide[i] = max(wide[i], utf8.RuneCountInString(row[i]))
		}
	}
	var b strings.Builder
	for i, row := range rows {
		mark := ""
		if i > 0 {
			mark = map[bool]string{true: "ok", false: "FAIL"}[r.Rows[i-1].OK]
		}
		fmt.Fprintf(&b, "%-4s  %-*s  %-*s  %s\n", mark, wide[0], row[0], wide[1], row[1], row[2])
		if i > 0 && !r.Rows[i-1].OK {
			fmt.Fprintf(&b, "      → %s\n", r.Rows[i-1].Remedy)
		}
	}
	return b.String()
}
