// Package test tests the system as its users see it: it runs the binaries, and imports
// nothing of them. The stories show the main uses; the Go tests add faults.
package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// A story is a script of testscript, with these additional commands:
//
//	start NAME [KEY=VALUE...]   start controller, agent, worker or target, wait until it listens, and set $NAME
//	                            to its URL; after crash or stop it restarts with the same port and settings
//	crash NAME                  kill with SIGKILL
//	stop NAME                   stop with SIGTERM; it must end with status 0
//	exits STATUS NAME [ARG...]  run a binary that ends by itself; stdout and stderr match its output
//	publish URL [JSON]          as the admin, acknowledged; JSON has more fields
//	waitfor URL [TEXT]          until the status is 200, and the body contains TEXT
//	hit STATUS [TEXT]           immediately, without retries
//	call WHO METHOD URL STATUS [BODY]
//	                            WHO is admin, agent, anonymous or user:password; stdout has the headers and the body
//	agents N [TEXT]             until the list has N agents, and contains TEXT
func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "stories",
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			s := &story{processes: map[string]*process{}}
			env.Values[storyKey{}] = s
			env.Defer(func() {
				for _, p := range s.processes {
					if p.cmd != nil {
						_ = p.crash()
					}
				}
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"start":   inStory((*story).start),
			"crash":   inStory((*story).crash),
			"stop":    inStory((*story).stop),
			"exits":   inStory((*story).exits),
			"publish": inStory((*story).publish),
			"waitfor": inStory((*story).waitfor),
			"hit":     inStory((*story).hit),
			"call":    inStory((*story).call),
			"agents":  inStory((*story).agents),
		},
	})
}

type storyKey struct{}

// story is the processes of one script.
type story struct{ processes map[string]*process }

var errUsage = errors.New("invalid command; see the comment of TestStories")

func inStory(run func(*story, *testscript.TestScript, []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		s := ts.Value(storyKey{}).(*story)
		err := run(s, ts, args)
		if neg {
			err = errUsage
		}
		if err == nil {
			return
		}
		for _, name := range s.names() {
			ts.Logf("--- log of %s\n%s", name, tail(s.processes[name].log.String(), 3000))
		}
		ts.Fatalf("%v", err)
	}
}

func (s *story) names() (names []string) {
	for name := range s.processes {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func (s *story) start(ts *testscript.TestScript, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	name, env := args[0], args[1:]
	p := s.processes[name]
	if p == nil {
		p = newProcess(name)
		s.processes[name] = p
		switch name {
		case "controller":
			p.env = controllerIn(ts.Getenv("WORK"))
		case "agent":
			p.env = agentIn(ts.Getenv("WORK"), ts.Getenv("CONTROLLER"), ts.Getenv("WORKER"))
		}
	}
	p.env = append(p.env, env...)
	if err := p.start(); err != nil {
		return err
	}
	ts.Setenv(strings.ToUpper(name), p.url())
	return nil
}

func (s *story) running(args []string) (*process, error) {
	if len(args) != 1 || s.processes[args[0]] == nil {
		return nil, errUsage
	}
	return s.processes[args[0]], nil
}

func (s *story) crash(_ *testscript.TestScript, args []string) error {
	p, err := s.running(args)
	if err != nil {
		return err
	}
	return p.crash()
}

func (s *story) stop(_ *testscript.TestScript, args []string) error {
	p, err := s.running(args)
	if err != nil {
		return err
	}
	return p.stop()
}

func (s *story) exits(ts *testscript.TestScript, args []string) error {
	if len(args) < 2 {
		return errUsage
	}
	cmd := command(filepath.Join(binaries, args[1]), nil, args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"HOST", "PORT", "DB_PATH", "ADMIN_PASSWORD", "AGENT_PASSWORD",
		"ADMIN_PASSWORD_FILE", "DEFAULT_POLL_INTERVAL", "INITIAL_URL",
		"CONTROLLER_URL", "CONTROLLER_PASSWORD", "WORKER_URL", "WORKER_TOKEN", "CACHE_FILE", "HIT_TIMEOUT",
		"DENY_CIDRS", "LOG_LEVEL", "LOG_FORMAT"} {
		if value := ts.Getenv(name); value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
	_ = cmd.Run()
	if got := strconv.Itoa(cmd.ProcessState.ExitCode()); got != args[0] {
		return fmt.Errorf("%s ended with status %s, want %s", args[1], got, args[0])
	}
	return nil
}

func (s *story) publish(ts *testscript.TestScript, args []string) error {
	if len(args) == 0 || len(args) > 2 {
		return errUsage
	}
	document := map[string]any{}
	if len(args) == 2 {
		if err := json.Unmarshal([]byte(args[1]), &document); err != nil {
			return err
		}
	}
	document["url"] = args[0]
	body, err := json.Marshal(document)
	if err != nil {
		return err
	}
	a, err := call(admin, "POST", ts.Getenv("CONTROLLER")+"/api/v1/config", string(body))
	if err != nil {
		return err
	}
	_, _ = io.WriteString(ts.Stdout(), a.body)
	if a.status != http.StatusOK {
		return fmt.Errorf("publish: got %v, want 200", a)
	}
	return nil
}

func (s *story) waitfor(_ *testscript.TestScript, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	text := strings.Join(args[1:], " ")
	return within(timeout, func() error {
		a, err := call("", "GET", args[0], "")
		if err == nil && (a.status != http.StatusOK || !strings.Contains(a.body, text)) {
			err = fmt.Errorf("GET %s: got %v, want 200 %s", args[0], a, text)
		}
		return err
	})
}

func (s *story) hit(ts *testscript.TestScript, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	a, err := call("", "GET", ts.Getenv("WORKER")+"/hit", "")
	if err != nil {
		return err
	}
	if text := strings.Join(args[1:], " "); strconv.Itoa(a.status) != args[0] || !strings.Contains(a.body, text) {
		return fmt.Errorf("the hit: got %v, want %s %s", a, args[0], text)
	}
	return nil
}

func (s *story) call(ts *testscript.TestScript, args []string) error {
	if len(args) < 4 {
		return errUsage
	}
	who, ok := map[string]string{"admin": admin, "agent": agents, "anonymous": ""}[args[0]]
	if !ok {
		who = args[0]
	}
	a, err := call(who, args[1], args[2], strings.Join(args[4:], " "))
	if err != nil {
		return err
	}
	_ = a.header.Write(ts.Stdout())
	_, _ = fmt.Fprintf(ts.Stdout(), "\n%s\n", a.body)
	if strconv.Itoa(a.status) != args[3] {
		return fmt.Errorf("%s %s: got %v, want %s", args[1], args[2], a, args[3])
	}
	return nil
}

func (s *story) agents(ts *testscript.TestScript, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	text := strings.Join(args[1:], " ")
	return within(timeout, func() error {
		a, err := call(admin, "GET", ts.Getenv("CONTROLLER")+"/api/v1/agents", "")
		if err == nil && (a.header.Get("X-Total-Count") != args[0] || !strings.Contains(a.body, text)) {
			err = fmt.Errorf("the agents: got %s: %v, want %s %s", a.header.Get("X-Total-Count"), a, args[0], text)
		}
		return err
	})
}
