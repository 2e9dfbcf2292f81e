// Package natsnotify sends hints over NATS: plain subjects without a store and without queue
// groups, so that every subscriber receives each.
package natsnotify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/fleetconf/fleetconf/pkg/notify"
	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

// Options are the servers and the credentials: at most one of user name and password, token,
// NKey and credentials file.
type Options struct {
	URL                string // of a server; of several with commas between
	Username, Password string
	Token              string
	NKeyFile           string // holds the seed
	CredsFile          string
	CAFile             string // certificates to trust instead of those of the system
	CertFile, KeyFile  string // of the client, if the server verifies it
	Name               string // under which the server lists this client

	// InProcess is a server in this process, instead of those of URL.
	InProcess nats.InProcessConnProvider
}

// Driver announces and subscribes over NATS. Each announcement opens a connection: they are
// rare, and a dead idle connection would lose the next hint. The connection to a server in
// this process is kept: it does not die unnoticed, and a full server would reject a new one.
type Driver struct {
	url     string
	options []nats.Option
	keeps   bool

	idle, answer time.Duration

	mu   sync.Mutex // guards kept
	kept *nats.Conn // nil before the first
}

// maxPending and maxPendingBytes limit the messages that the client has received and listen
// has not read. The client reads 32 KiB at a time, which is 1,200 of the shortest messages,
// without waiting for listen. Over a limit messages are lost and the driver resubscribes, so
// that agents fetch what they missed.
const (
	maxPending      = 1 << 12
	maxPendingBytes = 32 << 20
)

// New reads the options and their files. It connects only to a server in this process.
func New(o Options) (*Driver, error) {
	if o.InProcess == nil {
		if err := notify.CheckNATSURL(o.URL); err != nil {
			return nil, err
		}
	}
	d := &Driver{url: o.URL, keeps: o.InProcess != nil, idle: notify.Idle, answer: notify.Answer}
	d.options = []nats.Option{
		nats.Name(o.Name),
		nats.NoReconnect(),   // notify.Reconnect does, with jitter
		nats.PingInterval(0), // listen pings
		nats.SyncQueueLen(maxPending),
		nats.PermissionErrOnSubscribe(true),
		nats.ErrorHandler(func(c *nats.Conn, _ *nats.Subscription, _ error) { c.Close() }),
	}
	if o.InProcess != nil {
		d.options = append(d.options, nats.InProcessServer(o.InProcess))
	}
	if o.Username != "" {
		d.options = append(d.options, nats.UserInfo(o.Username, o.Password))
	}
	if o.Token != "" {
		d.options = append(d.options, nats.Token(o.Token))
	}
	if o.NKeyFile != "" {
		d.options = append(d.options, nkey(o.NKeyFile))
	}
	if o.CredsFile != "" {
		d.options = append(d.options, credentials(o.CredsFile))
	}
	if o.CAFile != "" {
		d.options = append(d.options, rootCAs(o.CAFile))
	}
	if o.CertFile != "" {
		d.options = append(d.options, clientCert(o.CertFile, o.KeyFile))
	}
	d.options = append(d.options, suites)
	if err := d.try(); err != nil || !d.keeps {
		return d, err
	}
	_, _ = d.announcing(context.Background()) // Announce tries again
	return d, nil
}

// The library's options with files would block on a named pipe. Those below reject it. They
// too read their files at each connection.

func nkey(file string) nats.Option {
	return func(o *nats.Options) error {
		seed, err := tlsfiles.Read(file)
		if err != nil {
			return err
		}
		key, err := nkeys.ParseDecoratedNKey(seed)
		if err != nil {
			return fmt.Errorf("%s must hold an NKey seed", file)
		}
		public, err := key.PublicKey()
		if err != nil || !nkeys.IsValidPublicUserKey(public) {
			return fmt.Errorf("%s must hold the NKey seed of a user", file)
		}
		return nats.Nkey(public, key.Sign)(o)
	}
}

func credentials(file string) nats.Option {
	return func(o *nats.Options) error {
		text, err := tlsfiles.Read(file)
		if err != nil {
			return err
		}
		return nats.UserCredentialBytes(text)(o)
	}
}

func rootCAs(file string) nats.Option {
	return func(o *nats.Options) error {
		pool, err := tlsfiles.ReadAuthorities(file)
		if err != nil {
			return err
		}
		o.Secure, o.RootCAsCB = true, func() (*x509.CertPool, error) { return pool, nil }
		return nil
	}
}

func clientCert(certFile, keyFile string) nats.Option {
	return func(o *nats.Options) error {
		cert, err := tlsfiles.ReadPair(certFile, keyFile)
		if err != nil {
			return err
		}
		o.Secure, o.TLSCertCB = true, func() (tls.Certificate, error) { return cert, nil }
		return nil
	}
}

