// Package logger makes the logger of a process: text on a terminal, else one JSON object a line.
package logger

import (
	"bytes"
	"fmt"
	"io"
	stdlog "log"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/term"
)

// Formats are the values that New takes for format.
var Formats = []string{"auto", "text", "json"}

// New returns a logger that writes to w. level is error, warn, info or debug; format is text, json,
// or auto, which is text if w is a terminal and else JSON. Text is colored on a terminal, unless
// NO_COLOR is set, and elsewhere if CLICOLOR_FORCE is set.
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
			FullTimestamp: true, TimestampFormat: time.TimeOnly, ForceColors: colored(w), DisableColors: !colored(w),
		})
	case format == "json" || format == "auto":
		log.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	default:
		return nil, fmt.Errorf("log format %q: want auto, text or json", format)
	}
	return log, nil
}

// colored implements the conventions of no-color.org and bixense.com/clicolors.
func colored(w io.Writer) bool {
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

// Limits for a log whose reader stalls, such as a pipe to a program that hangs: programs log while
// holding locks, and must not block.
const (
	stallTimeout = time.Second // of one line
	maxPending   = 256 << 10   // bytes of buffered lines
)

// output is the writer of a logger. It counts lines that cannot be written or would exceed
// maxPending, and returns no error: the log is the only place to report one.
type output struct {
	w    io.Writer
	lost atomic.Int64

	mu      sync.Mutex // guards the rest; not held while w writes
	pending [][]byte   // buffered lines
	size    int        // of pending, in bytes
	writing bool       // a goroutine writes pending
}

// Write returns when the line is written, or after stallTimeout. It does not wait while an earlier
// line waits.
func (o *output) Write(line []byte) (int, error) {
	if !o.enqueue(line) {
		return len(line), nil
	}
	written := make(chan struct{})
	go func() { // ends with the last line
		defer close(written)
		for lines := o.take(); lines != nil; lines = o.take() {
			for _, line := range lines {
				if _, err := o.w.Write(line); err != nil {
					o.lost.Add(1)
				}
			}
		}
	}()
	timer := time.NewTimer(stallTimeout)
	defer timer.Stop()
	select {
	case <-written:
	case <-timer.C:
	}
	return len(line), nil
}

// enqueue buffers a line, and reports whether the caller must start a goroutine to write.
func (o *output) enqueue(line []byte) (write bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.size+len(line) > maxPending && o.writing {
		o.lost.Add(1)
		return false
	}
	o.pending = append(o.pending, bytes.Clone(line))
	o.size += len(line)
	write = !o.writing
	o.writing = true
	return write
}

// take returns the lines to write, nil for none.
func (o *output) take() (lines [][]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	lines, o.pending, o.size = o.pending, nil, 0
	o.writing = lines != nil
	return lines
}

// Lost returns how many lines of a log that New made could not be written.
func Lost(log *logrus.Logger) float64 {
	if o, ok := log.Out.(*output); ok {
		return float64(o.lost.Load())
	}
	return 0
}

// Debug returns a logger of the standard library each of whose lines becomes an entry of
// log at debug level, with this message and the line in field.
func Debug(log logrus.FieldLogger, message, field string) *stdlog.Logger {
	return stdlog.New(debugLines{log, message, field}, "", 0)
}

type debugLines struct {
	log            logrus.FieldLogger
	message, field string
}

func (d debugLines) Write(line []byte) (int, error) {
	d.log.WithField(d.field, strings.TrimSpace(string(line))).Debug(d.message)
	return len(line), nil
}
