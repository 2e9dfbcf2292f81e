// Package broker embeds a NATS server in the controller, for fleets that run none. The server
// forwards hints from controllers to agents, and nothing else: agents may subscribe to the
// hints' subjects and may not publish.
package broker

import (
	"cmp"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/pkg/limit"
	"github.com/fleetconf/fleetconf/pkg/notify"
	"github.com/fleetconf/fleetconf/pkg/notify/natsnotify"
	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

// Options are the addresses, credentials and limits of the broker.
type Options struct {
	Listen            string // host:port for agents; port 0 picks a free one
	CertFile, KeyFile string // of its certificate; both empty for no TLS

	// The credentials of agents: a name and a password, or a token. If all are empty, agents
	// need none.
	Username, Password string
	Token              string

	// The brokers of a cluster forward hints to each other, so that the announcements of any
	// controller reach the agents of all.
	ClusterListen                    string // host:port for other brokers; "" for no cluster
	Routes                           []*url.URL
	ClusterUsername, ClusterPassword string

	Connections int // maximum number of connections of agents; 0 for no limit but that of open files
}

const (
	// pingInterval is longer than that of agents, whose pings already show that they live.
	pingInterval  = 2 * notify.Idle
	maxPayload    = 64 << 10 // bytes of a message; a hint is far smaller
	maxPending    = 1 << 20  // bytes that may be queued for one agent
	writeDeadline = 10 * time.Second
	startTimeout  = 10 * time.Second
	anyPort       = server.RANDOM_PORT
)

// handshake is the time after which a connection that has not authenticated is closed, which
// frees its place in MaxConn. It is long enough for a reconnect storm of the whole fleet.
var handshake = 30 * time.Second

// Broker is a running NATS server.
type Broker struct {
	server *server.Server
	guard  *guard
}

// Start starts a broker, which runs until Close.
func Start(o Options, log logrus.FieldLogger) (*Broker, error) {
	guard := &guard{
		agent:      secret{o.Username, o.Password, o.Token},
		controller: secret{username: "controller", password: rand.Text()},
		cluster:    secret{username: o.ClusterUsername, password: o.ClusterPassword},
		guesses:    limit.NewGuesses(),
	}
	opts, err := o.server(guard)
	if err != nil {
		return nil, err
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	events := &events{log: log, fatal: make(chan string, 1)}
	s.SetLogger(events, false, false)
	s.Start()
	b := &Broker{s, guard}
	for deadline := time.Now().Add(startTimeout); !s.ReadyForConnections(100 * time.Millisecond); {
		select {
		case why := <-events.fatal:
			_ = b.Close()
			return nil, fmt.Errorf("embedded NATS cannot start (NATS_LISTEN, NATS_CLUSTER_LISTEN): %s", why)
		default:
		}
		if time.Now().After(deadline) {
			_ = b.Close()
			return nil, fmt.Errorf("embedded NATS did not start within %s", startTimeout)
		}
	}
	log.WithFields(logrus.Fields{
		"addr": b.Addr().String(), "tls": o.CertFile != "", "cluster": o.ClusterListen,
	}).Info("Embedded NATS started")
	return b, nil
}

// server returns the configuration of the NATS server.
func (o Options) server(guard *guard) (*server.Options, error) {
	opts := &server.Options{
		NoSigs:                     true,
		CustomClientAuthentication: guard,
		DisableShortFirstPing:      true,
		PingInterval:               pingInterval,
		MaxConn:                    cmp.Or(o.Connections, 1<<20) + 1, // one more for the announcer
		MaxPayload:                 maxPayload,
		MaxPending:                 maxPending,
		MaxSubs:                    1,
		WriteDeadline:              writeDeadline,
		AuthTimeout:                handshake.Seconds(),
		TLSTimeout:                 handshake.Seconds(),
		NoSystemAccount:            true,
	}
	var err error
	if opts.Host, opts.Port, err = split(o.Listen); err != nil {
		return nil, err
	}
	if o.CertFile != "" {
		cert, err := tlsfiles.ReadPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("NATS_TLS_CERT_FILE and NATS_TLS_KEY_FILE: %w", err)
		}
		opts.TLSConfig = &tls.Config{
			Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, CipherSuites: tlsfiles.Suites(),
		}
	}
	if o.ClusterListen == "" {
		return opts, nil
	}
	opts.Cluster = server.ClusterOpts{
		Name:           "fleetconf",
		Username:       o.ClusterUsername,
		Password:       o.ClusterPassword,
		AuthTimeout:    handshake.Seconds(),
		NoAdvertise:    true, // agents get the addresses from their settings
		ConnectRetries: 1 << 30,
	}
	if o.ClusterUsername != "" {
		opts.CustomRouterAuthentication = (*routes)(guard)
	}
	if opts.Cluster.Host, opts.Cluster.Port, err = split(o.ClusterListen); err != nil {
		return nil, err
	}
	for _, route := range o.Routes {
		route := *route
		if route.User == nil && o.ClusterUsername != "" {
			route.User = url.UserPassword(o.ClusterUsername, o.ClusterPassword)
		}
		opts.Routes = append(opts.Routes, &route)
	}
	return opts, nil
}

// split parses host:port. Port 0 becomes anyPort.
func split(address string) (host string, port int, err error) {
	host, name, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	if port, err = strconv.Atoi(name); err != nil {
		return "", 0, err
	}
	if port == 0 {
		port = anyPort
	}
	return host, port, nil
}

// Addr returns the address on which the broker listens for agents.
func (b *Broker) Addr() net.Addr { return b.server.Addr() }

// Announcer returns an announcer that publishes on this broker, within the process.
func (b *Broker) Announcer() (*natsnotify.Driver, error) {
	return natsnotify.New(natsnotify.Options{
		InProcess: b.server,
		Username:  b.guard.controller.username,
		Password:  b.guard.controller.password,
		Name:      "controller",
	})
}

// Close stops the broker and waits until it has stopped. Agents reconnect when it runs again.
func (b *Broker) Close() error {
	b.server.Shutdown()
	b.server.WaitForShutdown()
	return nil
}

// secret is the credentials of a client.
type secret struct{ username, password, token string }

// equals reports whether two credentials are equal, in constant time.
func (s secret) equals(other secret) bool {
	same := func(a, b string) int { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) }
	return same(s.username, other.username)&same(s.password, other.password)&same(s.token, other.token) == 1
}

