package server_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fleetconf/fleetconf/pkg/certs"
	"github.com/fleetconf/fleetconf/pkg/connlimit"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// http2 serves over TLS in a bubble. client speaks HTTP/2, and dials counts its
// connections.
func http2(t *testing.T, handler http.Handler) (client *http.Client, dials *int, stop func() error) {
	t.Helper()
	ln, client, dials := secured(t)
	return client, dials, start(t, ln, handler, quiet())
}

// secured is a listener that speaks TLS, and a client that speaks HTTP/2 with it.
func secured(t *testing.T) (secure net.Listener, client *http.Client, dials *int) {
	t.Helper()
	authority, err := certs.NewAuthority("authority", 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := authority.Issue(certs.Leaf{Name: "server", Hosts: []string{"controller"},
		NotAfter: time.Now().Add(24 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	ln := newPipes()
	secure = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert},
		NextProtos: []string{"h2", "http/1.1"}})
	dials = new(int)
	transport := &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { *dials++; return ln.dial(), nil },
		TLSClientConfig:   &tls.Config{RootCAs: authority.Pool()},
		ForceAttemptHTTP2: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return secure, &http.Client{Transport: transport}, dials
}

// get gives the status, the body and the protocol of an answer.
func get(t *testing.T, client *http.Client) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://controller/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s %s %v", resp.StatusCode, body, resp.Proto, err)
}

func TestServe_HTTP2_ConnectionInUse_StaysOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, dials, _ := http2(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Hour))
			time.Sleep(3 * server.IdleTimeout) // longer than the server lets be idle, and than it gives answers
			_, _ = io.WriteString(w, "done")
		}))
		for range 2 {
			if got := get(t, client); got != "200 done HTTP/2.0 <nil>" {
				t.Errorf("got %q", got)
			}
			time.Sleep(server.IdleTimeout - time.Second)
		}
		if *dials != 1 {
			t.Errorf("it took %d connections, want 1", *dials)
		}
		time.Sleep(2 * time.Second)
		_ = get(t, client)
		if *dials != 2 {
			t.Errorf("after more than IdleTimeout it took %d connections, want 2", *dials)
		}
	})
}

func TestServe_HTTP2_WriteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _, _ := http2(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(server.WriteTimeout + time.Second)
			_, _ = io.WriteString(w, "late")
		}))
		began := time.Now()
		if got := get(t, client); time.Since(began) != server.WriteTimeout {
			t.Errorf("got %q after %s, want it cut after %s", got, time.Since(began), server.WriteTimeout)
		}
		time.Sleep(2 * time.Second) // the handler ends too
	})
}

func TestServe_HTTP2_Shutdown_RequestInFlightCompletes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := make(chan struct{})
		client, _, stop := http2(t, slow(server.DrainTimeout-2*time.Second, began))
		answer := make(chan string, 1)
		go func() { answer <- get(t, client) }()
		<-began
		begun := time.Now()
		if err := stop(); err != nil || time.Since(begun) > server.DrainTimeout {
			t.Errorf("Serve = %v after %s, want nil within %s", err, time.Since(begun), server.DrainTimeout)
		}
		if got := <-answer; got != "200 done HTTP/2.0 <nil>" {
			t.Errorf("the request in flight got %q, want its answer whole", got)
		}
	})
}

func TestServe_HTTP2_Shutdown_ClosesIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _, stop := http2(t, http.HandlerFunc(server.Health))
		_ = get(t, client)
		begun := time.Now()
		if err := stop(); err != nil || time.Since(begun) > 2*time.Second {
			t.Errorf("Serve = %v after %s, want nil within the second or two of a GOAWAY", err, time.Since(begun))
		}
	})
}

func TestServeWithin_IdleHTTP2Connection_EndsSoonerIfNeverAuthenticated(t *testing.T) {
	for _, authenticated := range []bool{true, false} {
		t.Run(fmt.Sprint(authenticated), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln, client, dials := secured(t)
				within(t, ln, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					if authenticated {
						connlimit.Authenticated(r)
					}
				}), server.Limits{Connections: 10, Keep: 8 * time.Minute}, quiet())
				for i, pause := range []time.Duration{59 * time.Second, 61 * time.Second, 0} {
					want := 1
					if i == 2 && !authenticated {
						want = 2
					}
					if got := get(t, client); got != "200  HTTP/2.0 <nil>" || *dials != want {
						t.Errorf("request %d: got %q over connection %d, want %d", i, got, *dials, want)
					}
					time.Sleep(pause)
				}
			})
		})
	}
}
