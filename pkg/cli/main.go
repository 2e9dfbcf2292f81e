package cli

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// duplicateSignalWindow is the time in which the same signal counts once: timeout(1) and other
// supervisors signal a process and then its group.
const duplicateSignalWindow = 100 * time.Millisecond

// Main runs a program with its command line, and ends the process as Exit does.
//
// SIGTERM, SIGINT and SIGHUP end the context of run, which then drains requests in flight. A
// second SIGTERM or SIGINT ends the process immediately, with 128 plus the signal's number as
// its exit status, unless it arrives within 100 ms of the first. If the parent process ignored
// SIGHUP (nohup), it stays ignored.
//
// SIGPIPE and SIGXFSZ are ignored: a daemon continues when the reader of its standard output or
// error is gone, or a file has reached its size limit. The write fails.
func (p Program) Main(run func(ctx context.Context, args []string, stdout, stderr io.Writer) error) {
	signal.Ignore(syscall.SIGPIPE, syscall.SIGXFSZ)
	stops := []os.Signal{syscall.SIGTERM, os.Interrupt}
	if !signal.Ignored(syscall.SIGHUP) {
		stops = append(stops, syscall.SIGHUP)
	}
	came := make(chan os.Signal, len(stops))
	signal.Notify(came, stops...)
	ctx, stop := context.WithCancel(context.Background())
	go func() { // ends with the process
		first := map[os.Signal]time.Time{}
		for s := range came {
			stop()
			if first[s].IsZero() {
				first[s] = time.Now()
			}
			// A terminal that is closed sends SIGHUP several times.
			if s != syscall.SIGHUP && time.Since(first[s]) > duplicateSignalWindow {
				os.Exit(128 + int(s.(syscall.Signal)))
			}
		}
	}()
	p.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
