package controller

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	password = "shared-password-0123456789"
	token    = "agent-token-0123456789"
	document = `{"version":8,"data":{"url":"http://target/8"},"poll_interval_seconds":15}`
)

var self = protocol.Identity{AgentID: "agent-7", AgentToken: token}

// serve serves handle, and returns a client for it.
func serve(t *testing.T, handle http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	return New(Options{URL: s.URL + "/", Username: "agent", Password: password})
}

// answer returns a handler whose answer is always the same. head is pairs of a header and
// its value.
func answer(status int, body string, head ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(head); i += 2 {
			w.Header().Set(head[i], head[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

const problemJSON = "application/problem+json"

func TestFetch_Identity_SentWithETag(t *testing.T) {
	var got *http.Request
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		answer(200, document, "ETag", `"e8"`)(w, r)
	})
	for _, etag := range []string{"", `"e7"`, `W/"e7"`} {
		if _, err := c.Fetch(t.Context(), self, protocol.Query{ETag: etag}); err != nil {
			t.Fatal(err)
		}
		user, pass, _ := got.BasicAuth()
		if user != self.AgentID || pass != token || got.Header.Get("If-None-Match") != etag ||
			got.URL.Path != "/api/v1/config" || got.Header.Get("Cookie") != "" {
			t.Errorf("sent %s as %s with %v", got.URL, user, got.Header)
		}
	}
}

// A gateway that compresses changes ETags, but no other header. It is asked not to compress.
func TestFetch_Applied_SentInHeaders(t *testing.T) {
	var got *http.Request
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		answer(200, document, "ETag", `"e8"`)(w, r)
	})
	seven := wire.Config{Version: 7, Data: wire.Data{URL: "http://target/7"}, PollIntervalSeconds: 15}
	for _, row := range []struct {
		query                       protocol.Query
		version, content, transport string
	}{
		{protocol.Query{Transport: wire.Polling}, "", "", ""},
		{protocol.Query{Applied: &seven}, "7", seven.ContentHash(), ""},
		{protocol.Query{Transport: wire.NATS}, "", "", "nats"},
		{protocol.Query{Transport: wire.LongPoll, MayWait: true, Wait: time.Second}, "", "", ""},
		{protocol.Query{Transport: wire.Polling, MayWait: true, Wait: time.Second}, "", "", "poll"},
	} {
		if _, err := c.Fetch(t.Context(), self, row.query); err != nil {
			t.Fatal(err)
		}
		h := got.Header
		if h.Get(wire.HeaderAppliedVersion) != row.version || h.Get(wire.HeaderAppliedContent) != row.content ||
			h.Get(wire.HeaderTransport) != row.transport {
			t.Errorf("%+v: sent %v", row.query, h)
		}
		if got := h["Accept-Encoding"]; len(got) != 1 || got[0] != "identity" {
			t.Errorf("sent Accept-Encoding %v, want identity", got)
		}
	}
}

// A controller that does not name its fleet is of a build that rejects an etag.
func TestReport_ETag_SentToControllersThatNameAFleet(t *testing.T) {
	var body []byte
	fleet := ""
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ = io.ReadAll(r.Body)
		if fleet != "" {
			w.Header().Set(wire.HeaderFleet, fleet)
		}
		answer(200, document, "ETag", `"e8"`)(w, r)
	})
	for _, want := range []bool{false, true} {
		if want {
			fleet = "f"
		}
		if _, err := c.Fetch(t.Context(), self, protocol.Query{}); err != nil {
			t.Fatal(err)
		}
		if err := c.Report(t.Context(), self, wire.Report{Version: 8, Status: wire.Applied, ETag: `"e8"`}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(body), `"etag":"\"e8\""`); got != want {
			t.Errorf("with the fleet %q: sent %s", fleet, body)
		}
	}
}

