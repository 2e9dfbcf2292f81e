package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fleetconf/fleetconf/test/internal/swarm"
)

// table is one of Markdown.
type table struct{ rows [][]string }

func newTable(columns ...string) *table { return &table{[][]string{columns}} }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// print prints the table with its columns in line. Figures stand at the right.
func (t *table) print(w io.Writer) {
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for r, row := range t.rows {
		for i, cell := range row {
			fmt.Fprintf(w, "| %s%s ", strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)), cell)
		}
		fmt.Fprintln(w, "|")
		if r == 0 {
			for _, width := range widths {
				fmt.Fprintf(w, "|%s:", strings.Repeat("-", width+1))
			}
			fmt.Fprintln(w, "|")
		}
	}
}

func printNotes(w io.Writer, notes []string) {
	if len(notes) > 0 {
		fmt.Fprintln(w)
	}
	for _, note := range notes {
		fmt.Fprintln(w, "*", note)
	}
}

// label is what the tables call a transport.
func (b *bench) label(transport string) string {
	if transport == string(swarm.None) {
		return fmt.Sprintf("polling, %s", formatDuration(b.interval))
	}
	return transport
}

// formatDuration writes a duration without the zeroes at its end.
func formatDuration(d time.Duration) string {
	text := d.String()
	if short, ok := strings.CutSuffix(text, "m0s"); ok {
		text = short + "m"
	}
	return text
}

// formatCount writes a number as 1,234,567.
func formatCount(n int64) string {
	if n < 0 {
		return "-" + formatCount(-n)
	}
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// milliseconds and kib write a figure with as many digits as mean something.
func milliseconds(d time.Duration) string { return figure(float64(d) / float64(time.Millisecond)) }

func kib(bytes int64) string { return figure(float64(bytes) / 1024) }

func figure(f float64) string {
	if -10 < f && f < 10 {
		return strconv.FormatFloat(f, 'f', 1, 64)
	}
	return formatCount(int64(f + 0.5))
}
