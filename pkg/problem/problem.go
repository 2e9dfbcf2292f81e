// Package problem is the one form of an error answer: application/problem+json
// (RFC 9457). Servers write it, clients read it back.
package problem

import (
	"fmt"
	"io"
	"net/http"

	"github.com/go-json-experiment/json"

	"github.com/fleetconf/fleetconf/pkg/models"
)

// ContentType is the media type of a problem document (RFC 9457 §3).
const ContentType = "application/problem+json"

// Problem is a problem document, and an error, so that a handler can return it.
type Problem struct {
	Type   string              `json:"type" example:"about:blank"` // RFC 9457 §4.2.1: the status says it all
	Title  string              `json:"title" example:"Bad Request"`
	Status int                 `json:"status" example:"400"`
	Detail string              `json:"detail" example:"url is missing"`
	Errors []models.FieldError `json:"errors,omitempty"` // the bad fields, each by its name
}

// New makes the problem of an HTTP status, with a sentence that says what is
// wrong and, where that is not plain, what to do.
func New(status int, format string, args ...any) *Problem {
	return &Problem{
		Type:   "about:blank",
		Title:  http.StatusText(status),
		Status: status,
		Detail: fmt.Sprintf(format, args...),
	}
}

// Invalid makes the 400 of a document that breaks the contract.
func Invalid(err *models.Invalid) *Problem {
	p := New(http.StatusBadRequest, "%s", err.Error())
	for _, fault := range err.Errors {
		if fault.Field != "" { // of the document as a whole the detail has said all
			p.Errors = append(p.Errors, fault)
		}
	}
	return p
}

func (p *Problem) Error() string {
	if p.Detail == "" {
		return fmt.Sprintf("%d %s", p.Status, p.Title)
	}
	return fmt.Sprintf("%d %s: %s", p.Status, p.Title, p.Detail)
}

// Write answers a request with p. Headers that belong to the problem, such as
// Retry-After or WWW-Authenticate, are set by the caller before.
func Write(w http.ResponseWriter, p *Problem) {
	h := w.Header()
	h.Set("Content-Type", ContentType)
	h.Set("Cache-Control", "no-store")
	for _, name := range []string{"ETag", "Content-Length", "Content-Encoding", "Last-Modified"} {
		h.Del(name) // they spoke of the answer that this one replaces
	}
	w.WriteHeader(p.Status)
	body, _ := models.Encode(p)        // strings and numbers always encode
	_, _ = w.Write(append(body, '\n')) // the client has disconnected: no one reads it
}

// Read takes the problem out of an error answer. An answer that is not one of
// ours, say a proxy's page, becomes a problem of the same status whose detail
// is the beginning of its text. It reads at most 64 KiB and leaves the body
// open.
func Read(resp *http.Response) *Problem {
	p := New(resp.StatusCode, "")
	body, _ := io.ReadAll(io.LimitReader(resp.Body, models.MaxBodyBytes))
	read := Problem{}
	if err := json.Unmarshal(body, &read); err == nil && read.Detail != "" {
		p.Detail, p.Errors = read.Detail, read.Errors
	} else {
		p.Detail = string(body)
	}
	p.Detail = models.Trim(p.Detail)
	return p
}
