package test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3" // to hold locks, and to change the database as a newer build would
)

// With any kind of broken worker the agent reports the reason, and recovers when a
// working one replaces it.
func TestAgent_BrokenWorker_ReportsReasonAndRecovers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target := run(t, "target")
	controller := run(t, "controller", controllerIn(dir)...)
	_, err := publish(controller.url(), target.url()+"/hello")
	must(t, err)

	for name, row := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"answers 500": {func(w http.ResponseWriter,
			_ *http.Request) {
			http.Error(w, "boom", http.StatusInternalServerError)
		}, "500"},
		"hangs": {func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-time.After(time.Minute):
			}
		}, "did not answer within"},
		"is a web page": {func(w http.ResponseWriter, _ *http.Request) {
			_,
				_ = io.WriteString(w, "<html>It works!</html>")
		}, "WORKER_URL"},
		"redirects": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://example.com/", http.StatusFound)
		}, "redirect"},
		"cuts every response": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			"cut the connection"},
		"endless response": {
			func(w http.ResponseWriter, _ *http.Request) { writeEndlessly(w) }, "bytes",
		},
		"accepts and runs another version": {pushHandler(`{"message":"ok","version":7}`), "7"},
		"does not speak HTTP":              {nil, "HTTP"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			var wrong interface {
				Serve(net.Listener) error
				Close() error
			} = &http.Server{Handler: row.handler, ReadHeaderTimeout: time.Second}
			if row.handler == nil {
				wrong = &nonHTTPServer{}
			}
			go func() { _ = wrong.Serve(ln) }()
			t.Cleanup(func() { _ = wrong.Close() })

			agent := run(t, "agent", agentIn(t.TempDir(), controller.url(), "http://"+ln.Addr().String())...)
			eventually(t, func() error {
				s, _, err := get[status]("", agent.url()+"/status")
				if err == nil && (!strings.Contains(s.Worker.Error, row.want) ||
					!strings.Contains(s.LastError, row.want)) {
					err = fmt.Errorf("/status has %+v, want an error of the worker with %q", s, row.want)
				}
				if err == nil && s.AppliedVersion != nil {
					t.Fatalf("/status has version %d as applied, want none: no worker runs it", *s.AppliedVersion)
				}
				return err
			})
			must(t, wrong.Close())
			_ = ln.Close()
			worker := newProcess("worker")
			_, worker.port, _ = net.SplitHostPort(ln.Addr().String())
			must(t, worker.start())
			cleanUp(t, worker)
			eventually(t, func() error { return checkHit(worker.url(), "target /hello") })
			eventually(t, func() error {
				s, _, err := get[status]("", agent.url()+"/status")
				if err == nil && (s.LastError != "" || s.AppliedVersion == nil || *s.AppliedVersion != 1) {
					err = fmt.Errorf("/status has %+v, want version 1 applied and no error", s)
				}
				return err
			})
		})
	}
}

func writeEndlessly(w io.Writer) {
	for {
		if _, err := w.Write(make([]byte, 1<<16)); err != nil {
			return
		}
	}
}

