package controller

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

func TestFetch_Wait_SentAsQuery(t *testing.T) {
	for name, row := range map[string]struct {
		query     protocol.Query
		want      string
		transport string
	}{
		"polling":              {protocol.Query{Transport: wire.Polling}, "/api/v1/config", ""},
		"a broker is received": {protocol.Query{Transport: wire.NATS}, "/api/v1/config", "nats"},
		"long-poll": {
			protocol.Query{Transport: wire.LongPoll, MayWait: true, Wait: 55 * time.Second}, "/api/v1/config?wait=55s",
			"",
		},
		"long-poll, answer me": {protocol.Query{MayWait: true}, "/api/v1/config?wait=0s", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got *http.Request
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				got = r
				answer(404, "{}", "Content-Type", problemJSON)(w, r)
			})
			_, err := c.Fetch(t.Context(), self, row.query)
			if !errors.Is(err, protocol.ErrNothingPublished) {
				t.Fatalf("Fetch: %v", err)
			}
			if got.URL.RequestURI() != row.want || got.Header.Get(wire.HeaderTransport) != row.transport ||
				got.ContentLength != 0 || len(got.TransferEncoding) > 0 {
				t.Errorf("sent %s with the transport %q and %d bytes, want %s with %q and none",
					got.URL.RequestURI(), got.Header.Get(wire.HeaderTransport), got.ContentLength,
					row.want, row.transport)
			}
		})
	}
}

func TestFetch_WaitHeader_Returned(t *testing.T) {
	asked := protocol.Query{ETag: `"e"`, MayWait: true, Wait: time.Minute}
	for name, row := range map[string]struct {
		query protocol.Query
		head  []string
		want  protocol.Answer
	}{
		"it was": {
			asked, []string{wire.HeaderWait, "60", wire.HeaderSweepInterval, "300"},
			protocol.Answer{CanWait: true, Waited: time.Minute, ResyncInterval: 5 * time.Minute},
		},
		"for less": {
			asked, []string{wire.HeaderWait, "20"}, protocol.Answer{CanWait: true, Waited: 20 * time.Second},
		},
		"for more than asked": {
			asked, []string{wire.HeaderWait, "9223372037"}, protocol.Answer{CanWait: true, Waited: time.Minute},
		},
		"it would be": {
			protocol.Query{ETag: `"e"`, MayWait: true}, []string{wire.HeaderWait, "0"}, protocol.Answer{CanWait: true},
		},
		"not where none asked": {protocol.Query{ETag: `"e"`}, []string{wire.HeaderWait, "60"}, protocol.Answer{}},
		"no header":            {asked, nil, protocol.Answer{}},
		"rubbish": {
			asked, []string{wire.HeaderWait, "-1", wire.HeaderSweepInterval, "x"}, protocol.Answer{},
		},
		"a resync out of bounds": {
			asked, []string{wire.HeaderSweepInterval, "999999999"},
			protocol.Answer{ResyncInterval: wire.MaxPollInterval},
		},
		"a resync of 0": {asked, []string{wire.HeaderSweepInterval, "0"}, protocol.Answer{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := serve(t, answer(304, "", row.head...)).Fetch(t.Context(), self, row.query)
			if !errors.Is(err, protocol.ErrNotModified) {
				t.Fatalf("Fetch: %v", err)
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// The controller's answer is awaited for as long as it may hold it, and no wait much longer.
func TestTimeoutOf_Wait_AddsItsSlack(t *testing.T) {
	for _, wait := range []time.Duration{0, 5 * time.Second, 55 * time.Second, wire.MaxWait} {
		longest := wait * 17 / 16
		if got := timeoutOf(wait); got < longest+timeout || got > longest+2*timeout {
			t.Errorf("a wait of %s: got %s, want %s more than %s", wait, got, timeout, longest)
		}
	}
}

func TestFetch_SpreadHeader_Returned(t *testing.T) {
	for said, want := range map[string]time.Duration{
		"250": 250 * time.Millisecond, "99999999999": maxSpread, "-1": 0, "x": 0, "": 0,
	} {
		got, err := serve(
			t, answer(200, document, "ETag", `"e"`, wire.HeaderSpread, said),
		).Fetch(t.Context(), self, protocol.Query{})
		if err != nil || got.Spread != want {
			t.Errorf("%q: got %s, %v, want %s", said, got.Spread, err, want)
		}
	}
}

// Proxies end long requests with an error. An answer of the controller itself is not a cut.
func TestFetch_ProxyErrorWhileWaiting_IsCut(t *testing.T) {
	waiting := protocol.Query{ETag: `"e"`, MayWait: true, Wait: time.Minute}
	for name, row := range map[string]struct {
		query   protocol.Query
		handler http.HandlerFunc
		cut     bool
	}{
		"504":                  {waiting, answer(504, "<html>", "Content-Type", "text/html"), true},
		"408":                  {waiting, answer(408, ""), true},
		"502":                  {waiting, answer(502, "<html>"), true},
		"503 of Varnish":       {waiting, answer(503, "<html>", "Retry-After", "5"), true},
		"429 of a gateway":     {waiting, answer(429, "slow down"), true},
		"520 of a CDN":         {waiting, answer(520, ""), true},
		"the controller's 503": {waiting, answer(503, "{}", "Content-Type", problemJSON, "Retry-After", "5"), false},
		"a redirect":           {waiting, answer(302, "", "Location", "/login"), false},
		"the controller's":     {waiting, answer(504, "{}", "Content-Type", problemJSON), false},
		"504 without a wait":   {protocol.Query{}, answer(504, "<html>"), false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := serve(t, row.handler).Fetch(t.Context(), self, row.query); err == nil ||
				errors.Is(err, protocol.ErrCut) != row.cut {
				t.Errorf("got %v, want a cut: %v", err, row.cut)
			}
		})
	}
}

// When a controller dies, the connections of all waiters break at one moment. net/http would
// immediately resend their requests, which must not happen.
func TestFetch_WaitBroken_NotResent(t *testing.T) {
	var waits atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "" {
			answer(404, "{}", "Content-Type", problemJSON)(w, r)
			return
		}
		waits.Add(1)
		panic(http.ErrAbortHandler)
	}))
	defer s.Close()
	c := New(Options{URL: s.URL, Pushed: true})
	_, _ = c.Fetch(t.Context(), self, protocol.Query{}) // so that the connection is reused
	if _, err := c.Fetch(t.Context(), self, protocol.Query{MayWait: true, Wait: time.Minute}); err == nil {
		t.Error("no error for a broken connection")
	}
	if got := waits.Load(); got != 1 {
		t.Errorf("it was sent %d times, want once", got)
	}
}

// An error can hold anything, and is sent as one line of a header.
func TestFetch_WorkerAndPushErrors_SentInHeaders(t *testing.T) {
	for said, want := range map[string]string{
		"": "",
		"cannot be reached:\r\nX-Forged: \xff…": "cannot be reached: X-Forged: ??",
	} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			for _, name := range []string{wire.HeaderWorkerError, wire.HeaderPushError} {
				got := strings.Join(r.Header[name], "|")
				if got != want || r.Header.Get("X-Forged") != "" {
					t.Errorf("%s: got %q, want %q", name, got, want)
				}
			}
			w.WriteHeader(http.StatusNotModified)
		})
		query := protocol.Query{ETag: `"e"`, WorkerError: said, PushError: said}
		if _, err := c.Fetch(t.Context(), self, query); !errors.Is(err, protocol.ErrNotModified) {
			t.Errorf("got %v, want ErrNotModified", err)
		}
	}
}
