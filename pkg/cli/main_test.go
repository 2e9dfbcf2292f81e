package cli_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// daemon is a program that says when it runs, and drains until its standard input
// ends. It takes a line of standard error that cannot be written as no end.
func daemon(ctx context.Context, _ []string, stdout, stderr io.Writer) error {
	if _, err := fmt.Fprintln(stderr, "a line of the log"); err != nil {
		_, _ = fmt.Fprintln(stdout, "lost")
	}
	_, _ = fmt.Fprintln(stdout, "runs")
	<-ctx.Done()
	_, _ = fmt.Fprintln(stdout, "drains")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// running is the program above.
type running struct {
	*exec.Cmd
	stdin  io.Closer
	stdout io.Closer // the reader's end
	says   *bufio.Scanner
}

// start has a shell start it.
func start(t *testing.T, shell string, stderr *os.File) running {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := running{Cmd: exec.Command("sh", "-c", shell, self)}
	p.Stderr = stderr
	p.Env = append(os.Environ(), "CLI_TEST_ARGS=daemon", "GORACE=atexit_sleep_ms=0")
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdout, p.says = out, bufio.NewScanner(out)
	if p.stdin, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill(); _ = p.Wait() })
	return p
}

// wants waits for a line of standard output.
func (p running) wants(t *testing.T, want string) {
	t.Helper()
	if !p.says.Scan() || p.says.Text() != want {
		t.Fatalf("got %q, want %q", p.says.Text(), want)
	}
}

func (p running) send(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// insist sends a signal until the process has ended, and returns its exit status.
func (p running) insist(t *testing.T, s os.Signal) int {
	t.Helper()
	ended := make(chan int)
	go func() { ended <- p.status() }()
	for {
		select {
		case status := <-ended:
			return status
		case <-time.After(20 * time.Millisecond):
			_ = p.Process.Signal(s)
		}
	}
}

// finish lets a process that drains end, which it must do with exit status 0.
func (p running) finish(t *testing.T) {
	t.Helper()
	_ = p.stdin.Close()
	if got := p.status(); got != 0 {
		t.Errorf("exit status %d, want 0: %v", got, p.ProcessState)
	}
}

func (p running) status() int {
	_ = p.Wait()
	return p.ProcessState.ExitCode()
}

const plainly, nohup = `exec "$0"`, `trap '' HUP; exec "$0"`

func TestMain_FirstSignal_Drains(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		t.Run(s.String(), func(t *testing.T) {
			p := start(t, plainly, nil)
			p.wants(t, "runs")
			p.send(t, s)
			p.wants(t, "drains")
			p.send(t, syscall.SIGHUP) // a terminal that is closed sends several
			p.finish(t)
		})
	}
}

func TestMain_SecondSignal_EndsImmediately(t *testing.T) {
	for s, want := range map[syscall.Signal]int{syscall.SIGTERM: 143, syscall.SIGINT: 130} {
		t.Run(s.String(), func(t *testing.T) {
			p := start(t, plainly, nil)
			p.wants(t, "runs")
			p.send(t, s)
			p.wants(t, "drains")
			if got := p.insist(t, s); got != want {
				t.Errorf("exit status %d, want %d", got, want)
			}
		})
	}
}

func TestMain_DuplicateSignal_Drains(t *testing.T) { // as timeout(1) does
	p := start(t, plainly, nil)
	p.wants(t, "runs")
	p.send(t, syscall.SIGTERM)
	p.send(t, syscall.SIGTERM)
	p.wants(t, "drains")
	p.finish(t)
}

func TestMain_SIGINTThenSIGTERM_Drains(t *testing.T) {
	p := start(t, plainly, nil) // Ctrl-C, which a script passes on in its own way
	p.wants(t, "runs")
	p.send(t, syscall.SIGINT)
	p.wants(t, "drains")
	p.send(t, syscall.SIGTERM)
	p.finish(t)
}

func TestMain_Nohup_IgnoresSIGHUP(t *testing.T) {
	p := start(t, nohup, nil)
	p.wants(t, "runs")
	p.send(t, syscall.SIGHUP)
	p.send(t, syscall.SIGTERM)
	p.wants(t, "drains")
	if got := p.insist(t, syscall.SIGTERM); got != 143 {
		t.Errorf("exit status %d, want 143", got)
	}
}

func TestMain_LogClosed_Continues(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = reader.Close()
	defer writer.Close()
	p := start(t, plainly, writer)
	p.wants(t, "lost")
	p.wants(t, "runs")
	p.send(t, syscall.SIGXFSZ)
	p.send(t, syscall.SIGTERM)
	p.wants(t, "drains")
	p.finish(t)
}

func TestMain_StdoutClosed_Continues(t *testing.T) {
	p := start(t, plainly, nil)
	p.wants(t, "runs")
	_ = p.stdout.Close()
	p.send(t, syscall.SIGTERM) // it says that it drains, to no reader
	p.finish(t)
}
