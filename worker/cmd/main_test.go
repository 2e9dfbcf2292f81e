package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/fleetconf/fleetconf/pkg/cli"
	"github.com/fleetconf/fleetconf/pkg/settings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines is a writer that sends each line to a channel.
type lines struct {
	mu   sync.Mutex
	all  bytes.Buffer
	sent chan string
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all.Write(b)
	select {
	case l.sent <- string(b):
	default:
	}
	return len(b), nil
}

func TestRun_ServesUntilCanceled(t *testing.T) {
	t.Setenv("PORT", "0")
	t.Setenv("LOG_FORMAT", "text")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	log := &lines{sent: make(chan string, 16)}
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, nil, io.Discard, log) }()
	line, said := "", ""
	for !strings.Contains(line, "Listening") {
		line = <-log.sent
		said += line
	}
	if !strings.Contains(said, "set WORKER_TOKEN if a reverse proxy") {
		t.Errorf("the log says %q, want what a reverse proxy in front of this worker requires", said)
	}
	_, addr, _ := strings.Cut(line, "127.0.0.1:")
	port, _, _ := strings.Cut(addr, `"`)

	res, err := http.Get("http://127.0.0.1:" + strings.TrimSpace(port) + "/health")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if res.StatusCode != 200 {
		t.Errorf("got %s, want 200", res.Status)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("stopped: got %v, want nil", err)
	}
}

// Targets are fetched by the proxy of the environment only where HIT_PROXY says so.
func TestRun_HitProxy(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "by the proxy: "+r.URL.String())
	}))
	defer proxy.Close()
	for hitProxy, want := range map[string]string{"": "502", "true": "200 by the proxy: http://target.invalid/"} {
		t.Run("HIT_PROXY="+hitProxy, func(t *testing.T) {
			t.Setenv("PORT", "0")
			t.Setenv("LOG_FORMAT", "text")
			t.Setenv("HIT_PROXY", hitProxy)
			t.Setenv("HTTP_PROXY", proxy.URL)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			log := &lines{sent: make(chan string, 16)}
			ended := make(chan error, 1)
			go func() { ended <- run(ctx, nil, io.Discard, log) }() // ends with stop
			line := ""
			for !strings.Contains(line, "Listening") {
				line = <-log.sent
			}
			_, addr, _ := strings.Cut(line, "127.0.0.1:")
			port, _, _ := strings.Cut(addr, `"`)
			base := "http://127.0.0.1:" + strings.TrimSpace(port)
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			res, err := client.Post(base+"/config", "application/json",
				strings.NewReader(`{"url":"http://target.invalid/"}`))
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res, err = client.Get(base + "/hit"); err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if got := fmt.Sprintf("%d %s", res.StatusCode, body); !strings.HasPrefix(got, want) {
				t.Errorf("got %s, want %s", got, want)
			}
			stop()
			if err := <-ended; err != nil {
				t.Errorf("stopped: got %v, want nil", err)
			}
		})
	}
}

func TestRun_PortInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	t.Setenv("PORT", port)
	err = run(t.Context(), nil, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), port) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v, want the port named as in use", err)
	}
}

func TestRun_BadSettings(t *testing.T) {
	t.Setenv("PORT", "99999")
	t.Setenv("HIT_TIMEOUT", "30")
	var faults settings.Faults
	if err := run(t.Context(), nil, io.Discard, io.Discard); !errors.As(err, &faults) || len(faults) == 0 {
		t.Errorf("got %v, want the faults of the settings", err)
	}
	if err := run(t.Context(), []string{"--bogus"}, io.Discard, io.Discard); !errors.Is(err, cli.ErrUsage) {
		t.Errorf("got %v, want the command line refused", err)
	}
}

func TestRun_Help(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--help"}, &out, io.Discard); err == nil {
		t.Error("got nil, want the run ended after --help")
	}
	for _, want := range []string{"HOST", "PORT", "WORKER_TOKEN", "WORKER_TOKEN_FILE", "HIT_TIMEOUT", "DENY_CIDRS",
		"LOG_LEVEL", "LOG_FORMAT"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("--help says nothing of %s", want)
		}
	}
}
