package logger_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/pkg/logger"
)

func TestNew_NoTerminal_WritesJSONLines(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	log, err := logger.New(file, "info", "auto")
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("Unseen")
	log.WithField("version", 8).Info("Configuration applied")
	lines, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Level, Msg, Time string
		Version          int
	}
	if err := json.Unmarshal(lines, &got); err != nil {
		t.Fatalf("%q is not one JSON object: %v", lines, err)
	}
	if got.Level != "info" || got.Msg != "Configuration applied" || got.Version != 8 {
		t.Errorf("got %+v", got)
	}
	if _, err := time.Parse(time.RFC3339Nano, got.Time); err != nil {
		t.Errorf("time %q: %v", got.Time, err)
	}
}

func TestNew_Formats(t *testing.T) {
	for format, json := range map[string]bool{"auto": true, "json": true, "text": false} {
		var out bytes.Buffer
		log, err := logger.New(&out, "warn", format)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("Unseen")
		log.Warn("Seen")
		if got := strings.HasPrefix(out.String(), "{"); got != json || strings.Count(out.String(), "\n") != 1 ||
			!strings.Contains(out.String(), "Seen") {
			t.Errorf("%s wrote %q, want the warning alone, as JSON: %v", format, out.String(), json)
		}
	}
}

func TestNew_UnknownLevelOrFormat(t *testing.T) {
	for _, row := range []struct{ level, format, want string }{
		{"loud", "json", `"loud"`},
		{"", "json", `""`},
		{"info", "xml", `"xml"`},
		{"info", "", `""`},
	} {
		if log, err := logger.New(os.Stderr, row.level, row.format); err == nil || log != nil ||
			!strings.Contains(err.Error(), row.want) {
			t.Errorf("New(%q, %q) = %v, %v, want an error that names %s", row.level, row.format, log, err, row.want)
		}
	}
}

func TestFormats_AllAccepted(t *testing.T) {
	for _, format := range logger.Formats {
		if log, err := logger.New(os.Stderr, logrus.InfoLevel.String(), format); err != nil || log == nil {
			t.Errorf("%s: got %v", format, err)
		}
	}
}

// gone is a writer whose reader is away.
type gone struct{ now bool }

func (g *gone) Write(line []byte) (int, error) {
	if g.now {
		return 0, syscall.EPIPE
	}
	return len(line), nil
}

func TestLost_CountsFailedWrites(t *testing.T) {
	reader := &gone{}
	log, err := logger.New(reader, "info", "json")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("Read")
	reader.now = true
	log.Info("Lost")
	log.Warn("Lost")
	reader.now = false
	log.Info("Read")
	if got := logger.Lost(log); got != 2 {
		t.Errorf("got %v lines lost, want 2", got)
	}
	if got := logger.Lost(logrus.New()); got != 0 {
		t.Errorf("of another logger: got %v", got)
	}
}

func TestNew_Colours(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no terminal can be opened here: %v", err)
	}
	defer terminal.Close()
	t.Setenv("TERM", "xterm")
	for _, row := range []struct {
		name, noColor, force, format string
		w                            io.Writer
		want                         bool
	}{
		{"terminal", "", "", "auto", terminal, true},
		{"terminal, text", "", "", "text", terminal, true},
		{"terminal, NO_COLOR", "1", "", "auto", terminal, false},
		{"NO_COLOR wins", "1", "1", "text", terminal, false},
		{"pipe", "", "", "text", io.Discard, false},
		{"pipe, forced", "", "1", "text", io.Discard, true},
		{"pipe, not forced", "", "0", "text", io.Discard, false},
	} {
		t.Setenv("NO_COLOR", row.noColor)
		t.Setenv("CLICOLOR_FORCE", row.force)
		log, err := logger.New(row.w, "info", row.format)
		if err != nil {
			t.Fatal(err)
		}
		line, err := log.Formatter.Format(log.WithField("version", 8))
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(line, []byte("\x1b[")); got != row.want {
			t.Errorf("%s: coloured %v, want %v: %q", row.name, got, row.want, line)
		}
	}
	t.Setenv("CLICOLOR_FORCE", "1")
	var out bytes.Buffer
	log, err := logger.New(&out, "info", "auto")
	if err != nil {
		t.Fatal(err)
	}
	if log.Info("Seen"); !strings.HasPrefix(out.String(), "{") {
		t.Errorf("CLICOLOR_FORCE makes auto write %q to a pipe, want JSON", out.String())
	}
}

// A reader that does not read holds up one line for a second, and no other. When it
// reads again it gets the lines in their order, but for those beyond the bound, which
// are counted.
func TestLog_StalledReader_DoesNotBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader, writer := io.Pipe()
		log, err := logger.New(writer, "info", "json")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for i := range 100 {
			log.WithField("line", i).Info("Hello")
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("100 lines took %s, want a second at most", took)
		}
		if lost := logger.Lost(log); lost != 0 {
			t.Errorf("%v lines are lost, want none yet", lost)
		}
		for range 10 {
			log.Info(strings.Repeat("x", 100<<10))
		}
		if lost := logger.Lost(log); lost != 8 {
			t.Errorf("%v lines of 100 KiB are lost, want 8 of 10", lost)
		}
		lines := bufio.NewScanner(reader)
		lines.Buffer(nil, 1<<20)
		for i := range 100 {
			if lines.Scan(); !strings.Contains(lines.Text(), fmt.Sprintf(`"line":%d,`, i)) {
				t.Fatalf("line %d is %.100q", i, lines.Text())
			}
		}
		for range 2 {
			lines.Scan()
		}
		go func() { log.Info("Last") }() // ends when it is read
		if lines.Scan(); !strings.Contains(lines.Text(), "Last") {
			t.Errorf("got %.100q, want the last line", lines.Text())
		}
	})
}