func TestFetch_EachStatus_MapsToItsError(t *testing.T) {
	eight := &protocol.Release{
		ETag: `"e8"`, Config: wire.Config{Version: 8, Data: wire.Data{URL: "http://target/8"}, PollIntervalSeconds: 15},
	}
	bare := *eight
	bare.ETag = ""
	const interval = "X-Poll-Interval-Seconds"
	for name, tt := range map[string]struct {
		handle http.HandlerFunc
		want   protocol.Answer
		kind   error  // what it must be
		words  string // what it must say
	}{
		"document": {
			handle: answer(200, document, "ETag", `"e8"`),
			want:   protocol.Answer{Release: eight, PollInterval: 15 * time.Second},
		},
		"header before document": {
			handle: answer(200, document, "ETag", `"e8"`, interval, "20"),
			want:   protocol.Answer{Release: eight, PollInterval: 20 * time.Second},
		},
		"interval too small": {
			handle: answer(200, document, "ETag", `"e8"`, interval, "-5"),
			want:   protocol.Answer{Release: eight, PollInterval: time.Second},
		},
		"interval too large": {
			handle: answer(200, document, "ETag", `"e8"`, interval, "99999999"),
			want:   protocol.Answer{Release: eight, PollInterval: 24 * time.Hour},
		},
		"interval no number": {
			handle: answer(200, document, "ETag", `"e8"`, interval, "soon"),
			want:   protocol.Answer{Release: eight, PollInterval: 15 * time.Second},
		},
		"fields of a newer one": {
			handle: answer(200, document[:len(document)-1]+`,"more":[1]}`, "ETag", `"e8"`),
			want:   protocol.Answer{Release: eight, PollInterval: 15 * time.Second},
		},
		"no ETag": {
			handle: answer(200, document), want: protocol.Answer{Release: &bare, PollInterval: 15 * time.Second},
		},
		"weak ETag": {
			handle: answer(200, document, "ETag", `W/"e8"`),
			want:   protocol.Answer{Release: eight, PollInterval: 15 * time.Second},
		},
		"ETag of Apache's gzip": {
			handle: answer(200, document, "ETag", `"e8-gzip"`),
			want:   protocol.Answer{Release: eight, PollInterval: 15 * time.Second},
		},
		"older, and why": {
			handle: answer(200, document, "ETag", `"e8"`, "X-Older-Because", "resume"),
			want:   protocol.Answer{Release: eight, PollInterval: 15 * time.Second, OlderBecause: "resume"},
		},
		"ETag unquoted": {
			handle: answer(200, document, "ETag", `e8`),
			want:   protocol.Answer{Release: &bare, PollInterval: 15 * time.Second},
		},
		"ETag with a quote within": {
			handle: answer(200, document, "ETag", `"e"8"`),
			want:   protocol.Answer{Release: &bare, PollInterval: 15 * time.Second},
		},
		"ETag with a space": {
			handle: answer(200, document, "ETag", `"e 8"`),
			want:   protocol.Answer{Release: &bare, PollInterval: 15 * time.Second},
		},
		"ETag outside ASCII": {
			handle: answer(200, document, "ETag", "\"e\xff8\""),
			want:   protocol.Answer{Release: &bare, PollInterval: 15 * time.Second},
		},
		"ETag of 10 kB": {
			handle: answer(200, document, "ETag", `"`+strings.Repeat("e", 10_000)+`"`),
			want:   protocol.Answer{Release: &bare, PollInterval: 15 * time.Second},
		},
		"not modified": {
			handle: answer(304, "", interval, "40"), want: protocol.Answer{PollInterval: 40 * time.Second},
			kind: protocol.ErrNotModified,
		},
		"nothing published": {
			handle: answer(404, `{"detail":"nothing"}`, "Content-Type", problemJSON, interval, "40"),
			want:   protocol.Answer{PollInterval: 40 * time.Second}, kind: protocol.ErrNothingPublished,
		},
		"404, a gateway's page": {
			handle: answer(404, "<html>", interval, "40"), want: protocol.Answer{PollInterval: 40 * time.Second},
			kind: protocol.ErrNothingPublished,
		},
		"a fleet of wildcards": {
			handle: answer(200, document, "ETag", `"e8"`, wire.HeaderFleet, "fleet.>"),
			want:   protocol.Answer{Release: eight, PollInterval: 15 * time.Second},
		},
		"404 of another server": {
			handle: answer(404, "<html>not found", "Content-Type", "text/html"), words: "check CONTROLLER_URL",
		},
		"token refused": {
			handle: answer(401, `{"detail":"the token is wrong"}`, "Content-Type", problemJSON),
			kind:   protocol.ErrUnauthorized, words: "the token is wrong",
		},
		"rejected by an access rule": {
			handle: answer(403, `{"detail":"not you"}`), kind: protocol.ErrUnauthorized,
			words: "403 Forbidden: not you",
		},
		"broken": {handle: answer(500, "oops"), words: "500 Internal Server Error: oops"},
		"busy": {
			handle: answer(429, "", "Retry-After", "7", interval, "40"),
			want:   protocol.Answer{PollInterval: 40 * time.Second}, words: "asked to wait 7s",
		},
		"busy, not saying how long": {handle: answer(503, ""), words: "503"},
		"a gateway's, for how long": {handle: answer(502, "", "Retry-After", "7"), words: "asked to wait 7s"},
		"an unknown status":         {handle: answer(299, document), words: "299"},
		"HTML": {
			handle: answer(200, "<html>hello</html>", "Content-Type", "text/html"), kind: protocol.ErrInvalidConfig,
		},
		"empty":           {handle: answer(200, ""), kind: protocol.ErrInvalidConfig, words: "empty"},
		"half a document": {handle: answer(200, document[:40]), kind: protocol.ErrInvalidConfig},
		"two documents":   {handle: answer(200, document+document), kind: protocol.ErrInvalidConfig},
		"unknown data": {
			handle: answer(200, `{"version":8,"data":{"url":"http://t/","x":1},"poll_interval_seconds":15}`),
			kind:   protocol.ErrInvalidConfig, words: "data.x",
		},
		"URL not to be fetched": {
			handle: answer(200, `{"version":8,"data":{"url":"file:///"},"poll_interval_seconds":15}`),
			kind:   protocol.ErrInvalidConfig, words: "data.url",
		},
		"huge": {
			handle: answer(200, strings.Repeat(" ", wire.MaxBodyBytes+1)), words: "sent more than 65536 bytes",
		},
		"endless": {handle: endless, words: "sent more than 65536 bytes"},
		"cut":     {handle: cut, words: "cut the connection"},
		"redirect": {
			handle: answer(302, "", "Location", "http://u:p@elsewhere/?secret=1"),
			words:  "redirects to http://elsewhere,",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := serve(t, tt.handle).Fetch(t.Context(), self, protocol.Query{ETag: `"e7"`})
			if (err == nil) != (tt.kind == nil && tt.words == "") || tt.kind != nil && !errors.Is(err, tt.kind) {
				t.Fatalf("error: got %v, want %v", err, tt.kind)
			}
			if err != nil && !strings.Contains(err.Error(), tt.words) {
				t.Errorf("error %q does not say %q", err, tt.words)
			}
			if tt.words != "" && tt.kind == nil {
				for _, kind := range []error{
					protocol.ErrNotModified, protocol.ErrNothingPublished, protocol.ErrUnauthorized,
					protocol.ErrInvalidConfig,
				} {
					if errors.Is(err, kind) {
						t.Errorf("an outage is taken for %v", kind)
					}
				}
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreFields(protocol.Release{}, "FetchedAt")); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

// cut sends less than its Content-Length.
func cut(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "500")
	_, _ = io.WriteString(w, document)
	panic(http.ErrAbortHandler)
}

func endless(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := w.Write(make([]byte, 32<<10)); err != nil {
			return
		}
	}
}

func TestFetch_NotModifiedWithoutIfNoneMatch_Foreign(t *testing.T) {
	_, err := serve(t, answer(304, "")).Fetch(t.Context(), self, protocol.Query{})
	if err == nil || errors.Is(err, protocol.ErrNotModified) {
		t.Errorf("got %v, want an outage: the request had no If-None-Match", err)
	}
}

func TestFetch_Redirect_NotFollowed(t *testing.T) {
	visited := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visited = true }))
	defer elsewhere.Close()
	_, err := serve(t, answer(307, "", "Location", elsewhere.URL)).Fetch(t.Context(), self, protocol.Query{})
	if err == nil || visited {
		t.Errorf("got %v, visited %v; the credentials must not be sent elsewhere", err, visited)
	}
}