// pushHandler answers a push with body, and runs nothing.
func pushHandler(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"type":"about:blank","title":"Not Found","status":404,"detail":"nothing runs"}`)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, body)
	}
}

// nonHTTPServer is a server that sends a banner of another protocol.
type nonHTTPServer struct{ ln net.Listener }

func (b *nonHTTPServer) Serve(ln net.Listener) error {
	b.ln = ln
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		_, _ = io.WriteString(conn, "220 mail.example ESMTP\r\n")
		_ = conn.Close()
	}
}

func (b *nonHTTPServer) Close() error { return nil } // the test closes its listener

// The controller refuses an unusable database with a reason, and does not change it.
func TestController_UnusableDatabase_Refused(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		spoil func(t *testing.T, path string)
		want  string
	}{
		"another file": {func(t *testing.T, path string) {
			must(t, os.WriteFile(path, []byte(strings.Repeat("This is no database. ", 500)), 0o600))
		}, "damaged or is no SQLite database"},
		"truncated": {func(t *testing.T, path string) { must(t, os.Truncate(path, 5000)) }, "damaged"},
		"a page of zeros": {func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			defer f.Close()
			_, err = f.WriteAt(make([]byte, 3*4096), 4096)
			must(t, err)
		}, "damaged"},
		"another page size in the header": {func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			defer f.Close()
			_, err = f.WriteAt(binary.BigEndian.AppendUint16(nil, 3), 16)
			must(t, err)
		}, "damaged"},
		"newer than the binary": {func(t *testing.T, path string) {
			execSQL(t, path, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)`)
		}, "a newer controller has written it"},
		"a directory": {func(t *testing.T, path string) {
			must(t, os.Remove(path))
			must(t, os.Mkdir(path, 0o700))
		}, "is a folder; name a file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "controller.db")
			controller := run(t, "controller", controllerIn(dir)...)
			for i := range 20 {
				_, err := publish(controller.url(), fmt.Sprintf("http://target.example/%d", i))
				must(t, err)
			}
			must(t, controller.stop())
			row.spoil(t, path)
			before := contents(path)
			wantRefused(t, controller, path, row.want)
			if after := contents(path); after != before {
				t.Error("the file was changed")
			}
			for _, beside := range []string{"-wal", "-journal"} {
				if info, err := os.Stat(path + beside); err == nil && info.Size() > 0 {
					t.Errorf("%s%s was written, want nothing", filepath.Base(path), beside)
				}
			}
		})
	}
}

// wantRefused starts a controller, which must end with status 1 and a reason.
func wantRefused(t *testing.T, controller *process, path, want string) {
	t.Helper()
	before := len(controller.log.String())
	must(t, controller.launch())
	must(t, controller.waitExit(1))
	output := controller.log.String()[before:]
	if !strings.Contains(output, "controller: open database "+path) || !strings.Contains(output, want) {
		t.Errorf("it printed:\n%s\nwant an error with %s and %q", output, path, want)
	}
}

func contents(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func execSQL(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path)
	must(t, err)
	defer db.Close()
	for _, s := range statements {
		_, err := db.Exec(s)
		must(t, err)
	}
}

func TestController_DatabaseOpenElsewhere_Refused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := run(t, "controller", controllerIn(dir)...)
	second := newProcess("controller", controllerIn(dir)...)
	wantRefused(t, second, filepath.Join(dir, "controller.db"), "another controller has it open")
	if _, err := publish(first.url(), "http://target.example/"); err != nil {
		t.Errorf("the first one after that: %v", err)
	}
}

// While another process locks the database, publishes fail and polls go on.
func TestController_LockedDatabase_PublishFailsPollsContinue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "controller.db")
	controller := run(t, "controller", controllerIn(dir)...)
	_, err := publish(controller.url(), "http://target.example/before")
	must(t, err)

	unlock := lock(t, path)
	a, err := call(admin, "POST", controller.url()+"/api/v1/config", `{"url":"http://target.example/locked"}`)
	must(t, err)
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" ||
		!strings.Contains(a.body, "nothing was changed") {
		t.Errorf("a publish gets %v, want 503 with Retry-After and nothing changed", a)
	}
	current, _, err := get[config](agents, controller.url()+"/api/v1/config")
	must(t, err)
	if current.Version != 1 || current.Data["url"] != "http://target.example/before" {
		t.Errorf("a poll gets %+v, want version 1 as before", current)
	}

	must(t, controller.crash())
	wantRefused(t, controller, path, "locked by another process")
	unlock()
	must(t, controller.start())
	version, err := publish(controller.url(), "http://target.example/after")
	must(t, err)
	if version != 2 {
		t.Errorf("the publish after that is version %d, want 2: the refused one stored nothing", version)
	}
}

// lock holds the write lock of a database until unlock.
func lock(t *testing.T, path string) (unlock func()) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?_busy_timeout=10000")
	must(t, err)
	conn, err := db.Conn(t.Context())
	must(t, err)
	_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	must(t, err)
	unlock = sync.OnceFunc(func() {
		_, _ = conn.ExecContext(context.Background(), "ROLLBACK")
		_ = conn.Close()
		_ = db.Close()
	})
	t.Cleanup(unlock)
	return unlock
}

