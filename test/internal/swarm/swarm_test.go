package swarm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

const agents = 20

// Agents of every transport apply a published version and report it, and the swarm
// counts them.
func TestSwarm_Publish_AllAgentsApply(t *testing.T) {
	for _, transport := range []Transport{None, LongPoll, Redis, NATS} {
		t.Run(string(transport), func(t *testing.T) {
			t.Parallel()
			c := newController(t)
			options := Options{Transport: transport, Controller: c.address, Agents: fleetOf(agents),
				PollInterval: time.Second, PerSecond: 1000}
			var hints chan string
			if transport.Brokered() {
				options.Broker, hints = newBroker(t, transport)
			}
			s := Start(t.Context(), options)
			defer s.Stop()
			eventually(t, "all agents to run version 1", func() bool { return s.Ready(1) == agents })
			before, err := s.Traffic()
			if err != nil {
				t.Fatal(err)
			}

			c.publish()
			if hints != nil {
				for range agents {
					hints <- `{"version":2,"etag":"\"2\"","spread_ms":20}`
				}
			}
			eventually(t, "all agents to run version 2", func() bool { return s.Ready(2) == agents })
			if got := len(s.Applied(2)); got != agents {
				t.Errorf("got %d agents that applied version 2, want %d", got, agents)
			}
			if got := len(s.Applied(3)); got != 0 {
				t.Errorf("got %d agents that applied version 3, which is not there; want none", got)
			}
			if got := c.reported(2); got != agents {
				t.Errorf("got %d reports of version 2, want %d", got, agents)
			}
			after, err := s.Traffic()
			if err != nil {
				t.Fatal(err)
			}
			change := after.Minus(before)
			// A fetch, its answer and a report take about 1,000 bytes.
			if each := change.Payload / agents; each < 500 || each > 3000 {
				t.Errorf("got %d bytes of payload per agent and change, want about 1,000", each)
			}
			if change.Segments < 4*agents || change.Bytes() < change.Payload+4*agents*segmentBytes {
				t.Errorf("got %+v, %d bytes: want 4 packets per agent at least", change, change.Bytes())
			}
			if trouble := s.Trouble(); trouble.Count > 0 {
				t.Error(trouble)
			}
		})
	}
}

// A swarm in several processes returns the same figures as one in a single process, and
// the processes end with their input.
func TestRemote_SeveralProcesses_ActAsOneSwarm(t *testing.T) {
	t.Parallel()
	c := newController(t)
	var (
		pipes   []io.ReadWriter
		inputs  []io.Closer
		holders sync.WaitGroup
	)
	for range 3 {
		in, questions := io.Pipe()
		replies, out := io.Pipe()
		pipes, inputs = append(pipes, struct {
			io.Reader
			io.Writer
		}{replies, questions}), append(inputs, questions)
		holders.Go(func() {
			if err := Serve(t.Context(), in, out); err != nil {
				t.Error(err)
			}
			out.Close()
		})
	}
	began := time.Now()
	s, err := Distribute(Options{Transport: LongPoll, Controller: c.address, Agents: fleetOf(agents),
		PollInterval: time.Second, PerSecond: 1000}, pipes)
	if err != nil {
		t.Fatal(err)
	}
	ready := func(version int64) func() bool {
		return func() bool {
			n, err := s.Ready(version)
			if err != nil {
				t.Fatal(err)
			}
			return n == agents
		}
	}
	eventually(t, "all agents to run version 1", ready(1))
	published := time.Now()
	c.publish()
	eventually(t, "all agents to run version 2", ready(2))
	applied, err := s.Applied(2)
	if err != nil || len(applied) != agents {
		t.Fatalf("got %d agents that applied version 2, %v; want %d", len(applied), err, agents)
	}
	for _, at := range applied {
		if at.Before(published.Round(0)) || at.After(time.Now().Round(0)) {
			t.Errorf("got version 2 applied at %s, published at %s", at, published)
		}
	}
	if none, err := s.Applied(3); err != nil || len(none) != 0 {
		t.Errorf("got %d agents that applied version 3, which is not there, %v; want none", len(none), err)
	}
	if got, err := s.Traffic(); err != nil || got.Sockets != agents || got.Payload < 1000*agents {
		t.Errorf("got %+v, %v; want %d sockets, and 1,000 bytes each at least", got, err, agents)
	}
	// Requests may still be in transit.
	eventually(t, "the requests that agents count to be those that the controller counts", func() bool {
		counts, err := s.Requests(began, time.Now().Add(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, n := range counts {
			sum += n
		}
		return sum == c.requests()
	})
	if trouble, err := s.Trouble(); err != nil || trouble.Count != 0 {
		t.Errorf("got trouble %s, %v", trouble, err)
	}

	c.crash()
	eventually(t, "trouble in all processes", func() bool {
		trouble, err := s.Trouble()
		return err == nil && trouble.Count >= agents && trouble.Example != ""
	})
	for _, in := range inputs {
		in.Close()
	}
	holders.Wait()
	if _, err := s.Ready(1); err == nil {
		t.Error("got a response of processes that have ended")
	}
}

// Agents that are cut off and refused for a while reconnect to their controller. Refused
// connections do not count as requests.
func TestSwarm_ControllerRestarts_AgentsReconnect(t *testing.T) {
	t.Parallel()
	c := newController(t)
	s := Start(t.Context(), Options{Transport: LongPoll, Controller: c.address, Agents: fleetOf(agents),
		PollInterval: time.Second, PerSecond: 1000, CutSpread: time.Second})
	defer s.Stop()
	eventually(t, "all agents to run version 1", func() bool { return s.Ready(1) == agents })
	c.crash()
	eventually(t, "all agents to be cut off", func() bool { return s.Ready(1) == 0 })
	time.Sleep(1500 * time.Millisecond) // all have been refused
	c.publish()
	c.listen(t)
	eventually(t, "all agents to be back", func() bool { return s.Ready(2) == agents })
	sum := 0
	for _, n := range s.Requests(s.began, time.Now().Add(time.Second)) {
		sum += n
	}
	// Some were in transit when the controller crashed.
	if got := c.requests(); sum < got || sum > got+agents {
		t.Errorf("got %d requests by the agents' count, and %d by the controller's", sum, got)
	}
}

func TestReadAnswer_Responses_Parsed(t *testing.T) {
	text := "HTTP/1.1 200 OK\r\nEtag: \"8-x\"\r\nX-Wait-Seconds: 300\r\nX-Poll-Interval-Seconds: 15\r\nX-Other: " +
		strings.Repeat("x", 3*bufferBytes) +
		"\r\nConnection: close\r\nContent-Length: 13\r\n\r\n{\"version\":8}" +
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n" +
		"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\n\r\n"
	r := bufio.NewReaderSize(strings.NewReader(text), bufferBytes)
	a, err := readAnswer(r)
	if err != nil {
		t.Fatal(err)
	}
	version, ok := number(a.body, "version")
	if a.status != 200 || string(a.etag) != `"8-x"` || !a.canWait || a.poll != 15*time.Second || !a.closes ||
		version != 8 || !ok {
		t.Errorf("got %+v", a)
	}
	if a, err := readAnswer(r); err != nil || a.status != 304 || len(a.body) != 0 {
		t.Errorf("got %+v, %v; want 304 without a body", a, err)
	}
	if a, err := readAnswer(r); err != nil || a.status != 503 || a.retryAfter != 7*time.Second {
		t.Errorf("got %+v, %v; want 503 with Retry-After", a, err)
	}
	if _, err := readAnswer(r); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want EOF", err)
	}
}

// controller is a minimal controller.
type controller struct {
	address string

	mu      sync.Mutex // guards what follows
	server  *httptest.Server
	version int
	newer   chan struct{} // closed by the next publish
	reports map[int]int
	count   int
}

func newController(t *testing.T) *controller {
	c := &controller{version: 1, newer: make(chan struct{}), reports: map[int]int{}}
	c.listen(t)
	t.Cleanup(c.crash)
	return c
}

func (c *controller) listen(t *testing.T) {
	t.Helper()
	address := c.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c.address = listener.Addr().String()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server = &httptest.Server{Listener: listener, Config: &http.Server{Handler: c}}
	c.server.Start()
}

func (c *controller) crash() {
	_ = c.server.Listener.Close()
	c.server.CloseClientConnections()
}

func (c *controller) publish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++
	close(c.newer)
	c.newer = make(chan struct{})
}

