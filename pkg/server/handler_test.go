package server_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/pkg/buildinfo"
	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// answer sends r through Wrap to handler.
func answer(handler http.HandlerFunc, r *http.Request) (*httptest.ResponseRecorder, *logtest.Hook) {
	log, lines := logtest.NewNullLogger()
	w := httptest.NewRecorder()
	server.Wrap(handler, log).ServeHTTP(w, r)
	return w, lines
}

func TestWrap_RequestID(t *testing.T) {
	made := regexp.MustCompile(`^[a-z0-9]{1,13}$`)
	for name, row := range map[string]struct {
		sent string
		kept bool
	}{
		"none":                    {"", false},
		"one that is fit":         {"req-1.a:b_C", true},
		"as long as may be":       {strings.Repeat("a", 64), true},
		"too long":                {strings.Repeat("a", 65), false},
		"one that forges a line":  {"a\nlevel=error", false},
		"one with a space":        {"a b", false},
		"one outside ASCII":       {"ä", false},
		"one that opens a script": {"<script>", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set(server.HeaderRequestID, row.sent)
			var seen string
			w, _ := answer(func(_ http.ResponseWriter, r *http.Request) { seen = server.RequestID(r) }, r)
			got := w.Header().Get(server.HeaderRequestID)
			if got != seen {
				t.Errorf("the caller got %q and the handler %q, want the same", got, seen)
			}
			if row.kept && got != row.sent || !row.kept && (got == row.sent || !made.MatchString(got)) {
				t.Errorf("got %q of %q, want it kept: %v", got, row.sent, row.kept)
			}
		})
	}
}

func TestWrap_NoRequestID_MakesOne(t *testing.T) {
	a, _ := answer(server.Health, httptest.NewRequest("GET", "/", nil))
	b, _ := answer(server.Health, httptest.NewRequest("GET", "/", nil))
	if id := a.Header().Get(server.HeaderRequestID); id == b.Header().Get(server.HeaderRequestID) {
		t.Errorf("two requests have one id, %q", id)
	}
}

func TestWrap_Panic_AnswersProblem(t *testing.T) {
	r := httptest.NewRequest("GET", "/boom", nil)
	r.Header.Set(server.HeaderRequestID, "req-1")
	w, lines := answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"x"`)
		panic("secret words")
	}, r)
	p := problem.Read(w.Result())
	if w.Code != http.StatusInternalServerError || !strings.Contains(p.Detail, "req-1") ||
		strings.Contains(p.Detail, "secret") {
		t.Errorf("got %d %q, want a 500 that tells the request id and nothing else", w.Code, p.Detail)
	}
	if got := w.Header().Get("ETag"); got != "" {
		t.Errorf("the problem carries the ETag %s, want none", got)
	}
	line := lines.LastEntry()
	if line == nil || line.Level != logrus.ErrorLevel || line.Data["request_id"] != "req-1" ||
		line.Data["path"] != "/boom" ||
		line.Data["panic"] != "secret words" || !strings.Contains(line.Data["stack"].(string), "handler_test.go") {
		t.Errorf("the log has %v, want an error with the request, the panic and its stack", line)
	}
}

func TestWrap_ErrAbortHandler_PassesThrough(t *testing.T) {
	defer func() {
		if got := recover(); got != http.ErrAbortHandler { //nolint:errorlint // the very value that net/http looks for
			t.Errorf("got panic %v, want http.ErrAbortHandler", got)
		}
	}()
	answer(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		httptest.NewRequest("GET", "/", nil))
}

func TestWrap_SetsNosniff(t *testing.T) {
	w, _ := answer(server.Health, httptest.NewRequest("GET", "/", nil))
	if got := w.Header().Get("X-Content-Type-Options"); got != "nosniff" {
		t.Errorf("X-Content-Type-Options is %q, want nosniff", got)
	}
}

// post sends a JSON body and reads it as a document of the contract.
func post(contentType, body string) (models.PublishRequest, error) {
	var (
		got models.PublishRequest
		err error
	)
	r := httptest.NewRequest("POST", "/", strings.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	answer(func(_ http.ResponseWriter, r *http.Request) { got, err = server.Decode[models.PublishRequest](r) }, r)
	return got, err
}

func TestDecode_JSON(t *testing.T) {
	for _, contentType := range []string{
		"application/json", "application/json; charset=utf-8", "Application/JSON", "application/json; charset=utf8",
		`application/json;charset="UTF8"`,
	} {
		got, err := post(contentType, `{"url":"http://a/"}`)
		if err != nil || got.URL == nil || *got.URL != "http://a/" {
			t.Errorf("%s: got %+v, %v, want the URL", contentType, got, err)
		}
	}
}

func TestDecode_OtherContentTypes_Unsupported(t *testing.T) {
	atMost := `{"message":"` + strings.Repeat("a", models.MaxBodyBytes-len(`{"message":""}`)) + `"}`
	if _, err := post("application/json", atMost); err != nil {
		t.Errorf("a body of the most bytes: got %v, want nil", err)
	}
	for name, row := range map[string]struct {
		contentType, body string
		status            int
		detail            string
		errors            []models.FieldError
	}{
		"no content type":     {"", `{}`, 415, "application/json", nil},
		"a form":              {"application/x-www-form-urlencoded", `url=http://a/`, 415, "application/json", nil},
		"plain text":          {"text/plain", `{}`, 415, "application/json", nil},
		"a broken media type": {"application/json; charset", `{}`, 415, "application/json", nil},
		"a byte too many":     {"application/json", atMost + " ", 413, "65536", nil},
		"an unknown field": {"application/json", `{"a":1}`, 400, "a is not a known field",
			[]models.FieldError{{Field: "a", Detail: "is not a known field"}}},
		"nothing":         {"application/json", ``, 400, "empty", nil},
		"another charset": {"application/json; charset=latin1", `{}`, 415, "UTF-8", nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := post(row.contentType, row.body)
			var p *problem.Problem
			if !errors.As(err, &p) {
				t.Fatalf("got %v (%T), want a problem", err, err)
			}
			if p.Status != row.status || !strings.Contains(p.Detail, row.detail) {
				t.Errorf("got %v, want %d that says %q", p, row.status, row.detail)
			}
			if diff := cmp.Diff(row.errors, p.Errors); diff != "" {
				t.Errorf("errors (-want +got)\n%s", diff)
			}
		})
	}
}

