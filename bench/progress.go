package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// ProgressLine tells a person how far a Run is: on a terminal in one line that
// changes, elsewhere in a line for each measurement. Use NewProgressLine.
type ProgressLine struct {
	to       *os.File
	what     string
	terminal bool
	last     int // measurements that were done when it spoke last
}

// NewProgressLine returns one that begins each line with what is measured, if
// that is not "".
func NewProgressLine(to *os.File, what string) *ProgressLine {
	info, err := to.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	if what != "" {
		what += " "
	}
	return &ProgressLine{to: to, what: what, terminal: terminal, last: -1}
}

// Show is a Config's Progress.
func (l *ProgressLine) Show(p Progress) {
	text := fmt.Sprintf("%s[%d/%d] %s", l.what, p.Done, p.Total, p.Text)
	switch {
	case l.terminal:
		runes := []rune(text)
		fmt.Fprintf(l.to, "\r%s\x1b[K", string(runes[:min(len(runes), 79)]))
	case p.Done != l.last && strings.Contains(p.Text, ": "):
		l.last = p.Done
		fmt.Fprintln(l.to, text)
	}
}

// End takes the line away.
func (l *ProgressLine) End() {
	if l.terminal {
		fmt.Fprint(l.to, "\r\x1b[K")
	}
}

// WriteJSON writes a Report, or what has some in it, to a file.
func WriteJSON(file string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}