func TestFetch_NothingListens_SaysSo(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + ln.Addr().String()
	_ = ln.Close()
	_, err = New(Options{URL: url}).Fetch(t.Context(), self, protocol.Query{})
	if err == nil || err.Error() != "the controller at "+url+" cannot be reached: nothing listens there" {
		t.Errorf("got %v", err)
	}
	for _, tt := range []struct{ url, words string }{
		{"http://host.invalid", "cannot be found"},
		{strings.Replace(serveURL(t), "http:", "https:", 1), "does not speak TLS"},
	} {
		_, err = New(Options{URL: tt.url}).Fetch(t.Context(), self, protocol.Query{})
		if err == nil || !strings.Contains(err.Error(), tt.words) {
			t.Errorf("%s: got %v, want %q", tt.url, err, tt.words)
		}
	}
}

func serveURL(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(answer(200, document))
	t.Cleanup(s.Close)
	return s.URL
}

// A server that speaks another protocol is an outage. The error quotes what it says,
// without the token.
func TestFetch_NotHTTP_SaysSo(t *testing.T) {
	const token = `to"ken\0123`
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	go func() { // ends when ln is closed
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, "220 "+token+"\r\n")
			_ = conn.Close()
		}
	}()
	client := New(Options{URL: "http://" + ln.Addr().String()})
	_, err = client.Fetch(t.Context(), protocol.Identity{AgentID: "agent-7", AgentToken: token}, protocol.Query{})
	if err == nil || !strings.Contains(err.Error(), `"[secret]"`) {
		t.Errorf("got %v, want what it said without the token", err)
	}
}