// A chunked body shows that it is empty only when it is read.
func TestDecode_EmptyChunkedBody(t *testing.T) {
	r := httptest.NewRequest("POST", "/", io.NopCloser(strings.NewReader("")))
	r.ContentLength = -1
	_, err := server.Decode[models.PublishRequest](r)
	wantStatus(t, err, http.StatusBadRequest) // not 415: there is nothing to have a type
	for body, want := range map[string]bool{"": true, " ": false, "{}": false} {
		r := httptest.NewRequest("POST", "/", io.NopCloser(strings.NewReader(body)))
		r.ContentLength = -1
		if got := server.Bodyless(r); got != want {
			t.Errorf("%q: got %v, want %v", body, got, want)
		}
		if rest, err := io.ReadAll(r.Body); string(rest) != body || err != nil {
			t.Errorf("%q: then got %q, %v", body, rest, err)
		}
	}
	for name, failing := range map[string]error{"cut": io.ErrUnexpectedEOF, "too slow": os.ErrDeadlineExceeded} {
		r := httptest.NewRequest("POST", "/", broken{failing})
		r.ContentLength = -1
		if server.Bodyless(r) {
			t.Errorf("%s: got no body, want one that did not arrive", name)
		}
		if _, err := io.ReadAll(r.Body); !errors.Is(err, failing) {
			t.Errorf("%s: then got %v", name, err)
		}
	}
}

func TestDecode_IncompleteBody(t *testing.T) {
	r := httptest.NewRequest("POST", "/", io.MultiReader(strings.NewReader(`{"url`), broken{io.ErrUnexpectedEOF}))
	r.Header.Set("Content-Type", "application/json")
	_, err := server.Decode[models.PublishRequest](r)
	wantStatus(t, err, http.StatusBadRequest)
}

func TestDecode_SlowBody_RequestTimeout(t *testing.T) {
	r := httptest.NewRequest("POST", "/", io.MultiReader(strings.NewReader(`{"url`), broken{os.ErrDeadlineExceeded}))
	r.Header.Set("Content-Type", "application/json")
	_, err := server.Decode[models.PublishRequest](r)
	wantStatus(t, err, http.StatusRequestTimeout)
}

func TestDecode_ContentEncoding_Unsupported(t *testing.T) {
	r := httptest.NewRequest("POST", "/", strings.NewReader(`{}`))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Content-Encoding", "gzip")
	_, err := server.Decode[models.PublishRequest](r)
	wantStatus(t, err, http.StatusUnsupportedMediaType)
}

func wantStatus(t *testing.T, err error, status int) {
	t.Helper()
	var p *problem.Problem
	if !errors.As(err, &p) || p.Status != status {
		t.Errorf("got %v, want a %d", err, status)
	}
}

