package server

import (
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/fleetconf/fleetconf/pkg/buildinfo"
)

// Index is the response of GET /: the program and its links.
type Index struct {
	Name    string `json:"name" example:"fleetconf controller"`
	Version string `json:"version" example:"v1.0.0"`
	Links   []Link `json:"links"`
}

// Link is a reference relative to the URL of the Index: a proxy may add a prefix.
type Link struct {
	Href  string `json:"href" example:"health"`
	Title string `json:"title" example:"whether the process is alive"`
}

// Probes are the links of all programs.
var Probes = []Link{
	{"health", "whether the process is alive (also healthz, livez)"},
	{"ready", "whether it can do its job, and why not (also readyz)"},
	{"metrics", "metrics for Prometheus"},
	{"version", "which build this is"},
}

// IndexOf returns a handler of GET / that lists links and the Probes, as JSON if the client
// prefers it, else as text.
//
//	@ID				getIndex
//	@Summary		Where things are
//	@Description	As text unless Accept prefers application/json. References are relative.
//	@Tags			process
//	@Produce		json,plain
//	@Success		200	{object}	Index
//	@Router			/ [get]
func IndexOf(program string, links ...Link) http.HandlerFunc {
	index := Index{Name: "fleetconf " + program, Version: buildinfo.Read().Version, Links: append(links, Probes...)}
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept")
		if prefersJSON(r.Header.Values("Accept")) {
			_ = WriteJSON(w, http.StatusOK, index) // can always be encoded
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = fmt.Fprintf(w, "%s %s\n\n", index.Name, index.Version) // an error means that the client disconnected
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, link := range index.Links {
			_, _ = fmt.Fprintf(table, "%s\t%s\n", link.Href, link.Title)
		}
		_ = table.Flush()
	}
}

// prefersJSON reports whether Accept (RFC 9110 §12.5.1) ranks application/json above
// text/plain, or equally and by its name.
func prefersJSON(accept []string) bool {
	json, text, named := quality{}, quality{}, false
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		mediaRange, parameters, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		q := 1.0
		if text, ok := parameters["q"]; ok {
			if q, err = strconv.ParseFloat(text, 64); err != nil {
				continue
			}
		}
		switch mediaRange {
		case "application/json":
			json.set(q, 3)
			named = true
		case "text/plain":
			text.set(q, 3)
		case "application/*":
			json.set(q, 2)
		case "text/*", "text/html": // a browser gets the text
			text.set(q, 2)
		case "*/*":
			json.set(q, 1)
			text.set(q, 1)
		}
	}
	return json.q > text.q || named && json.q > 0 && json.q == text.q
}

// quality is the quality of a media type by its most specific range.
type quality struct {
	q        float64
	specific int
}

func (r *quality) set(q float64, specific int) {
	if specific > r.specific {
		*r = quality{q, specific}
	}
}