func TestFetch_ContextCanceled_ReturnsCanceled(t *testing.T) {
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err := c.Fetch(ctx, self, protocol.Query{})
	if want := context.Canceled; !errors.Is(err, want) || err.Error() != want.Error() {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestRetryAfter_SecondsAndDates_Parsed(t *testing.T) {
	date := time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		retry, date string
		want        time.Duration
	}{
		"seconds":             {retry: "120", want: 2 * time.Minute},
		"spaces":              {retry: " 5 ", want: 5 * time.Second},
		"missing":             {},
		"zero":                {retry: "0"},
		"negative":            {retry: "-5"},
		"fraction":            {retry: "1.5"},
		"longer than an hour": {retry: "86400", want: time.Hour},
		"number without end":  {retry: strings.Repeat("9", 40), want: time.Hour},
		"more than 32 bits":   {retry: "4294967296", want: time.Hour},
		"a sign":              {retry: "+5"},
		"date": {
			retry: date.Add(90 * time.Second).Format(http.TimeFormat), date: date.Format(http.TimeFormat),
			want: 90 * time.Second,
		},
		"date past": {
			retry: date.Add(-time.Hour).Format(http.TimeFormat), date: date.Format(http.TimeFormat),
		},
		"date far": {
			retry: date.Add(9000 * time.Hour).Format(http.TimeFormat), date: date.Format(http.TimeFormat),
			want: time.Hour,
		},
		"date, our clock":      {retry: time.Now().Add(10 * time.Hour).UTC().Format(http.TimeFormat), want: time.Hour},
		"date without a clock": {retry: "Tuesday"},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.Header{}
			h.Set("Retry-After", tt.retry)
			h.Set("Date", tt.date)
			if got := retryAfter(h); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// Digits are seconds, up to an hour; a date is the time until then; anything else is none.
func FuzzRetryAfter(f *testing.F) {
	const date = "Tue, 24 Nov 2026 03:00:00 GMT"
	for _, text := range []string{
		"", "0", "1", "3600", "3601", "00005", " 7 ", "4294967296", "18446744073709551616", "1.5", "-1", "+1", "1e3",
		"0x10", "1_000", "12s", "\u0663",
		date, "Tue, 24 Nov 2026 03:00:09 GMT", "Tuesday, 24-Nov-26 03:00:09 GMT", "Tue Nov 24 03:00:09 2026",
		"Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT",
	} {
		f.Add(text, date)
		f.Add(text, "")
	}
	f.Fuzz(func(t *testing.T, text, date string) {
		got := retryAfter(http.Header{"Retry-After": {text}, "Date": {date}})
		if got < 0 || got > time.Hour {
			t.Fatalf("%q: got %s, want none to an hour", text, got)
		}
		digits := strings.TrimSpace(text)
		_, err := http.ParseTime(digits)
		switch {
		case digits != "" && strings.Trim(digits, "0123456789") == "":
			want := time.Hour
			if n, err := strconv.ParseUint(digits, 10, 64); err == nil && n < 3600 {
				want = time.Duration(n) * time.Second
			}
			if got != want {
				t.Errorf("%q: got %s, want %s", text, got, want)
			}
		case err != nil && got != 0:
			t.Errorf("%q: got %s, want none", text, got)
		}
	})
}

func TestRegister_EachStatus_MapsToItsError(t *testing.T) {
	const good = `{"agent_id":"agent-7","agent_token":"` + token + `","poll_url":"/api/v1/config",` +
		`"poll_interval_seconds":30,"more":1}`
	want := protocol.Registration{Identity: self, PollInterval: 30 * time.Second}
	for name, tt := range map[string]struct {
		handle http.HandlerFunc
		want   protocol.Registration
		kind   error
		words  string
	}{
		"new":   {handle: answer(201, good), want: want},
		"known": {handle: answer(200, good), want: want},
		"a long interval": {
			handle: answer(
				200, strings.Replace(good, `"poll_interval_seconds":30`, `"poll_interval_seconds":99999999`, 1),
			),
			want: protocol.Registration{Identity: self, PollInterval: wire.MaxPollInterval},
		},
		"wrong password": {
			handle: answer(401, `{"detail":"wrong"}`), kind: protocol.ErrUnauthorized,
			words: "set CONTROLLER_USERNAME and CONTROLLER_PASSWORD",
		},
		"wrong certificate": {
			handle: answer(403, `{"detail":"not here"}`), kind: protocol.ErrForbidden,
			words: "credentials refused for this connection: the controller at",
		},
		"another agent's id": {
			handle: answer(409, `{"detail":"another secret"}`, "Content-Type", problemJSON),
			kind:   protocol.ErrUnauthorized,
			words:  "another secret",
		},
		"a proxy's conflict": {handle: answer(409, "<html>"), words: "answered 409"},
		"busy":               {handle: answer(503, "", "Retry-After", "9"), words: "asked to wait 9s"},
		"bad": {
			handle: answer(400, `{"detail":"hostname is missing"}`), words: "hostname is missing",
		},
		"HTML":                       {handle: answer(200, "<html>"), words: "check CONTROLLER_URL"},
		"no token":                   {handle: answer(200, `{"agent_id":"a"}`), words: "agent_token"},
		"an id that is no user name": {handle: answer(200, `{"agent_id":"a:b","agent_token":"t"}`), words: "agent_id"},
		"a token of 1 kB": {
			handle: answer(200, `{"agent_id":"a","agent_token":"`+strings.Repeat("t", 1024)+`"}`), words: "agent_token",
		},
		"a connection that breaks": {
			handle: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			words:  "cut the connection",
		},
	} {
		t.Run(name, func(t *testing.T) {
			request := wire.RegisterRequest{Hostname: "host", AgentID: "agent-7"}
			got, err := serve(t, tt.handle).Register(t.Context(), protocol.Identity{}, request)
			if (err == nil) != (tt.words == "") || errors.Is(err, protocol.ErrUnauthorized) != (tt.kind != nil) ||
				tt.kind != nil && !errors.Is(err, tt.kind) {
				t.Fatalf("error: got %v, want %v", err, tt.kind)
			}
			if err != nil && !strings.Contains(err.Error(), tt.words) {
				t.Errorf("error %q does not say %q", err, tt.words)
			}
			if err == nil && got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestRegister_Shared_SendsIdentity(t *testing.T) {
	want := wire.RegisterRequest{Hostname: "host", AgentID: "agent-7", Metadata: []byte(`{"os":"linux"}`)}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var got wire.RegisterRequest
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil || !cmp.Equal(want, got) {
			t.Errorf("sent %+v (%v), want %+v", got, err, want)
		}
		if user, pass, _ := r.BasicAuth(); user != "agent" || pass != password ||
			r.Header.Get("Content-Type") != "application/json" || r.Method != "POST" {
			t.Errorf("sent as %s, %v", user, r.Header)
		}
		answer(200, `{"agent_id":"agent-7","agent_token":"t"}`)(w, r)
	})
	if _, err := c.Register(t.Context(), protocol.Identity{}, want); err != nil {
		t.Fatal(err)
	}
}

func TestRegister_OwnToken_Authenticates(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if user, pass, _ := r.BasicAuth(); user != self.AgentID || pass != token {
			t.Errorf("sent as %s, want as the agent itself", user)
		}
		answer(401, `{"detail":"wrong"}`)(w, r)
	})
	_, err := c.Register(t.Context(), self, wire.RegisterRequest{Hostname: "host", AgentID: self.AgentID})
	if !errors.Is(err, protocol.ErrUnauthorized) || strings.Contains(err.Error(), "CONTROLLER_PASSWORD") {
		t.Errorf("got %v, want the token refused and no advice on the password", err)
	}
}

func TestReport_EachStatus_MapsToItsError(t *testing.T) {
	report := wire.Report{Version: 8, Status: wire.Failed, Error: "no"}
	for status, want := range map[int]error{
		200: nil, 204: nil,
		400: protocol.ErrUnwanted, 404: protocol.ErrUnwanted, 405: protocol.ErrUnwanted, 409: protocol.ErrUnwanted,
		422: protocol.ErrUnwanted,
		401: protocol.ErrUnauthorized, 403: protocol.ErrUnauthorized,
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				var got wire.Report
				if err := json.NewDecoder(r.Body).Decode(&got); err != nil || got != report ||
					r.URL.Path != "/api/v1/agents/agent-7/status" {
					t.Errorf("sent %+v to %s (%v)", got, r.URL, err)
				}
				if status >= 400 {
					problem.Write(w, problem.New(status, "said by the controller"))
					return
				}
				answer(status, "")(w, r)
			})
			if err := c.Report(t.Context(), self, report); !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
			if !errors.Is(want, protocol.ErrUnwanted) {
				return
			}
			err := serve(t, answer(status, "<html>no backend</html>")).Report(t.Context(), self, report)
			if err == nil || errors.Is(err, protocol.ErrUnwanted) {
				t.Errorf("a proxy's page: got %v, want an outage", err)
			}
		})
	}
	err := serve(t, answer(429, "", "Retry-After", "30")).Report(t.Context(), self, report)
	if protocol.Floor(err) != 30*time.Second || errors.Is(err, protocol.ErrUnwanted) {
		t.Errorf("429: got %v, want an outage of 30 s", err)
	}
	if err := serve(
		t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	).Report(t.Context(), self, report); err == nil {
		t.Error("a cut connection is taken for a report")
	}
}

