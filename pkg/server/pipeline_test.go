package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/pkg/limit"
	"github.com/fleetconf/fleetconf/pkg/metrics"
	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
)

var (
	errBusy  = errors.New("busy")
	errToken = errors.New("another token is required")
)

// pipeline returns a Pipeline, the codes that it counted, and its log.
func pipeline(t *testing.T) (*server.Pipeline, func() string, *logtest.Hook) {
	t.Helper()
	log, lines := logtest.NewNullLogger()
	reg := prometheus.NewRegistry()
	p := &server.Pipeline{
		Errors: server.Errors{
			{Kind: errBusy, Status: http.StatusServiceUnavailable, RetryAfter: 3 * time.Second},
			{Kind: errToken, Status: http.StatusUnauthorized, Challenge: `Bearer realm="test"`},
		},
		Requests: metrics.NewRequests(reg, "test"), Log: log,
	}
	return p, func() string {
		page := httptest.NewRecorder()
		metrics.Handler(reg).ServeHTTP(page, httptest.NewRequest("GET", "/metrics", nil))
		for line := range strings.Lines(page.Body.String()) {
			if rest, ok := strings.CutPrefix(line, `fleetconf_test_http_requests_total{class="c",code="`); ok {
				return rest[:3]
			}
		}
		return ""
	}, lines
}

func TestPipeline_Errors_StatusAndHeaders(t *testing.T) {
	for name, row := range map[string]struct {
		err    error
		status int
		header [2]string
		detail string
	}{
		"a problem":  {problem.New(http.StatusTeapot, "short"), http.StatusTeapot, [2]string{}, "short"},
		"a document": {models.Bad("url", "is missing"), http.StatusBadRequest, [2]string{}, "url is missing"},
		"a kind": {fmt.Errorf("store: %w", errBusy), http.StatusServiceUnavailable,
			[2]string{"Retry-After", "3"}, "store: busy"},
		"a challenge": {errToken, http.StatusUnauthorized, [2]string{"Www-Authenticate", `Bearer realm="test"`},
			"another token is required"},
		"too many guesses": {&limit.TooManyGuesses{Of: "tokens", Wait: limit.MaxRetryAfter - 1},
			http.StatusTooManyRequests, [2]string{"Retry-After", "60"}, "too many wrong tokens"},
		"without a status":   {errors.New("secret"), http.StatusInternalServerError, [2]string{}, "internal error"},
		"a deadline of ours": {context.DeadlineExceeded, http.StatusInternalServerError, [2]string{}, "internal error"},
		"canceled by us":     {context.Canceled, http.StatusInternalServerError, [2]string{}, "internal error"},
	} {
		t.Run(name, func(t *testing.T) {
			p, counted, lines := pipeline(t)
			h := p.Handler(server.Route{Class: "c", Access: server.Public,
				Handle: func(http.ResponseWriter, *http.Request) error { return row.err }})
			w, _ := answer(h.ServeHTTP, httptest.NewRequest("GET", "/path", nil))
			got := problem.Read(w.Result())
			if w.Code != row.status || !strings.Contains(got.Detail, row.detail) ||
				w.Header().Get("Content-Type") != problem.ContentType {
				t.Errorf("got %d %q, want %d %q", w.Code, got.Detail, row.status, row.detail)
			}
			if row.header[0] != "" && w.Header().Get(row.header[0]) != row.header[1] {
				t.Errorf("got %s %q, want %q", row.header[0], w.Header().Get(row.header[0]), row.header[1])
			}
			if counted() != fmt.Sprint(row.status) {
				t.Errorf("counted %s, want %d", counted(), row.status)
			}
			line := lines.LastEntry()
			if failed := row.status == http.StatusInternalServerError; failed != (line != nil) ||
				failed && (line.Data["path"] != "/path" || fmt.Sprint(line.Data[logrus.ErrorKey]) != row.err.Error() ||
					line.Data["request_id"] == "") {
				t.Errorf("logged %v, want a line with the error only if it has no status", line)
			}
		})
	}
}

func TestPipeline_AccessDenied_HandlerNotRun(t *testing.T) {
	denied := func(*http.Request) error { return errToken }
	for name, row := range map[string]struct {
		access func(*http.Request) error
		want   int
	}{"denied": {denied, http.StatusUnauthorized}, "no access rule": {nil, http.StatusForbidden}} {
		p, _, _ := pipeline(t)
		h := p.Handler(server.Route{Class: "c", Access: row.access,
			Handle: func(http.ResponseWriter, *http.Request) error {
				t.Errorf("%s: the handler ran", name)
				return nil
			}})
		if w, _ := answer(h.ServeHTTP, httptest.NewRequest("GET", "/", nil)); w.Code != row.want {
			t.Errorf("%s: got %d, want %d", name, w.Code, row.want)
		}
	}
}

