// Package problem is the format of error responses: application/problem+json (RFC 9457). Servers write
// it, clients parse it.
package problem

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/fleetconf/fleetconf/pkg/models"
)

// ContentType is the media type of a problem document (RFC 9457 §3).
const ContentType = "application/problem+json"

// Problem is a problem document, and an error, so that a handler can return it.
type Problem struct {
	Type   string              `json:"type" example:"about:blank"` // RFC 9457 §4.2.1
	Title  string              `json:"title" example:"Bad Request"`
	Status int                 `json:"status" example:"400"`
	Detail string              `json:"detail" example:"url is missing"`
	Errors []models.FieldError `json:"errors,omitempty"` // the bad fields, each by its name

	RetryAfter time.Duration `json:"-"` // of the Retry-After header; 0: none
	Challenge  string        `json:"-"` // of the WWW-Authenticate header; "": none
}

// New returns the problem of an HTTP status. Its detail says what is wrong and, if that is not
// obvious, what to do.
func New(status int, format string, args ...any) *Problem {
	return &Problem{
		Type:   "about:blank",
		Title:  http.StatusText(status),
		Status: status,
		Detail: fmt.Sprintf(format, args...),
	}
}

// Invalid returns the 400 of a document that breaks the contract.
func Invalid(err *models.Invalid) *Problem {
	p := New(http.StatusBadRequest, "%s", err.Error())
	for _, fault := range err.Errors {
		if fault.Field != "" { // else it concerns the whole document
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

// RetryAfter sets the Retry-After header (RFC 9110 §10.2.3), in whole seconds and at least
// one.
func RetryAfter(h http.Header, d time.Duration) {
	h.Set("Retry-After", strconv.Itoa(max(1, int((d+time.Second-1)/time.Second))))
}

// Write answers a request with p.
func Write(w http.ResponseWriter, p *Problem) {
	h := w.Header()
	h.Set("Content-Type", ContentType)
	h.Set("Cache-Control", "no-store")
	for _, name := range []string{"ETag", "Content-Length", "Content-Encoding", "Last-Modified"} {
		h.Del(name) // of the response that this one replaces
	}
	if p.RetryAfter != 0 {
		RetryAfter(h, p.RetryAfter)
	}
	if p.Challenge != "" {
		h.Set("WWW-Authenticate", p.Challenge)
	}
	w.WriteHeader(p.Status)
	body, _ := models.Encode(p)        // strings and numbers always encode
	_, _ = w.Write(append(body, '\n')) // an error means that the client disconnected
}

// Read returns the problem of an error response. A response in another format, such as a proxy's
// page, becomes a problem of the same status with the beginning of its text as the detail. Read
// reads at most 64 KiB and does not close the body.
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
