package worker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "worker-token-0123456789"

var eight = wire.WorkerConfig{URL: "http://target/8", Version: 8}

func serve(t *testing.T, handle http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	return New(s.URL, token)
}

func answer(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

const (
	jsonType    = "application/json"
	problemType = "application/problem+json"
	htmlType    = "text/html"
)

func TestRunning_EachStatus_MapsToItsError(t *testing.T) {
	state := wire.WorkerState{URL: "http://target/8", Version: 8, Instance: "i1"}
	for name, tt := range map[string]struct {
		handle http.HandlerFunc
		want   wire.WorkerState
		kind   error
		words  string
	}{
		"runs": {
			handle: answer(200, jsonType, `{"url":"http://target/8","version":8,"instance":"i1","more":true}`),
			want:   state,
		},
		"runs nothing": {
			handle: answer(404, problemType, `{"detail":"nothing"}`), kind: protocol.ErrNothingRuns,
			words: "no configuration",
		},
		"another's 404":  {handle: answer(404, htmlType, "<html>"), words: "check WORKER_URL"},
		"another's page": {handle: answer(200, htmlType, "<html>"), words: "check WORKER_URL"},
		"no instance": {
			handle: answer(200, jsonType, `{"url":"http://target/8","version":8}`), words: "check WORKER_URL",
		},
		"another's JSON":  {handle: answer(200, jsonType, `{"instance":7}`), words: "check WORKER_URL"},
		"token wanted":    {handle: answer(401, problemType, `{"detail":"no"}`), words: "set WORKER_TOKEN"},
		"wrong too often": {handle: answer(429, problemType, `{"detail":"no"}`), words: "set WORKER_TOKEN"},
		"another's limit": {handle: answer(429, htmlType, "<html>"), words: "429 Too Many Requests"},
		"not from here": {
			handle: answer(403, problemType, `{"detail":"not from here"}`), words: "set WORKER_TOKEN",
		},
		"broken":           {handle: answer(500, "", "oops"), words: "500 Internal Server Error: oops"},
		"redirect":         {handle: answer(301, "", ""), words: "redirects"},
		"a header of 1 MB": {handle: answer(200, strings.Repeat("x", 1<<20), ""), words: "exceeded 65536 bytes"},
		"more than we read": {
			handle: answer(200, jsonType, strings.Repeat(" ", wire.MaxBodyBytes+1)), words: "more than 65536 bytes",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := serve(t, tt.handle).Running(t.Context())
			if (err == nil) != (tt.words == "") || errors.Is(err, protocol.ErrNothingRuns) != (tt.kind != nil) {
				t.Fatalf("error: got %v, want %v", err, tt.kind)
			}
			if err != nil && !strings.Contains(err.Error(), tt.words) {
				t.Errorf("error %q does not say %q", err, tt.words)
			}
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestPush_EachStatus_MapsToItsError(t *testing.T) {
	for name, tt := range map[string]struct {
		handle  http.HandlerFunc
		refused string
		words   string
	}{
		"taken":                 {handle: answer(200, jsonType, `{"message":"ok","version":8}`)},
		"taken, another status": {handle: answer(201, jsonType, `{"version":8}`)},
		"another version": {
			handle: answer(200, jsonType, `{"version":7}`), words: "pushed version 8 and says that it runs 7",
		},
		"no version": {handle: answer(200, jsonType, `{}`), words: "runs 0"},
		"a page":     {handle: answer(200, htmlType, "<html>welcome"), words: "check WORKER_URL"},
		"bad": {
			handle: answer(400, problemType, `{"detail":"url has no host"}`), refused: "url has no host",
		},
		"refused": {
			handle: answer(422, problemType, `{"detail":"host not\nallowed"}`), refused: "host not allowed",
		},
		"refused without a message": {handle: answer(422, "", ""), refused: "422 Unprocessable Entity"},
		"refused at length":         {handle: answer(422, "", strings.Repeat("no ", 2000)), refused: "…"},
		"token wanted":              {handle: answer(401, problemType, `{"detail":"no"}`), words: "set WORKER_TOKEN"},
		"not from here":             {handle: answer(403, problemType, `{"detail":"no"}`), words: "loopback"},
		"broken":                    {handle: answer(500, "", ""), words: "500"},
		"not a worker":              {handle: answer(405, "", ""), words: "405"},
		"dies over it": {
			handle: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			words:  "cut the connection",
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := serve(t, tt.handle).Push(t.Context(), eight)
			var refused *protocol.Refused
			switch {
			case errors.As(err, &refused) != (tt.refused != ""), (err == nil) != (tt.refused == "" && tt.words == ""):
				t.Fatalf("got %v", err)
			case tt.refused != "" &&
				(!strings.HasSuffix(refused.Message, tt.refused) || len(refused.Message) > wire.MaxErrorBytes):
				t.Errorf("message %q, want %q", refused.Message, tt.refused)
			case err != nil && !strings.Contains(err.Error(), tt.words):
				t.Errorf("error %q does not say %q", err, tt.words)
			}
		})
	}
}

// A token that is shorter than its replacement does not make an error longer than a report
// may contain.
func TestPush_ShortTokenInError_Redacted(t *testing.T) {
	s := httptest.NewServer(answer(422, problemType, `{"detail":"`+strings.Repeat(`\u006e`, wire.MaxErrorBytes)+`"}`))
	defer s.Close()
	var refused *protocol.Refused
	err := New(s.URL, "n").Push(t.Context(), eight)
	if !errors.As(err, &refused) || len(refused.Message) > wire.MaxErrorBytes ||
		strings.Contains(refused.Message, "nn") {
		t.Errorf("got %v, want %d bytes at most", err, wire.MaxErrorBytes)
	}
}

func TestPush_Configuration_SentAsJSON(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) != `{"url":"http://target/8","version":8}` || r.Method != "POST" || r.URL.Path != "/config" ||
			r.Header.Get("Content-Type") != jsonType || r.Header.Get("Authorization") != "Bearer "+token {
			t.Errorf("sent %s %s %s %v", r.Method, r.URL, body, r.Header)
		}
		answer(200, jsonType, `{"version":8}`)(w, r)
	})
	if err := c.Push(t.Context(), eight); err != nil {
		t.Fatal(err)
	}
}

