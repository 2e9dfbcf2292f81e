// Package logger makes the one logger of a process: text for a person at a
// terminal, a JSON object a line for everything else.
package logger

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/term"
)

// Formats are the values that New takes for format.
var Formats = []string{"auto", "text", "json"}

// New returns a logger that writes to w. level is a name that logrus knows
// (error, warn, info, debug); format is text, json, or auto, which is text
// where w is a terminal and JSON elsewhere. Text is coloured on a terminal, unless
// NO_COLOR says otherwise, and elsewhere where CLICOLOR_FORCE is set.
func New(w io.Writer, level, format string) (*logrus.Logger, error) {
	parsed, err := logrus.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("log level %q: want error, warn, info or debug", level)
	}
	log := logrus.New()
	log.SetOutput(&output{w: w})
	log.SetLevel(parsed)
	switch {
	case format == "text" || format == "auto" && isTerminal(w):
		log.SetFormatter(&logrus.TextFormatter{
			FullTimestamp: true, TimestampFormat: time.TimeOnly, ForceColors: coloured(w), DisableColors: !coloured(w),
		})
	case format == "json" || format == "auto":
		log.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	default:
		return nil, fmt.Errorf("log format %q: want auto, text or json", format)
	}
	return log, nil
}

// coloured follows the conventions of no-color.org and bixense.com/clicolors.
func coloured(w io.Writer) bool {
	if os.Getenv("NO_COLOR") != "" {
		return false
	}
	if force := os.Getenv("CLICOLOR_FORCE"); force != "" && force != "0" {
		return true
	}
	return isTerminal(w) && os.Getenv("TERM") != "dumb"
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// output is what a logger writes to. A line that cannot be written is counted, and
// is no error: the log is the only place to report one.
type output struct {
	w    io.Writer
	lost atomic.Int64
}

func (o *output) Write(line []byte) (int, error) {
	if _, err := o.w.Write(line); err != nil {
		o.lost.Add(1)
	}
	return len(line), nil
}

// Lost returns how many lines of a log that New made could not be written.
func Lost(log *logrus.Logger) float64 {
	if o, ok := log.Out.(*output); ok {
		return float64(o.lost.Load())
	}
	return 0
}