func TestPipeline_CountsStatus(t *testing.T) {
	canceled := func(http.ResponseWriter, *http.Request) error { return context.Canceled }
	for name, row := range map[string]struct {
		handler      server.HandlerFunc
		disconnected bool
		want         int
	}{
		"a status": {server.Plain(func(w http.ResponseWriter,
			_ *http.Request) {
			w.WriteHeader(http.StatusTeapot)
		}), false, http.StatusTeapot},
		"nothing written": {server.Plain(func(http.ResponseWriter, *http.Request) {}), false,
			http.StatusOK},
		"an interim one": {server.Plain(func(w http.ResponseWriter,
			_ *http.Request) {
			w.WriteHeader(103)
			w.WriteHeader(404)
		}), false, http.StatusNotFound},
		"a panic": {server.Plain(func(http.ResponseWriter, *http.Request) { panic("x") }), false,
			http.StatusInternalServerError},
		"an interim one, and a panic": {server.Plain(func(w http.ResponseWriter,
			_ *http.Request) {
			w.WriteHeader(103)
			panic("x")
		}), false, http.StatusInternalServerError},
		"a panic after a status": {server.Plain(func(w http.ResponseWriter,
			_ *http.Request) {
			w.WriteHeader(http.StatusTeapot)
			panic("x")
		}), false, http.StatusTeapot},
		"a panic after a part": {server.Plain(func(w http.ResponseWriter,
			_ *http.Request) {
			io.WriteString(w, "a part")
			panic("x")
		}), false, http.StatusOK},
		"disconnected":                {server.Plain(func(http.ResponseWriter, *http.Request) {}), true, 499},
		"disconnected, with an error": {canceled, true, 499},
		"disconnected, by a panic": {server.Plain(func(http.ResponseWriter,
			*http.Request) {
			panic(http.ErrAbortHandler)
		}), true, 499},
		"disconnected after a status": {server.Plain(func(w http.ResponseWriter,
			_ *http.Request) {
			w.WriteHeader(http.StatusTeapot)
		}), true, http.StatusTeapot},
	} {
		t.Run(name, func(t *testing.T) {
			p, counted, _ := pipeline(t)
			ctx, disconnect := context.WithCancel(t.Context())
			defer disconnect()
			if row.disconnected {
				disconnect()
			}
			w := httptest.NewRecorder()
			func() {
				defer func() { _ = recover() }() // as net/http does
				p.Handler(server.Route{Class: "c", Access: server.Public, Handle: row.handler}).
					ServeHTTP(w, httptest.NewRequest("GET", "/", nil).WithContext(ctx))
			}()
			if counted() != fmt.Sprint(row.want) {
				t.Errorf("got %s, want %d", counted(), row.want)
			}
			if row.want == 499 && w.Body.Len() > 0 {
				t.Errorf("wrote %q to a client that disconnected", w.Body)
			}
		})
	}
}

func TestPipeline_Panic_PassesThrough(t *testing.T) {
	p, _, _ := pipeline(t)
	h := p.Handler(server.Route{Class: "c", Access: server.Public,
		Handle: server.Plain(func(http.ResponseWriter, *http.Request) { panic("x") })})
	w, lines := answer(h.ServeHTTP, httptest.NewRequest("GET", "/", nil))
	if line := lines.LastEntry(); w.Code != http.StatusInternalServerError || line == nil || line.Data["panic"] != "x" {
		t.Errorf("got %d, logged %v, want a 500 and the panic", w.Code, line)
	}
}

func TestPipeline_Handler_MeasuresDuration(t *testing.T) {
	reg := prometheus.NewRegistry()
	p := &server.Pipeline{Requests: metrics.NewRequests(reg, "test"), Log: quiet()}
	h := p.Handler(server.Route{Class: "c", Access: server.Public, Handle: server.Plain(server.Health)})
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	if got, err := testutil.GatherAndCount(reg, "fleetconf_test_http_request_duration_seconds"); got != 1 ||
		err != nil {
		t.Errorf("got %d histograms (%v), want that of the class", got, err)
	}
}

// fixedCall is a Call of a program with a call type of its own.
type fixedCall struct {
	w server.ResponseWriter
	r *http.Request
}

type fixedWriter struct{ *httptest.ResponseRecorder }

func (w fixedWriter) Status() int   { return w.Code }
func (w fixedWriter) Written() bool { return true }

func (c *fixedCall) HTTP() (server.ResponseWriter, *http.Request) { return c.w, c.r }
func (c *fixedCall) Problem(error) *problem.Problem               { return nil }
func (c *fixedCall) Observe(int, time.Duration)                   {}
func (c *fixedCall) Logger() logrus.FieldLogger                   { return quiet() }

func TestAnswer_AllocatesNothing(t *testing.T) {
	c := &fixedCall{fixedWriter{httptest.NewRecorder()}, httptest.NewRequest("GET", "/", nil)}
	handle := func(*fixedCall) error { return nil }
	if made := testing.AllocsPerRun(1000, func() { server.Answer(c, handle) }); made != 0 {
		t.Errorf("got %v allocations, want 0", made)
	}
}
