package test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// If the reader of the log closes it, the programs go on, count the lost lines, and
// drain on SIGHUP.
func TestLog_ReaderClosed_ProgramsContinue(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"controller", "agent", "worker"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			reader, writer, err := os.Pipe()
			must(t, err)
			cmd := command(filepath.Join(binaries, name), []string{"PORT=0", "LOG_FORMAT=json", "LOG_LEVEL=debug",
				"DB_PATH=" + filepath.Join(dir, "controller.db"),
				"CACHE_FILE=" + filepath.Join(dir, "agent_config.cache")})
			cmd.Stderr = writer
			must(t, cmd.Start())
			must(t, writer.Close())
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }() // ends with the process
			t.Cleanup(func() { _ = cmd.Process.Kill() })
			var addr string
			for lines := bufio.NewScanner(reader); addr == "" && lines.Scan(); {
				addr = listenAddress(lines.Text())
			}
			must(t, reader.Close())
			lost := regexp.MustCompile(`(?m)^fleetconf_log_lines_lost_total [1-9]`)
			eventually(t, func() error {
				a, err := call("", "GET", "http://"+addr+"/metrics", "")
				if err == nil && !lost.MatchString(a.body) {
					at := strings.Index(a.body, "fleetconf_log_lines_lost_total")
					err = fmt.Errorf("/metrics counts no lost line: %.300s", a.body[max(0, at):])
				}
				return err
			})
			must(t, cmd.Process.Signal(syscall.SIGHUP))
			select {
			case err := <-ended:
				must(t, err)
			case <-time.After(timeout):
				t.Error("it did not end on SIGHUP")
			}
		})
	}
}
