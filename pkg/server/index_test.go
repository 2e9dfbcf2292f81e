package server_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/fleetconf/fleetconf/pkg/server"
)

func TestIndex_ContentNegotiation(t *testing.T) {
	handler := server.IndexOf("worker", server.Link{Href: "hit", Title: "what the configured URL answers"})
	for accept, wantJSON := range map[string]bool{
		"":                                   false,
		"*/*":                                false,
		"text/plain":                         false,
		"application/json":                   true,
		"Application/JSON; charset=utf-8":    true,
		"application/*":                      true,
		"application/json, text/plain, */*":  true,
		"application/json;q=0.5, text/plain": false,
		"application/json;q=0, */*":          false,
		"text/plain;q=0.1, */*;q=0.5":        true,
		"nonsense, application/json;q=x":     false,
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": false, // a browser
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		handler(w, r)
		body := w.Body.String()
		gotJSON := w.Header().Get("Content-Type") == "application/json"
		if w.Code != 200 || gotJSON != wantJSON || w.Header().Get("Vary") != "Accept" ||
			!strings.HasSuffix(body, "\n") {
			t.Errorf("Accept %q: got %d %v %s, want JSON %v", accept, w.Code, w.Header(), body, wantJSON)
		}
		for _, word := range []string{"fleetconf worker", "hit", "ready", "metrics"} {
			if !strings.Contains(body, word) {
				t.Errorf("Accept %q: got %s, want %s in it", accept, body, word)
			}
		}
		var index server.Index
		if gotJSON && json.Unmarshal([]byte(body), &index) != nil {
			t.Errorf("Accept %q: got %s, want JSON", accept, body)
		}
		for _, link := range index.Links {
			if link.Title == "" || strings.HasPrefix(link.Href, "/") {
				t.Errorf("got %+v, want a relative reference and what is there", link)
			}
		}
	}
}

// Orchestrators' names for the probes reach the same handlers.
func TestWrap_ProbeAliases(t *testing.T) {
	handler := server.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(r.URL.Path))
	}), quiet())
	for path, want := range map[string]string{
		"/healthz": "/health", "/livez": "/health", "/readyz": "/ready", "/readyz/": "/readyz/",
		"/api/healthz": "/api/healthz", "/health": "/health",
	} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if got := w.Body.String(); got != want {
			t.Errorf("%s: got the answer of %s, want that of %s", path, got, want)
		}
	}
}
