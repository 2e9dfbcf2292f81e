// Command target is a web server for hits: its response to each path has a body of its
// own, which shows the fetched URL. It listens on HOST (default: loopback) and PORT
// (default: a free one), and prints its address to standard output.
//
//	GET /anything            200 text/plain "target /anything"
//	GET /page.html, .json    with the content type of that name
//	GET /status/418          with that status
//	GET /slow?for=2s         after that time
//	GET /redirect?to=URL     302 to that URL
//	GET /count               number of requests for other paths
package main

import (
	"fmt"
	"log"
	"mime"
	"net"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "0"
	}
	host := os.Getenv("HOST")
	if host == "" {
		host = "127.0.0.1"
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		log.Fatal("target: ", err)
	}
	fmt.Printf("http://%s\n", ln.Addr())
	server := &http.Server{Handler: &target{}, ReadHeaderTimeout: 5 * time.Second}
	log.Fatal("target: ", server.Serve(ln))
}

type target struct{ requests atomic.Int64 }

func (t *target) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/count" {
		_, _ = fmt.Fprintln(w, t.requests.Load())
		return
	}
	t.requests.Add(1)
	contentType := mime.TypeByExtension(path.Ext(r.URL.Path))
	if contentType == "" {
		contentType = "text/plain; charset=utf-8"
	}
	status := http.StatusOK
	switch {
	case strings.HasPrefix(r.URL.Path, "/status/"):
		if code, err := strconv.Atoi(path.Base(r.URL.Path)); err == nil && code >= 200 && code <= 599 {
			status = code
		}
	case r.URL.Path == "/slow":
		d, _ := time.ParseDuration(r.URL.Query().Get("for"))
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
	case r.URL.Path == "/redirect":
		w.Header().Set("Location", r.URL.Query().Get("to"))
		status = http.StatusFound
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, "target", r.URL.RequestURI())
}
