package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/pkg/models"
)

func allowing(patterns ...string) func(*Options) {
	return func(o *Options) { o.Allow = patterns }
}

func TestAllowList_Check(t *testing.T) {
	for host, row := range map[string]struct {
		patterns []string
		want     bool
	}{
		"any.example":         {nil, true},
		"example.com":         {[]string{"example.com"}, true},
		"EXAMPLE.com.":        {[]string{"Example.COM"}, true},
		"www.example.com":     {[]string{"example.com"}, false},
		"a.b.example.com":     {[]string{"*.example.com"}, true},
		"x.example.com":       {[]string{"other.example", "*.Example.com."}, true},
		"apex.example":        {[]string{"*.apex.example"}, false},
		"notexample.com":      {[]string{"*.example.com", "example.com"}, false},
		"example.com.evil.io": {[]string{"*.example.com", "example.com"}, false},
		"192.0.2.7":           {[]string{"192.0.2.7"}, true},
		"::ffff:192.0.2.7":    {[]string{"192.0.2.7"}, true},
		"2001:db8:0::1":       {[]string{"2001:db8::1"}, true},
		"192.0.2.70":          {[]string{"192.0.2.7"}, false},
	} {
		if err := newAllowList(row.patterns).check(host); (err == nil) != row.want || err != nil &&
			!errors.Is(err, ErrForbidden) {
			t.Errorf("%s by %v: got %v, want allowed %v", host, row.patterns, err, row.want)
		}
	}
}

func TestApply_HostNotAllowed_Refused(t *testing.T) {
	target := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "http://localhost:1/?key=secret", http.StatusFound)
			return
		}
		fmt.Fprint(w, "good")
	})
	w := newWorker(t, allowing("127.0.0.1"))
	w.apply(t, target.URL+"/", 1)
	_, err := w.Apply(t.Context(), models.WorkerConfig{URL: strings.Replace(target.URL, "127.0.0.1", "localhost", 1) +
		"/?key=secret", Version: 2})
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(),
		"the host localhost is not one that this worker's ALLOW_HOSTS names") ||
		strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v, want it refused, with the reason", err)
	}
	if _, body, _ := w.hit(t); body != "good" {
		t.Errorf("the hit: got %q, want what ran before", body)
	}
	for _, line := range w.logs.AllEntries() {
		if text, _ := line.String(); strings.Contains(text, "secret") {
			t.Errorf("logged %s", text)
		}
	}
	w.apply(t, target.URL+"/away", 3)
	w.wantFailure(t, ErrForbidden, "ALLOW_HOSTS")
}

func TestApply_Probe_RefusesStatus500AndAbove(t *testing.T) {
	var status, asked atomic.Int64
	target := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path == "/redirect" {
			http.Redirect(w, r, "/end", http.StatusFound)
			return
		}
		w.WriteHeader(int(status.Load()))
	})
	w := newWorker(t)
	push := func(path string, version int64) error {
		_, err := w.Apply(t.Context(), models.WorkerConfig{URL: target.URL + path, Version: version, Probe: true})
		return err
	}
	for i, row := range []struct {
		path   string
		status int64
		probes int64
		want   bool
	}{
		{"/a", 200, 1, true},
		{"/b", 404, 1, true}, // the target's own word
		{"/c", 500, 1, false},
		{"/redirect", 503, 2, false},
		{"/redirect", 204, 2, true},
		{"/redirect", 503, 0, true}, // it runs already: its being away is no news
	} {
		status.Store(row.status)
		asked.Store(0)
		before, _, _ := w.State()
		err := push(row.path, int64(i+1))
		if (err == nil) != row.want || err != nil &&
			(!errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), fmt.Sprint(row.status))) {
			t.Errorf("%s that answers %d: got %v, want taken %v", row.path, row.status, err, row.want)
		}
		if asked.Load() != row.probes {
			t.Errorf("%s that answers %d: asked %d times, want %d", row.path, row.status, asked.Load(), row.probes)
		}
		if after, _, _ := w.State(); !row.want && after != before {
			t.Errorf("%s that answers %d: runs %+v, want what ran before", row.path, row.status, after)
		}
	}
	target.Close()
	if err := push("/away", 9); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("a target that is not there: got %v, want it refused", err)
	}
	if _, err := w.Apply(t.Context(), models.WorkerConfig{URL: target.URL, Version: 10}); err != nil {
		t.Errorf("without a probe: got %v, want it taken", err)
	}
}

// A probe of the worker itself would be a hit, which would fetch itself forever.
func TestApply_ProbeOfWorkerItself_Refused(t *testing.T) {
	target := serve(t, func(http.ResponseWriter, *http.Request) {})
	w := newWorker(t)
	w.apply(t, target.URL, 1) // the hit would be answered from there
	_, err := w.Apply(t.Context(), models.WorkerConfig{URL: w.URL, Version: 2, Probe: true})
	if !errors.Is(err, ErrRefused) {
		t.Errorf("got %v, want it refused", err)
	}
}

// hanging is a transport whose target answers nothing.
type hanging struct{ asked chan struct{} }

func (h hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	h.asked <- struct{}{}
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestApply_ProbeTimeout_Refused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logs := logtest.NewNullLogger()
		p := New(Options{Timeout: time.Hour, Log: log})
		target := hanging{make(chan struct{}, 9)}
		p.client.Transport = target
		push := func(ctx context.Context, version int64, probe bool) (outcome chan error) {
			outcome = make(chan error, 1)
			go func() { // ends with the verdict
				_, err := p.Apply(ctx, models.WorkerConfig{URL: fmt.Sprint("http://192.0.2.1/", version),
					Version: version, Probe: probe})
				outcome <- err
			}()
			return outcome
		}
		ctx, leave := context.WithCancel(t.Context())
		first := push(ctx, 1, true)
		<-target.asked
		leave()
		if err := <-first; !errors.Is(err, context.Canceled) || errors.Is(err, ErrRefused) ||
			len(logs.AllEntries()) > 0 {
			t.Errorf("a pusher that leaves: got %v, want no verdict, and none in the log", err)
		}

		began := time.Now()
		second := push(t.Context(), 2, true)
		<-target.asked
		third := push(t.Context(), 3, false) // waits for its turn
		ctx, leave = context.WithCancel(t.Context())
		fourth := push(ctx, 4, false)
		synctest.Wait()
		if len(third) > 0 {
			t.Error("the next was applied before the verdict on the one before")
		}
		leave()
		if err := <-fourth; !errors.Is(err, context.Canceled) {
			t.Errorf("a pusher that leaves before its turn: got %v, want no verdict", err)
		}
		if err := <-second; !errors.Is(err, ErrRefused) || !errors.Is(err, ErrTimeout) ||
			time.Since(began) != probeTimeout {
			t.Errorf("after %s: got %v, want it refused after %s", time.Since(began), err, probeTimeout)
		}
		if err := <-third; err != nil {
			t.Errorf("the next: got %v, want it taken", err)
		}
		if state, _, _ := p.State(); state.Version != 3 {
			t.Errorf("runs version %d, want the last that was pushed", state.Version)
		}
	})
}

// Where the DNS is away a host is not refused: the hit will tell.
func TestApply_DNSUnavailable_Accepted(t *testing.T) {
	w := newWorker(t, denying("169.254.0.0/16"))
	w.apply(t, "http://no-such-host.invalid/", 1)
}