// suites limits the cipher suites of TLS 1.2, if the URL asks for TLS.
func suites(o *nats.Options) error {
	if o.TLSConfig == nil {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	o.TLSConfig.CipherSuites = tlsfiles.Suites()
	return nil
}

// try applies the options once, to read their files.
func (d *Driver) try() error {
	opts := nats.GetDefaultOptions()
	for _, option := range d.options {
		if err := option(&opts); err != nil {
			return err
		}
	}
	return nil
}

// dialer opens guarded connections that end with ctx.
type dialer struct{ ctx context.Context }

func (d dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := notify.Dial(d.ctx, network, address)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(d.ctx, func() { _ = conn.Close() })
	return notify.Guard(conn, length), nil
}

func (d *Driver) connect(ctx context.Context) (*nats.Conn, error) {
	return nats.Connect(d.url, append([]nats.Option{nats.SetCustomDialer(dialer{ctx})}, d.options...)...)
}

// Announce publishes a message on a subject and waits until the server has accepted it, at most
// notify.Answer.
func (d *Driver) Announce(ctx context.Context, subject string, message []byte) error {
	ctx, cancel := context.WithTimeout(ctx, d.answer)
	defer cancel()
	conn, err := d.announcing(ctx)
	if err != nil {
		return reason(ctx, subject, err)
	}
	if err = conn.Publish(subject, message); err == nil {
		err = flush(ctx, conn)
	}
	if err != nil || !d.keeps {
		conn.Close()
	}
	if err != nil {
		return reason(ctx, subject, err)
	}
	return nil
}

// announcing returns the connection for an announcement: the kept one, or a new one.
func (d *Driver) announcing(ctx context.Context) (*nats.Conn, error) {
	if !d.keeps {
		return d.connect(ctx)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	if d.kept == nil || d.kept.IsClosed() {
		d.kept, err = d.connect(ctx)
	}
	return d.kept, err
}

// flush waits until the server has processed all that was sent.
func flush(ctx context.Context, conn *nats.Conn) error {
	err := conn.FlushWithContext(ctx)
	if last := conn.LastError(); last != nil { // also a rejection
		return last
	}
	return err
}

// Run passes messages on a subject to r until ctx ends.
func (d *Driver) Run(ctx context.Context, subject string, r notify.Receiver) error {
	return notify.Reconnect(ctx, r, func(ctx context.Context, subscribed func()) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		return reason(ctx, subject, d.listen(ctx, subject, r, subscribed))
	})
}

func (d *Driver) listen(ctx context.Context, subject string, r notify.Receiver, subscribed func()) error {
	conn, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	sub, err := conn.SubscribeSync(subject)
	if err != nil {
		return err
	}
	if err := sub.SetPendingLimits(maxPending, maxPendingBytes); err != nil {
		return err
	}
	if err := d.ping(ctx, conn); err != nil {
		return err
	}
	subscribed()
	for {
		message, err := next(ctx, sub, d.idle)
		if errors.Is(err, context.DeadlineExceeded) {
			err = d.ping(ctx, conn)
		}
		if last := conn.LastError(); err != nil && last != nil {
			return last
		}
		if err != nil {
			return err
		}
		if message != nil {
			r.Received(message.Data)
		}
	}
}

func next(ctx context.Context, sub *nats.Subscription, timeout time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return sub.NextMsgWithContext(ctx)
}

func (d *Driver) ping(ctx context.Context, conn *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, d.answer)
	defer cancel()
	return flush(ctx, conn)
}

// reason describes an error without secrets.
func reason(ctx context.Context, subject string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("nats: %w", ctx.Err())
	}
	for _, row := range []struct {
		message string
		of      []error
	}{
		{"the credentials are refused", []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked,
			nats.ErrAccountAuthExpired}},
		{"this account may not use subject " + subject, []error{nats.ErrPermissionViolation}},
		{"messages arrive faster than they are processed", []error{nats.ErrSlowConsumer}},
		{"client and server do not agree whether to use TLS",
			[]error{nats.ErrSecureConnRequired, nats.ErrSecureConnWanted}},
		{"the server has too many connections",
			[]error{nats.ErrMaxConnectionsExceeded, nats.ErrMaxAccountConnectionsExceeded}},
		{"no server can be reached", []error{nats.ErrNoServers}},
		{"the broker did not answer in time", []error{nats.ErrTimeout, context.DeadlineExceeded}},
		{"the broker cut the connection",
			[]error{nats.ErrConnectionClosed, nats.ErrStaleConnection, nats.ErrBadSubscription}},
	} {
		for _, of := range row.of {
			if errors.Is(err, of) {
				return errors.New("nats: " + row.message)
			}
		}
	}
	return fmt.Errorf("nats: %w", notify.Reason(err))
}

// length parses the lines of NATS's protocol: that of a message ends with the length of its
// payload.
func length(line []byte) (n int64, follow bool) {
	fields := bytes.Fields(line)
	if len(fields) == 0 || !bytes.EqualFold(fields[0], []byte("MSG")) && !bytes.EqualFold(fields[0], []byte("HMSG")) {
		return 0, false
	}
	return notify.Decimal(fields[len(fields)-1]), true
}
