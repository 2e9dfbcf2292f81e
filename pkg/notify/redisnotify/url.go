package redisnotify

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"net/url"

	"github.com/redis/go-redis/v9"

	"github.com/fleetconf/fleetconf/pkg/notify"
	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

// New returns a driver for the URL of a server (redis://, or rediss:// for TLS), of Sentinels
// (?master_name=…&addr=…, with their account before the host, and that of the server as
// &username=…&password=…), or of nodes of a Cluster (?addr=…). caFile holds the trusted
// certificates; "" stands for those of the system. New does not connect.
func New(address, caFile string) (*Driver, error) {
	if err := notify.CheckRedisURL(address); err != nil {
		return nil, err
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, notify.ErrRedisURL
	}
	d := &Driver{idle: notify.Idle, answer: notify.Answer}
	switch query := u.Query(); {
	case query.Has("master_name"):
		err = d.sentinel(address)
	case query.Has("addr"):
		err = d.cluster(address)
	default:
		err = d.single(address)
	}
	if err != nil {
		return nil, notify.ErrRedisURL
	}
	if caFile != "" && d.server.TLSConfig != nil {
		if d.server.TLSConfig.RootCAs, err = tlsfiles.ReadAuthorities(caFile); err != nil {
			return nil, err
		}
	}
	if d.server.TLSConfig != nil {
		d.server.TLSConfig.CipherSuites = tlsfiles.Suites()
	}
	d.dial = dialer(d.server.TLSConfig)
	return d, nil
}

func (d *Driver) single(address string) error {
	opts, err := redis.ParseURL(address)
	if err != nil {
		return err
	}
	d.server = redis.Options{Username: opts.Username, Password: opts.Password, DB: opts.DB, TLSConfig: opts.TLSConfig}
	tune(&d.server)
	d.address = func(context.Context) (string, error) { return opts.Addr, nil }
	return nil
}

// sentinel looks the server up for each connection. The library's failover client would
// subscribe to the Sentinels and ping them.
func (d *Driver) sentinel(address string) error {
	opts, err := redis.ParseFailoverURL(address)
	if err != nil {
		return err
	}
	d.server = redis.Options{Username: opts.Username, Password: opts.Password, DB: opts.DB, TLSConfig: opts.TLSConfig}
	tune(&d.server)
	d.address = func(ctx context.Context) (master string, err error) {
		for _, i := range rand.Perm(len(opts.SentinelAddrs)) {
			if master, err = d.ask(ctx, opts.SentinelAddrs[i], opts); err == nil {
				return master, nil
			}
		}
		return "", err
	}
	return nil
}

func (d *Driver) ask(ctx context.Context, sentinel string, opts *redis.FailoverOptions) (master string, err error) {
	ctx, cancel := context.WithTimeout(ctx, d.answer)
	defer cancel()
	asked := redis.Options{Addr: sentinel, Username: opts.SentinelUsername, Password: opts.SentinelPassword,
		Dialer: d.dial(ctx)}
	tune(&asked)
	client := redis.NewSentinelClient(&asked)
	defer func() { _ = client.Close() }()
	at, err := client.GetMasterAddrByName(ctx, opts.MasterName).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return "", errMaster
	case err != nil:
		return "", err
	case len(at) != 2:
		return "", errReply
	}
	return net.JoinHostPort(at[0], at[1]), nil
}

var errMaster = errors.New("the Sentinels know no such master")

// cluster looks up the node of the subject. Any node would do, because a Cluster forwards each
// message to all nodes; this one exists.
func (d *Driver) cluster(address string) error {
	opts, err := redis.ParseClusterURL(address)
	if err != nil {
		return err
	}
	d.server = redis.Options{Username: opts.Username, Password: opts.Password, TLSConfig: opts.TLSConfig}
	tune(&d.server)
	d.address = func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, d.answer)
		defer cancel()
		client := redis.NewClusterClient(&redis.ClusterOptions{
			Addrs: opts.Addrs, Username: opts.Username, Password: opts.Password,
			NewClient: func(node *redis.Options) *redis.Client {
				node.Dialer = d.dial(ctx)
				tune(node)
				return redis.NewClient(node)
			},
		})
		defer func() { _ = client.Close() }()
		node, err := client.MasterForKey(ctx, notify.Subject)
		if err != nil {
			return "", err
		}
		return node.Options().Addr, nil
	}
	return nil
}

// dialer returns a function that returns, for a ctx, a dialer of guarded connections that end
// with ctx.
func dialer(config *tls.Config) func(ctx context.Context) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context) func(context.Context, string, string) (net.Conn, error) {
		return func(_ context.Context, network, address string) (net.Conn, error) {
			conn, err := notify.Dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			if config != nil {
				config := config.Clone()
				config.ServerName, _, _ = net.SplitHostPort(address) // of the master, not of its Sentinel
				secure := tls.Client(conn, config)
				if err := secure.HandshakeContext(ctx); err != nil {
					_ = conn.Close()
					return nil, err
				}
				conn = secure
			}
			guarded := notify.Guard(conn, new(replies).length)
			context.AfterFunc(ctx, func() { _ = conn.Close() })
			return guarded, nil
		}
	}
}
