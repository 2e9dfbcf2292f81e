// Package broker is a NATS server within the controller, for fleets that run
// none. It passes on hints from controllers to agents, and nothing else: agents
// can listen to one subject, and cannot say anything.
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

// Options say who can reach the broker.
type Options struct {
	Listen            string // host:port for agents; port 0 picks a free one
	CertFile, KeyFile string // of the certificate; none for no TLS

	// What agents present: a name and a password, or a token, or nothing if all
	// are empty.
	Username, Password string
	Token              string

	// Controllers whose brokers know each other announce to all their agents.
	ClusterListen                    string // host:port for other brokers, "" for none
	Routes                           []*url.URL
	ClusterUsername, ClusterPassword string

	Connections int // at most, of agents; 0 for as many as there are files for
}

const (
	// pingInterval is longer than that of agents, whose pings are sign enough.
	pingInterval = 2 * notify.Idle
	// maxPayload is beyond any hint, maxPending what may wait for one agent.
	maxPayload    = 64 << 10
	maxPending    = 1 << 20
	writeDeadline = 10 * time.Second
	startTimeout  = 10 * time.Second
	anyPort       = server.RANDOM_PORT
)

// handshake is how long an agent may take to connect, when all of them do. Then a
// connection that has not logged in ends, and makes room where there are MaxConn.
var handshake = 30 * time.Second

// Broker is a running server.
type Broker struct {
	server *server.Server
	guard  *guard
}

// Start runs a broker until Close.
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
			return nil, fmt.Errorf("embedded NATS cannot start; NATS_LISTEN and NATS_CLUSTER_LISTEN say where it listens: %s", why)
		default:
		}
		if time.Now().After(deadline) {
			_ = b.Close()
			return nil, fmt.Errorf("embedded NATS does not start within %s", startTimeout)
		}
	}
	log.WithFields(logrus.Fields{"addr": b.Addr().String(), "tls": o.CertFile != "", "cluster": o.ClusterListen}).Info("Embedded NATS listens")
	return b, nil
}

func (o Options) server(guard *guard) (*server.Options, error) {
	opts := &server.Options{
		NoSigs:                     true,
		CustomClientAuthentication: guard,
		DisableShortFirstPing:      true,
		PingInterval:               pingInterval,
		MaxConn:                    cmp.Or(o.Connections, 1<<20) + 1, // the announcer's
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
		NoAdvertise:    true, // agents know where to go by their settings
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

// Addr is where agents connect.
func (b *Broker) Addr() net.Addr { return b.server.Addr() }

// Announcer announces as the controller.
func (b *Broker) Announcer() (*natsnotify.Driver, error) {
	return natsnotify.New(natsnotify.Options{
		InProcess: b.server,
		Username:  b.guard.controller.username,
		Password:  b.guard.controller.password,
		Name:      "controller",
	})
}

// Close ends the broker and waits until it has. Agents come back to another, or
// to this one when it runs again.
func (b *Broker) Close() error {
	b.server.Shutdown()
	b.server.WaitForShutdown()
	return nil
}

// secret is what a client presents.
type secret struct{ username, password, token string }

func (s secret) equals(other secret) bool {
	same := func(a, b string) int { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) }
	return same(s.username, other.username)&same(s.password, other.password)&same(s.token, other.token) == 1
}

// guard tells controllers from agents.
type guard struct {
	agent, controller, cluster secret

	guesses *limit.Guesses
}

// Check lets the controller publish hints, and agents hear them.
func (g *guard) Check(c server.ClientAuthentication) bool {
	options := c.GetOpts()
	presented := secret{options.Username, options.Password, options.Token}
	none, hints := &server.SubjectPermission{Deny: []string{">"}}, &server.SubjectPermission{Allow: []string{notify.Subject, notify.SubjectOf("*")}}
	switch {
	case presented.equals(g.controller):
		c.RegisterUser(&server.User{Username: "controller", Permissions: &server.Permissions{Publish: hints, Subscribe: none}})
	case g.agent == secret{} || g.accepts("agent", presented, g.agent, c):
		c.RegisterUser(&server.User{Username: "agent", Permissions: &server.Permissions{Publish: none, Subscribe: hints}})
	default:
		return false
	}
	return true
}

// accepts reports whether a client presented the right secret of an account, and its
// source made no more wrong guesses of that than limit.Guesses allows.
func (g *guard) accepts(account string, presented, right secret, c server.ClientAuthentication) bool {
	var source netip.Prefix
	if tcp, ok := c.RemoteAddress().(*net.TCPAddr); ok {
		source = limit.Source(tcp.AddrPort().Addr())
	}
	switch {
	case presented.equals(right):
		return g.guesses.Right(account, source) == 0
	case presented != secret{}: // a client without credentials guesses nothing
		g.guesses.Wrong(account, source)
	}
	return false
}

// routes is the guard of connections between brokers.
type routes guard

// Check accepts brokers that know the cluster's password.
func (r *routes) Check(c server.ClientAuthentication) bool {
	g, options := (*guard)(r), c.GetOpts()
	return g.accepts("cluster", secret{username: options.Username, password: options.Password}, g.cluster, c)
}

// events writes what the server says to the controller's log.
type events struct {
	log   logrus.FieldLogger
	fatal chan string
	once  sync.Once
}

func (e *events) entry(format string, v []any) logrus.FieldLogger {
	return e.log.WithField("detail", fmt.Sprintf(format, v...))
}

// Noticef is chatter.
func (e *events) Noticef(format string, v ...any) { e.entry(format, v).Debug("Embedded NATS") }

// Warnf is what the server deals with by itself.
func (e *events) Warnf(format string, v ...any) { e.entry(format, v).Warn("Embedded NATS") }

// Errorf is mostly what a client did wrong.
func (e *events) Errorf(format string, v ...any) { e.entry(format, v).Warn("Embedded NATS") }

// Fatalf is why the server cannot run. Start says so.
func (e *events) Fatalf(format string, v ...any) {
	e.once.Do(func() { e.fatal <- fmt.Sprintf(format, v...) })
}

// Debugf is never asked for.
func (*events) Debugf(string, ...any) {}

// Tracef is never asked for.
func (*events) Tracef(string, ...any) {}