func (c *controller) reported(version int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reports[version]
}

func (c *controller) requests() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

func (c *controller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	id, token, _ := r.BasicAuth()
	switch {
	case token != "token of "+id:
		w.WriteHeader(http.StatusUnauthorized)
	case r.Method == http.MethodPost && r.URL.Path == "/api/v1/agents/"+id+"/status":
		var version int
		if _, err := fmt.Fscanf(r.Body, `{"version":%d,"status":"APPLIED","etag":`, &version); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.reports[version]++
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodGet && r.URL.Path == "/api/v1/config":
		tag := func() string { return fmt.Sprintf(`"%d"`, c.version) }
		if r.FormValue("wait") != "" {
			w.Header().Set("X-Wait-Seconds", "300")
			for r.Header.Get("If-None-Match") == tag() && r.Context().Err() == nil {
				newer := c.newer
				c.mu.Unlock()
				select {
				case <-newer:
				case <-r.Context().Done():
				}
				c.mu.Lock()
			}
		}
		w.Header().Set("ETag", tag())
		if r.Header.Get("If-None-Match") == tag() {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprintf(w, `{"version":%d,"data":{"url":"http://example.com/"},"poll_interval_seconds":1}`, c.version)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// newBroker starts a minimal broker. Each hint goes to one agent.
func newBroker(t *testing.T, transport Transport) (address string, hints chan string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	hints = make(chan string)
	go func() { // ends with the listener
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go serveBroker(t, c, transport, hints) // ends with the test
		}
	}()
	return listener.Addr().String(), hints
}

func serveBroker(t *testing.T, c net.Conn, transport Transport, hints <-chan string) {
	defer c.Close()
	in := bufio.NewReader(c)
	want, welcome, message := "fleetconf.config\r\n", "*3\r\n$9\r\nsubscribe\r\n$16\r\nfleetconf.config\r\n:1\r\n",
		"*3\r\n$7\r\nmessage\r\n$16\r\nfleetconf.config\r\n$%d\r\n%s\r\n"
	if transport == NATS {
		fmt.Fprintf(c, "INFO {\"server_id\":%q}\r\n", strings.Repeat("x", 2*bufferBytes))
		want, welcome, message = "PING\r\n", "PING\r\nPONG\r\nPING\r\n", "MSG fleetconf.config 1 %d\r\n%s\r\n"
	}
	for line := ""; line != want; {
		var err error
		if line, err = in.ReadString('\n'); err != nil {
			return
		}
	}
	fmt.Fprint(c, welcome)
	select {
	case hint := <-hints:
		fmt.Fprintf(c, message, len(hint), hint)
	case <-t.Context().Done():
	}
	<-t.Context().Done()
}

func fleetOf(n int) []Identity {
	fleet := make([]Identity, 0, n)
	for i := range n {
		id := fmt.Sprintf("sim-%022d", i+1)
		fleet = append(fleet, Identity{id, "token of " + id})
	}
	return fleet
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("want %s", what)
		}
	}
}