// guard authenticates clients, and limits guesses of passwords.
type guard struct {
	agent, controller, cluster secret

	guesses *limit.Guesses
}

// Check authenticates a client. The controller may only publish hints, and agents may only
// subscribe to them.
func (g *guard) Check(c server.ClientAuthentication) bool {
	options := c.GetOpts()
	presented := secret{options.Username, options.Password, options.Token}
	none := &server.SubjectPermission{Deny: []string{">"}}
	hints := &server.SubjectPermission{Allow: []string{notify.Subject, notify.SubjectOf("*")}}
	switch {
	case presented.equals(g.controller):
		c.RegisterUser(&server.User{
			Username: "controller", Permissions: &server.Permissions{Publish: hints, Subscribe: none},
		})
	case g.agent == secret{} || g.accepts("agent", presented, g.agent, c):
		c.RegisterUser(&server.User{
			Username: "agent", Permissions: &server.Permissions{Publish: none, Subscribe: hints},
		})
	default:
		return false
	}
	return true
}

// accepts reports whether a client presented the secret of an account, and its source has not
// exceeded the limit of wrong guesses.
func (g *guard) accepts(account string, presented, right secret, c server.ClientAuthentication) bool {
	var source netip.Prefix
	if tcp, ok := c.RemoteAddress().(*net.TCPAddr); ok {
		source = limit.Source(tcp.AddrPort().Addr())
	}
	switch {
	case presented.equals(right):
		return g.guesses.Right(account, source) == 0
	case presented != secret{}: // no credentials are no guess
		g.guesses.Wrong(account, source)
	}
	return false
}

// routes authenticates connections between brokers.
type routes guard

// Check authenticates a broker by the credentials of the cluster.
func (r *routes) Check(c server.ClientAuthentication) bool {
	g, options := (*guard)(r), c.GetOpts()
	return g.accepts("cluster", secret{username: options.Username, password: options.Password}, g.cluster, c)
}

// events forwards the server's log to the controller's.
type events struct {
	log   logrus.FieldLogger
	fatal chan string
	once  sync.Once
}

// entry returns a log entry with the server's message as its detail.
func (e *events) entry(format string, v []any) logrus.FieldLogger {
	return e.log.WithField("detail", fmt.Sprintf(format, v...))
}

// Noticef logs routine messages.
func (e *events) Noticef(format string, v ...any) { e.entry(format, v).Debug("Embedded NATS") }

// Warnf logs problems that the server handles.
func (e *events) Warnf(format string, v ...any) { e.entry(format, v).Warn("Embedded NATS") }

// Errorf logs errors at Warn, because most are those of clients.
func (e *events) Errorf(format string, v ...any) { e.entry(format, v).Warn("Embedded NATS") }

// Fatalf passes on why the server cannot run, for Start to return.
func (e *events) Fatalf(format string, v ...any) {
	e.once.Do(func() { e.fatal <- fmt.Sprintf(format, v...) })
}

// Debugf is never called: debug messages are off.
func (*events) Debugf(string, ...any) {}

// Tracef is never called: trace messages are off.
func (*events) Tracef(string, ...any) {}