// A worker that hangs costs a bounded time, and the error is the same each time.
func TestRunning_Hangs_TimesOut(t *testing.T) {
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	began := time.Now()
	_, err := c.Running(t.Context())
	if took := time.Since(began); err == nil || took < readTimeout || took > readTimeout+2*time.Second {
		t.Errorf("got %v after %s, want an error after %s", err, took, readTimeout)
	}
	if !strings.Contains(err.Error(), "did not answer within 2s") {
		t.Errorf("error is %q", err)
	}
}

func TestErrors_Repeated_SameText(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	gone := New("http://"+ln.Addr().String(), "")
	cut := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for _, c := range []*Client{gone, cut} {
		_, first := c.Running(t.Context())
		_, second := c.Running(t.Context())
		if first == nil || first.Error() != second.Error() {
			t.Errorf("%q, then %q: one error would be logged as two", first, second)
		}
	}
}

func TestErrors_SecretEchoed_Redacted(t *testing.T) {
	for _, status := range []int{200, 302, 400, 401, 403, 404, 422, 500} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://"+token+"@elsewhere/?"+token)
			answer(status, "", "you sent "+r.Header.Get("Authorization")+", "+
				// cut in two
				strings.Repeat("x", wire.MaxErrorBytes-len("you sent Bearer , ")-2*len(token)+3)+token)(w, r)
		})
		_, read := c.Running(t.Context())
		for _, err := range []error{read, c.Push(t.Context(), eight)} {
			if text := fmt.Sprintf("%v %+v", err, err); strings.Contains(text, token[:len("worker-token")]) {
				t.Errorf("%d: the token is in %q", status, text)
			}
		}
	}
}