type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

func TestWrap_DebugLevel_LogsRequests(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	log.SetLevel(logrus.DebugLevel)
	handler := server.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		w.(http.Flusher).Flush()
	}), log)
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/a?secret=x", nil))
	last := hook.LastEntry()
	if last == nil || last.Data["status"] != http.StatusTeapot || last.Data["path"] != "/a" ||
		last.Data["request_id"] != w.Header().Get(server.HeaderRequestID) || !w.Flushed {
		t.Errorf("logged %+v, want the request and its answer", last)
	}
}

func TestWriteJSON(t *testing.T) {
	w := httptest.NewRecorder()
	if err := server.WriteJSON(w, http.StatusCreated, models.WorkerAccepted{Message: "a", Version: 8}); err != nil {
		t.Fatal(err)
	}
	if w.Code != 201 || w.Header().Get("Content-Type") != "application/json" ||
		w.Body.String() != "{\"message\":\"a\",\"version\":8}\n" {
		t.Errorf("got %d %q %q", w.Code, w.Header(), w.Body)
	}
}

func TestWriteJSON_Unsupported_SendsNothing(t *testing.T) {
	w := httptest.NewRecorder()
	if err := server.WriteJSON(w, http.StatusOK, func() {}); err == nil || w.Body.Len() > 0 || len(w.Header()) > 0 {
		t.Errorf("got %v, %q, %q, want an error and nothing sent", err, w.Header(), w.Body)
	}
}

func TestHealth(t *testing.T) {
	w, _ := answer(server.Health, httptest.NewRequest("GET", "/health", nil))
	if w.Code != 200 || w.Body.String() != "{\"status\":\"ok\"}\n" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("got %d %q %q", w.Code, w.Header(), w.Body)
	}
}

func TestReady_NoReasons_OK(t *testing.T) {
	w, _ := answer(server.Ready(func(*http.Request) []models.FieldError { return nil }),
		httptest.NewRequest("GET", "/ready", nil))
	if w.Code != 200 || w.Body.String() != "{\"status\":\"ready\"}\n" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("got %d %q %q", w.Code, w.Header(), w.Body)
	}
}

func TestStatus_Detail_OmittedWhenEmpty(t *testing.T) {
	for want, status := range map[string]server.Status{
		`{"status":"ready"}`:                     {Status: "ready"},
		`{"status":"ready","detail":"conflict"}`: {Status: "ready", Detail: "conflict"},
	} {
		w := httptest.NewRecorder()
		if err := server.WriteJSON(w, http.StatusOK, status); err != nil || w.Body.String() != want+"\n" {
			t.Errorf("got %v, %s, want %s", err, w.Body, want)
		}
	}
}

func TestReady_NotReady_NamesEveryReason(t *testing.T) {
	reasons := []models.FieldError{{Field: "database", Detail: "is locked"},
		{Field: "configuration", Detail: "was never pushed"}}
	w, _ := answer(server.Ready(func(*http.Request) []models.FieldError { return reasons }),
		httptest.NewRequest("GET", "/ready", nil))
	p := problem.Read(w.Result())
	if w.Code != 503 || p.Detail != "not ready: database is locked; configuration was never pushed" {
		t.Errorf("got %d %q", w.Code, p.Detail)
	}
	if diff := cmp.Diff(reasons, p.Errors); diff != "" {
		t.Errorf("errors (-want +got)\n%s", diff)
	}
}

func TestVersion(t *testing.T) {
	w, _ := answer(server.Version, httptest.NewRequest("GET", "/version", nil))
	var got buildinfo.Info
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got != buildinfo.Read() {
		t.Errorf("got %q, %v, want %+v", w.Body, err, buildinfo.Read())
	}
}

func TestSameOrigin(t *testing.T) {
	for _, c := range []struct {
		method, site string
		want         int
	}{
		{"POST", "cross-site", 403},
		{"POST", "same-origin", 200},
		{"POST", "", 200},
		{"GET", "cross-site", 200},
	} {
		var counted []int
		h := server.SameOrigin(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
			func(status int) { counted = append(counted, status) })
		r := httptest.NewRequestWithContext(t.Context(), c.method, "/", http.NoBody)
		if c.site != "" {
			r.Header.Set("Sec-Fetch-Site", c.site)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.want || (len(counted) == 1 && counted[0] == 403) != (c.want == 403) {
			t.Errorf("%s from %q: got %d, counted %v, want %d", c.method, c.site, w.Code, counted, c.want)
		}
	}
}
