package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// result is a row that has run. Its fields are the JSON's.
type result struct {
	Load     string
	Expected []string
	Got      []string
	Verdict  string // ok or FAILED
	Notes    []string
	Seconds  float64
}

const (
	verdictOK     = "ok"
	verdictFailed = "FAILED"
)

// table prints results as they come, as Markdown.
type table struct {
	to      io.Writer
	results []result
}

func newTable(to io.Writer) *table {
	fmt.Fprintf(to, "Each row expects as well, unless it says otherwise: %s.\n\n", strings.Join(usual(), "; "))
	fmt.Fprintln(to, "| load | expected | got | verdict |")
	fmt.Fprintln(to, "| --- | --- | --- | --- |")
	return &table{to: to}
}

func (t *table) add(r result) {
	t.results = append(t.results, r)
	verdict := r.Verdict
	if verdict != verdictOK {
		verdict = "**" + verdict + "**"
	}
	own := slices.DeleteFunc(slices.Clone(r.Expected), func(want string) bool { return slices.Contains(usual(), want) })
	fmt.Fprintf(t.to, "| %s | %s | %s | %s |\n", r.Load, cell(own), cell(r.Got), verdict)
}

// cell makes text fit into a table of Markdown.
func cell(parts []string) string {
	return strings.ReplaceAll(strings.Join(parts, "; "), "|", `\|`)
}

func (t *table) failed() (n int) {
	for _, r := range t.results {
		if r.Verdict != verdictOK {
			n++
		}
	}
	return n
}

// finish prints what belongs below the table.
func (t *table) finish(took time.Duration) {
	fmt.Fprintf(t.to, "\n%d of %d rows as expected, in %v.\n",
		len(t.results)-t.failed(), len(t.results), took.Round(time.Second))
	for _, r := range t.results {
		if r.Verdict == verdictOK {
			continue
		}
		fmt.Fprintf(t.to, "\n%s:\n", r.Load)
		for _, note := range r.Notes {
			fmt.Fprintf(t.to, "    %s\n", note)
		}
	}
}
