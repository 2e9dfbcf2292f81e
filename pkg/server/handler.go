package server

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/pkg/buildinfo"
	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/requestid"
)

// HeaderRequestID identifies a request in logs and responses. A client's id is kept if it fits
// requestID, else replaced.
const HeaderRequestID = requestid.Header

// probeNames are aliases of the probes that orchestrators use.
var probeNames = map[string]string{"/healthz": "/health", "/livez": "/health", "/readyz": "/ready"}

var requestID = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`)

// RequestID returns the id of a request that went through Wrap.
func RequestID(r *http.Request) string { return r.Header.Get(HeaderRequestID) }

// Wrap gives every request an id, maps the aliases of the probes, limits the body to
// models.MaxBodyBytes, forbids content sniffing, and answers a panic with a 500 that it logs
// with its stack. At debug level it logs every request.
func Wrap(next http.Handler, log logrus.FieldLogger) http.Handler {
	if l, ok := log.(*logrus.Logger); ok && l.IsLevelEnabled(logrus.DebugLevel) {
		next = logRequests(next, log)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(HeaderRequestID)
		if !requestID.MatchString(id) {
			id = requestid.New()
			r.Header.Set(HeaderRequestID, id)
		}
		h := w.Header()
		h.Set(HeaderRequestID, id)
		h.Set("X-Content-Type-Options", "nosniff")
		if probe, ok := probeNames[r.URL.Path]; ok {
			r.URL.Path = probe
		}
		if r.Body != nil && r.Body != http.NoBody {
			r.Body = http.MaxBytesReader(w, r.Body, models.MaxBodyBytes)
		}
		defer recoverPanic(w, r, log)
		next.ServeHTTP(w, r)
	})
}

// SameOrigin rejects writes that a page of another site sends with the credentials that a
// browser remembers: 403, which is also passed to counted. Only browsers send the headers that
// it checks (Sec-Fetch-Site, Origin), so other clients are unaffected.
func SameOrigin(next http.Handler, counted func(status int)) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		counted(http.StatusForbidden)
		problem.Write(w, problem.New(http.StatusForbidden, "a page of another site may not do this"))
	}))
	return protection.Handler(next)
}

// logRequests logs each request after its response.
func logRequests(next http.Handler, log logrus.FieldLogger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began, status := time.Now(), &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(status, r)
		log.WithFields(logrus.Fields{
			"request_id": RequestID(r), "method": r.Method, "path": r.URL.Path, "status": status.status,
			"remote": r.RemoteAddr, "took": time.Since(began).String(),
		}).Debug("Request answered")
	})
}

// statusWriter is a ResponseWriter.
type statusWriter struct {
	http.ResponseWriter
	status  int
	written bool
}

func (s *statusWriter) WriteHeader(status int) {
	if status >= http.StatusOK { // not an interim response
		s.status, s.written = status, true
	}
	s.ResponseWriter.WriteHeader(status)
}

func (s *statusWriter) Write(b []byte) (int, error) {
	s.written = true
	return s.ResponseWriter.Write(b)
}

// Status returns the status that was sent, or will be.
func (s *statusWriter) Status() int { return s.status }

// Written reports whether the status or a part of the body was sent.
func (s *statusWriter) Written() bool { return s.written }

// Flush is for callers that assert http.Flusher, Unwrap for http.ResponseController.
func (s *statusWriter) Flush()                      { _ = http.NewResponseController(s.ResponseWriter).Flush() }
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func recoverPanic(w http.ResponseWriter, r *http.Request, log logrus.FieldLogger) {
	switch err := recover(); err {
	case nil:
	case http.ErrAbortHandler:
		panic(err) // cuts the connection
	default:
		log.WithFields(logrus.Fields{
			"request_id": RequestID(r), "method": r.Method, "path": r.URL.Path, "panic": err,
			"stack": string(debug.Stack()),
		}).Error("Handler panicked")
		problem.Write(w, Internal(r))
	}
}

// Internal returns the response to a request that failed for an internal reason. It names the
// request id, under which the log has the reason.
func Internal(r *http.Request) *problem.Problem {
	return problem.New(http.StatusInternalServerError, "internal error; the log has it under request id %s",
		RequestID(r))
}

// Decode reads the JSON document in the body of a request, as models.Decode does. The error is
// a *problem.Problem of status 415, 413, 408 or 400.
func Decode[T any](r *http.Request) (T, error) {
	var zero T
	if Bodyless(r) { // before its missing Content-Type
		return zero, problem.New(http.StatusBadRequest, "the body is empty; a JSON document was expected")
	}
	mediaType, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset, named := parameters["charset"]
	utf8 := !named || strings.EqualFold(charset, "utf-8") || strings.EqualFold(charset, "utf8")
	if err != nil || mediaType != "application/json" || !utf8 {
		return zero, problem.New(http.StatusUnsupportedMediaType,
			"send the document with Content-Type: application/json, in UTF-8")
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return zero, problem.New(http.StatusUnsupportedMediaType, "send the document without Content-Encoding")
	}
	body, err := io.ReadAll(r.Body)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return zero, problem.New(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", tooLarge.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return zero, problem.New(http.StatusRequestTimeout, "the body did not arrive in time")
	case err != nil:
		return zero, problem.New(http.StatusBadRequest, "the body did not arrive whole")
	}
	v, err := models.Decode[T](body)
	var bad *models.Invalid
	if errors.As(err, &bad) {
		return zero, problem.Invalid(bad)
	}
	return v, err
}

// Bodyless reports whether a request has no body. It reads the first byte of a chunked body,
// and leaves it in r.Body.
func Bodyless(r *http.Request) bool {
	if r.ContentLength >= 0 {
		return r.ContentLength == 0
	}
	first := make([]byte, 1)
	n, err := io.ReadFull(r.Body, first)
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(first[:n]), r.Body), r.Body}
	return errors.Is(err, io.EOF)
}

// WriteJSON answers with v as a JSON document. It writes nothing if v cannot be encoded.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	body, err := models.Encode(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // an error means that the client disconnected
	return nil
}

// Status is the response of /health and /ready with status 200.
type Status struct {
	Status string `json:"status" example:"ok"`
	Detail string `json:"detail,omitempty"` // what needs attention nevertheless
}

// Health answers GET /health: the process lives.
//
//	@ID			getHealth
//	@Summary	Whether the process lives
//	@Tags		process
//	@Produce	json
//	@Success	200	{object}	Status
//	@Router		/health [get]
func Health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	_ = WriteJSON(w, http.StatusOK, Status{Status: "ok"})
}

// Ready returns a handler of GET /ready: 200 if reasons returns none against sending traffic
// here, else 503 with each of them.
//
//	@ID			getReadiness
//	@Summary	Whether to send traffic here
//	@Tags		process
//	@Produce	json
//	@Success	200	{object}	Status
//	@Failure	503	{object}	problem.Problem	"not ready; errors has each reason"
//	@Router		/ready [get]
func Ready(reasons func(*http.Request) []models.FieldError) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if found := reasons(r); len(found) > 0 {
			p := problem.New(http.StatusServiceUnavailable, "not ready: %s", (&models.Invalid{Errors: found}).Error())
			p.Errors = found
			p.RetryAfter = time.Second
			problem.Write(w, p)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		_ = WriteJSON(w, http.StatusOK, Status{Status: "ready"})
	}
}

// Version answers GET /version.
//
//	@ID			getVersion
//	@Summary	Which build this is
//	@Tags		process
//	@Produce	json
//	@Success	200	{object}	buildinfo.Info
//	@Router		/version [get]
func Version(w http.ResponseWriter, _ *http.Request) {
	_ = WriteJSON(w, http.StatusOK, buildinfo.Read())
}

// Redirect answers with 302 and a reference relative to the request's URL. http.Redirect would
// make it absolute, which is wrong behind a proxy that strips a prefix.
func Redirect(w http.ResponseWriter, reference string) {
	w.Header().Set("Location", reference)
	w.WriteHeader(http.StatusFound)
}
