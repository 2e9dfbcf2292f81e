package problem_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
)

func TestWrite_DropsHeadersOfPreviousAnswer(t *testing.T) {
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "text/html")
	w.Header().Set("ETag", `"x"`)
	w.Header().Set("Content-Length", "9000")
	w.Header().Set("Retry-After", "5")
	problem.Write(w, problem.Invalid(models.Bad("url", "is missing")))
	want := `{"type":"about:blank","title":"Bad Request","status":400,"detail":"url is missing",` +
		`"errors":[{"field":"url","detail":"is missing"}]}` + "\n"
	if w.Code != http.StatusBadRequest || w.Body.String() != want {
		t.Errorf("got %d %s, want 400 %s", w.Code, w.Body, want)
	}
	wantHeader := http.Header{"Content-Type": {"application/problem+json"}, "Cache-Control": {"no-store"},
		"Retry-After": {"5"}}
	if diff := cmp.Diff(wantHeader, w.Header()); diff != "" {
		t.Errorf("header (-want +got)\n%s", diff)
	}
}

func TestProblem_Error_Text(t *testing.T) {
	if got := problem.New(404, "no version %d", 9).Error(); got != "404 Not Found: no version 9" {
		t.Errorf("got %q", got)
	}
	if got := problem.New(404, "").Error(); got != "404 Not Found" {
		t.Errorf("without a detail: got %q", got)
	}
}

// response is an answer that counts what is read of its body and whether it was
// closed.
func response(status int, body string) (*http.Response, *counted) {
	c := &counted{Reader: strings.NewReader(body)}
	return &http.Response{StatusCode: status, Body: c}, c
}

type counted struct {
	io.Reader
	read   int
	closed bool
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.read += n
	return n, err
}

func (c *counted) Close() error { c.closed = true; return nil }

func TestRead_ProblemDocument(t *testing.T) {
	sent := problem.Invalid(models.Bad("url", "is missing"))
	w := httptest.NewRecorder()
	problem.Write(w, sent)
	if diff := cmp.Diff(sent, problem.Read(w.Result())); diff != "" {
		t.Errorf("(-sent +read)\n%s", diff)
	}
}

func TestRead_ForeignBody(t *testing.T) {
	for name, row := range map[string]struct {
		body, detail string
	}{
		"a proxy's page": {"<html>\n<body>Bad Gateway</body>\n</html>\n",
			"<html> <body>Bad Gateway</body> </html>"},
		"nothing":                     {"", ""},
		"JSON of another kind":        {`{"error":"x"}`, `{"error":"x"}`},
		"JSON of other types":         {`{"detail":5}`, `{"detail":5}`},
		"a problem cut off":           {`{"detail":"a`, `{"detail":"a`},
		"invalid UTF-8":               {"a\xffb", "a\uFFFDb"},
		"a detail that forges a line": {`{"detail":"a\nlevel=error"}`, "a level=error"},
		"a problem of another status": {`{"status":200,"detail":"fine"}`, "fine"},
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := response(http.StatusBadGateway, row.body)
			p := problem.Read(resp)
			if p.Status != http.StatusBadGateway || p.Title != "Bad Gateway" || p.Detail != row.detail {
				t.Errorf("got %d %q %q, want 502 and %q", p.Status, p.Title, p.Detail, row.detail)
			}
			if body.closed {
				t.Error("the body was closed, want it left to the caller")
			}
		})
	}
}

func TestRead_HugeBody_ReadsItsBeginning(t *testing.T) {
	resp, body := response(http.StatusInternalServerError, strings.Repeat("é", 1<<20))
	p := problem.Read(resp)
	if len(p.Detail) > models.MaxErrorBytes || !strings.HasSuffix(p.Detail, "é…") {
		t.Errorf("the detail has %d bytes and ends in %q, want at most %d and …", len(p.Detail),
			p.Detail[max(0, len(p.Detail)-8):], models.MaxErrorBytes)
	}
	if body.read > models.MaxBodyBytes {
		t.Errorf("%d bytes were read, want at most %d", body.read, models.MaxBodyBytes)
	}
}

func TestWrite_InvalidUTF8_Answers(t *testing.T) {
	w := httptest.NewRecorder()
	p := problem.Invalid(models.Bad("na\xffme", "is not known"))
	problem.Write(w, p)
	got := problem.Read(w.Result())
	if !strings.Contains(got.Detail, "na\uFFFDme is not known") || len(got.Errors) != 1 {
		t.Errorf("got %+v from %q, want the name with U+FFFD", got, w.Body)
	}
}

func TestRetryAfter_WholeSecondsAtLeastOne(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "1", 0: "1", time.Millisecond: "1", time.Second: "1", time.Second + 1: "2", time.Minute: "60",
	} {
		h := http.Header{}
		problem.RetryAfter(h, d)
		if got := h.Get("Retry-After"); got != want {
			t.Errorf("RetryAfter(%s) sets %q, want %q", d, got, want)
		}
	}
}
