package api_test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// behindPrefix serves handler below prefix through a proxy that strips it, as nginx
// does with `location /fleet/ { proxy_pass http://controller/; }`.
func behindPrefix(t *testing.T, prefix string, handler http.Handler) *httptest.Server {
	t.Helper()
	backend := httptest.NewServer(handler)
	t.Cleanup(backend.Close)
	target, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	front := httptest.NewServer(http.StripPrefix(prefix, proxy))
	t.Cleanup(front.Close)
	return front
}

// getAs sends a request to a URL. The client follows redirects.
func getAs(t *testing.T, client *http.Client, who account, method, address, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if who != (account{}) {
		req.SetBasicAuth(who[0], who[1])
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func TestLinks_BehindPrefix_Resolve(t *testing.T) {
	s := newSystem(t)
	front := behindPrefix(t, "/fleet", s.handler)
	client := front.Client()

	resp := getAs(t, client, account{}, "GET", front.URL+"/fleet/swagger/", "")
	if body := text(t, resp); resp.StatusCode != 200 || !strings.Contains(body, "swagger-initializer.js") {
		t.Errorf("/fleet/swagger/: got %d at %s, want the page", resp.StatusCode, resp.Request.URL)
	}
	resp = getAs(t, client, account{}, "GET", front.URL+"/fleet/openapi.json", "")
	for _, s := range decode[struct{ Servers []struct{ URL string } }](t, resp).Servers {
		to, err := resp.Request.URL.Parse(s.URL)
		if err != nil || to.Path != "/fleet/" {
			t.Errorf("the page sends its calls to %v %v, want them below the prefix", to, err)
		}
	}
	resp = getAs(t, client, account{}, "GET", front.URL+"/fleet/", "")
	for line := range strings.Lines(text(t, resp)) {
		if strings.HasPrefix(line, "/") {
			t.Errorf("the index links to %q, want relative references", line)
		}
	}

	resp = getAs(t, client, enroller, "POST", front.URL+"/fleet/api/v1/register", `{"hostname":"h","agent_id":"a0"}`)
	registered := decode[wire.RegisterResponse](t, resp)
	poll, err := resp.Request.URL.Parse(registered.PollURL)
	if err != nil {
		t.Fatal(err)
	}
	s.publish("http://a/")
	if resp := getAs(
		t, client, account{"a0", registered.AgentToken}, "GET", poll.String(), "",
	); resp.StatusCode != 200 {
		t.Errorf("poll_url %q leads to %s: got %d, want 200", registered.PollURL, poll, resp.StatusCode)
	}

	s.register("a1")
	s.register("a2")
	var ids []string
	address := front.URL + "/fleet/api/v1/agents?limit=1&status=all&hostname=h*"
	for range 5 {
		resp := getAs(t, client, admin, "GET", address, "")
		if resp.StatusCode != 200 {
			t.Fatalf("%s: got %d, want 200", address, resp.StatusCode)
		}
		for _, a := range decode[[]wire.Agent](t, resp) {
			ids = append(ids, a.ID)
		}
		link := regexp.MustCompile(`^<(.*)>; rel="?next"?$`).FindStringSubmatch(resp.Header.Get("Link"))
		if link == nil {
			break
		}
		next, err := resp.Request.URL.Parse(link[1])
		if err != nil {
			t.Fatal(err)
		}
		address = next.String()
	}
	if diff := cmp.Diff([]string{"a0", "a1", "a2"}, ids); diff != "" {
		t.Errorf("pages followed by Link, -want +got:\n%s", diff)
	}
}
