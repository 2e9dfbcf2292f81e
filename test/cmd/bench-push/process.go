package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a child process that ends with the run.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   string // the file
	ended chan struct{}

	in  io.WriteCloser // both nil unless started by launchPiped
	out io.ReadCloser
}

// inherited are settings that may be varied through the environment.
var inherited = []string{"PUSH_RATE", "SWEEP_INTERVAL", "LIMIT_REGISTER", "LIMIT_CONFIG", "LIMIT_STATUS",
	"GOMAXPROCS", "GOGC", "GOMEMLIMIT"}

// launch starts a program whose log file has that name.
func (b *bench) launch(name, program string, args, env []string) (*process, error) {
	p := b.newProcess(name, program, args, env)
	return p, p.start()
}

// launchPiped is launch for a program with pipes: Write goes to its standard input, and
// Read comes from its standard output.
func (b *bench) launchPiped(name, program string, args ...string) (*process, error) {
	p := b.newProcess(name, program, args, nil)
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	return p, p.start()
}

func (b *bench) newProcess(name, program string, args, env []string) *process {
	p := &process{name: name, log: filepath.Join(b.dir, name+".log"), ended: make(chan struct{})}
	p.cmd = exec.CommandContext(b.ctx, program, args...) // kills it when ctx ends
	p.cmd.Dir = b.dir
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.dir}, env...)
	for _, name := range inherited {
		if value, ok := os.LookupEnv(name); ok {
			p.cmd.Env = append(p.cmd.Env, name+"="+value)
		}
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that Ctrl-C reaches only this process, which ends ctx
	return p
}

func (p *process) start() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the child has a copy
	p.cmd.Stderr = log
	if p.out == nil {
		p.cmd.Stdout = log
	}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	go func() { // ends with the program
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	return nil
}

// Read returns an error with the end of the log if the program has ended.
func (p *process) Read(b []byte) (int, error) {
	n, err := p.out.Read(b)
	if err != nil {
		err = fmt.Errorf("%s ended: %w\n%s", p.name, err, p.tail())
	}
	return n, err
}

func (p *process) Write(b []byte) (int, error) {
	n, err := p.in.Write(b)
	if err != nil {
		err = fmt.Errorf("%s ended: %w\n%s", p.name, err, p.tail())
	}
	return n, err
}

// kill kills the program. It may have ended before, or never started.
func (p *process) kill() {
	if p.cmd.Process == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// await returns when ask succeeds.
func (p *process) await(ctx context.Context, ask func() error) error {
	for deadline := time.Now().Add(startTimeout); ; {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended while starting:\n%s", p.name, p.tail())
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not respond: %w\n%s", p.name, err, p.tail())
		}
	}
}

// startTimeout is how long a program may take to respond.
const startTimeout = 30 * time.Second

// tail returns the end of the log.
func (p *process) tail() string {
	text, _ := os.ReadFile(p.log)
	return string(text[max(0, len(text)-2000):])
}

// healthy checks the health of a controller.
func healthy(address string) func() error {
	return func() error {
		response, err := client.Get("http://" + address + "/health")
		if err != nil {
			return err
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("health answered %d", response.StatusCode)
		}
		return nil
	}
}

// acceptsTCP checks that a TCP connection can be opened.
func acceptsTCP(address string) func() error {
	return func() error {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// usage is what a program has used.
type usage struct {
	memory int64         // resident bytes
	cpu    time.Duration // user and system
}

// tick is the unit of CPU time in /proc, on every architecture.
const tick = 10 * time.Millisecond

// usage returns the usage of the program, from /proc.
func (p *process) usage() (u usage, err error) {
	dir := "/proc/" + strconv.Itoa(p.cmd.Process.Pid)
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return u, fmt.Errorf("read the memory of %s: %w", p.name, err)
	}
	_, rest, found := strings.Cut(string(status), "VmRSS:")
	kib, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.ParseInt(kib, 10, 64)
	if err != nil || !found {
		return u, fmt.Errorf("/proc has no memory usage of %s: it has ended", p.name)
	}
	u.memory = n << 10
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return u, fmt.Errorf("read the CPU time of %s: %w", p.name, err)
	}
	// The second field is a name in parentheses, and may hold anything.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return u, fmt.Errorf("%s/stat has another format than in proc(5)", dir)
	}
	for _, field := range fields[11:13] { // utime and stime, the 14th and the 15th
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return u, fmt.Errorf("%s/stat: %w", dir, err)
		}
		u.cpu += time.Duration(ticks) * tick
	}
	return u, nil
}

func port(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}