// A server that echoes secrets must not bring them into the log.
func TestErrors_SecretEchoed_Redacted(t *testing.T) {
	secret := strings.Repeat("s3cret", 8)
	for _, status := range []int{200, 302, 400, 401, 403, 404, 409, 429, 500} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			user, pass, _ := r.BasicAuth()
			body, _ := io.ReadAll(r.Body)
			pass += " " + string(body)
			w.Header().Set("Location", "http://"+user+":"+pass+"@elsewhere/?"+pass)
			answer(status, user+" "+pass+" "+r.Header.Get("Authorization"))(w, r)
		})
		_, fetch := c.Fetch(t.Context(), self, protocol.Query{})
		request := wire.RegisterRequest{Hostname: "host", AgentID: self.AgentID, AgentSecret: secret}
		_, register := c.Register(t.Context(), protocol.Identity{}, request)
		_, renewal := c.Register(t.Context(), self, request)
		report := c.Report(t.Context(), self, wire.Report{Version: 1, Status: wire.Applied})
		for _, err := range []error{fetch, register, renewal, report} {
			text := fmt.Sprintf("%v %+v", err, err)
			for _, hidden := range []string{token, password, secret, "YWdlbnQ"} {
				if strings.Contains(text, hidden) {
					t.Errorf("%d: a secret is in %q", status, text)
				}
			}
		}
	}
}

func TestDeregister_EachStatus_MapsToItsError(t *testing.T) {
	for name, row := range map[string]struct {
		handle http.HandlerFunc
		left   bool
	}{
		"deregistered": {answer(204, ""), true},
		"deregistered before": {
			answer(404, `{"status":404,"detail":"agent agent-7: not found"}`, "Content-Type", problemJSON), true,
		},
		"its token is not valid any more": {
			answer(401, `{"status":401,"detail":"wrong"}`, "Content-Type", problemJSON), true,
		},
		"a page of a proxy": {answer(404, "<html>"), false},
		"an older controller": {
			answer(403, `{"status":403,"detail":"for the admin"}`, "Content-Type", problemJSON), false,
		},
		"a busy one": {answer(503, ""), false},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				user, pass, _ := r.BasicAuth()
				if r.Method != http.MethodDelete || r.URL.Path != "/api/v1/agents/agent-7" || user != self.AgentID ||
					pass != token {
					t.Errorf("sent %s %s as %s", r.Method, r.URL, user)
				}
				row.handle(w, r)
			})
			if err := c.Deregister(t.Context(), self); (err == nil) != row.left {
				t.Errorf("got %v, want deregistered %v", err, row.left)
			}
		})
	}
}