func TestController_ReadOnlyDatabase_Refused(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "fleetconf-readonly-") // other users cannot read t.TempDir
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "controller.db")
	controller := run(t, "controller", controllerIn(dir)...)
	_, err = publish(controller.url(), "http://target.example/")
	must(t, err)
	must(t, controller.stop())
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		must(t, os.Chmod(filepath.Join(dir, e.Name()), 0o444))
	}
	must(t, os.Chmod(dir, 0o555))
	t.Cleanup(func() { _ = os.Chmod(dir, 0o755) })
	if os.Getuid() == 0 {
		controller.uid = 65534 // root can write everywhere
	}
	before := contents(path)
	wantRefused(t, controller, path, "cannot be written")
	if contents(path) != before {
		t.Error("the file was changed")
	}
}

// On a full disk acknowledged versions are kept, and a failed publish stores nothing.
func TestController_FullDisk_KeepsAcknowledgedVersions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("this user may not mount a small disk: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	controller := run(t, "controller", controllerIn(dir)...)
	last, err := publish(controller.url(), "http://target.example/first")
	must(t, err)
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	must(t, err)
	for {
		if _, err := f.Write(make([]byte, 512)); errors.Is(err, syscall.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	var refused answer
	for i := range 1000 {
		a, err := call(admin, "POST", controller.url()+"/api/v1/config",
			fmt.Sprintf(`{"url":"http://target.example/%d/%s"}`, i, strings.Repeat("x", 1500)))
		must(t, err)
		if a.status != http.StatusOK {
			refused = a
			break
		}
		last++
	}
	if refused.status != http.StatusInsufficientStorage || !strings.Contains(refused.body, "nothing was changed") {
		t.Errorf("a publish on a full disk gets %v, want 507 and nothing changed", refused)
	}
	current, _, err := get[config](agents, controller.url()+"/api/v1/config")
	must(t, err)
	if current.Version != last {
		t.Errorf("version %d is served, want %d, the last that was acknowledged", current.Version, last)
	}
	must(t, controller.crash())
	must(t, f.Close())
	must(t, os.Remove(filler))
	must(t, controller.start())
	version, err := publish(controller.url(), "http://target.example/after")
	must(t, err)
	if version != last+1 {
		t.Errorf("with free space a publish is version %d, want %d", version, last+1)
	}
}

func TestSystem_ThousandConcurrentRequests_AllAnswered(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target := run(t, "target")
	controller := run(t, "controller", controllerIn(dir)...)
	worker := run(t, "worker")
	run(t, "agent", agentIn(dir, controller.url(), worker.url())...)
	_, err := publish(controller.url(), target.url()+"/hello")
	must(t, err)
	eventually(t, func() error { return checkHit(worker.url(), "target /hello") })

	for name, request := range map[string]func() error{
		"polls": func() error { _, _, err := get[config](agents, controller.url()+"/api/v1/config"); return err },
		"hits":  func() error { return checkHit(worker.url(), "target /hello") },
	} {
		const n = 1000
		begin, errs := make(chan struct{}), make(chan error, n)
		for range n {
			go func() { <-begin; errs <- request() }()
		}
		close(begin)
		failed := 0
		for range n {
			if err := <-errs; err != nil {
				if failed++; failed == 1 {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		if failed > 0 {
			t.Errorf("%d of %d %s at once failed, want none", failed, n, name)
		}
	}
}

func TestSystem_UnfinishedHeaders_ConnectionClosed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	controller := run(t, "controller", controllerIn(dir)...)
	worker := run(t, "worker")
	agent := run(t, "agent", agentIn(dir, controller.url(), worker.url())...)
	for _, p := range []*process{controller, worker, agent} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", p.addr)
			must(t, err)
			defer conn.Close()
			_, err = io.WriteString(conn, "GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
			must(t, err)
			must(t, conn.SetReadDeadline(time.Now().Add(15*time.Second)))
			if rest, err := io.ReadAll(bufio.NewReader(conn)); err != nil {
				t.Errorf("the connection is open after 15 s: %q, %v; want it cut after 5", rest, err)
			}
			if a, err := call("", "GET", p.url()+"/health", ""); err != nil || a.status != 200 {
				t.Errorf("/health meanwhile: %v, %v", a, err)
			}
		})
	}
}
