// Package redisnotify sends hints over Redis: one server, the master of Sentinels, or a Cluster.
package redisnotify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/fleetconf/fleetconf/pkg/notify"
)

// Driver announces and subscribes over Redis. Each announcement opens a connection: they are
// rare, and a dead idle connection would lose the next hint.
type Driver struct {
	server  redis.Options                             // without its address
	address func(ctx context.Context) (string, error) // of the current server
	dial    func(ctx context.Context) func(context.Context, string, string) (net.Conn, error)

	idle, answer time.Duration
}

// The library also returns as errors what it would print to standard error.
func init() { logging.Disable() }

// errReconnect keeps the library from reconnecting by itself, without backoff.
var errReconnect = errors.New("one connection only")

// open returns a client with one connection, which ends with ctx or the client. It connects
// with its first command.
func (d *Driver) open(ctx context.Context) (*redis.Client, error) {
	address, err := d.address(ctx)
	if err != nil {
		return nil, err
	}
	dial, dialed := d.dial(ctx), false
	opts := d.server
	opts.Addr = address
	opts.Dialer = func(_ context.Context, network, address string) (net.Conn, error) {
		if dialed {
			return nil, errReconnect
		}
		dialed = true
		return dial(ctx, network, address)
	}
	return redis.NewClient(&opts), nil
}

// Announce publishes a message on a subject, within notify.Answer.
func (d *Driver) Announce(ctx context.Context, subject string, message []byte) error {
	ctx, cancel := context.WithTimeout(ctx, d.answer)
	defer cancel()
	client, err := d.open(ctx)
	if err != nil {
		return reason(ctx, subject, err)
	}
	defer func() { _ = client.Close() }()
	if err := client.Publish(ctx, subject, message).Err(); err != nil {
		return reason(ctx, subject, err)
	}
	return nil
}

// Run passes messages on a subject to r until ctx ends.
func (d *Driver) Run(ctx context.Context, subject string, r notify.Receiver) error {
	return notify.Reconnect(ctx, r, func(ctx context.Context, subscribed func()) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		return reason(ctx, subject, d.listen(ctx, subject, r, subscribed))
	})
}

// listen reads one connection. The channel of the library would ping every three seconds.
func (d *Driver) listen(ctx context.Context, subject string, r notify.Receiver, subscribed func()) error {
	client, err := d.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	sub := client.Subscribe(ctx)
	defer func() { _ = sub.Close() }()
	if err := sub.Subscribe(ctx, subject); err != nil {
		return err
	}
	for timeout := d.answer; ; timeout = d.idle {
		message, err := receive(ctx, sub, timeout)
		if isTimeout(err) && timeout == d.idle {
			if err := sub.Ping(ctx); err != nil {
				return err
			}
			message, err = receive(ctx, sub, d.answer)
		}
		if err != nil {
			return err
		}
		switch message := message.(type) {
		case *redis.Subscription:
			subscribed()
		case *redis.Message:
			r.Received([]byte(message.Payload))
		}
	}
}

// receive waits for the next reply. The library panics on replies of an unexpected shape.
func receive(ctx context.Context, sub *redis.PubSub, timeout time.Duration) (message any, err error) {
	defer func() {
		if recover() != nil {
			err = errReply
		}
	}()
	return sub.ReceiveTimeout(ctx, timeout)
}

var errReply = errors.New("the broker does not speak Redis's protocol")

func isTimeout(err error) bool {
	var target net.Error
	return errors.As(err, &target) && target.Timeout()
}

// reason describes an error without secrets. Of an error of the server it uses only the code:
// the rest may repeat a command with its password.
func reason(ctx context.Context, subject string, err error) error {
	var said redis.Error
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("redis: %w", ctx.Err())
	case errors.Is(err, errReply), errors.Is(err, errMaster):
		return fmt.Errorf("redis: %w", err)
	case errors.As(err, &said):
		code, _, _ := strings.Cut(said.Error(), " ")
		switch code {
		case "WRONGPASS", "NOAUTH":
			return fmt.Errorf("redis: the credentials are refused (%s)", code)
		case "NOPERM":
			return errors.New("redis: this account may not use channel " + subject + " (NOPERM)")
		case "LOADING", "MASTERDOWN", "OOM", "BUSY", "CLUSTERDOWN", "MOVED", "MISCONF":
			return fmt.Errorf("redis: the server is not ready (%s)", code)
		}
		return errors.New("redis: the server refuses")
	}
	return fmt.Errorf("redis: %w", notify.Reason(err))
}

// tune disables client identification, retries and maintenance notifications.
func tune(opts *redis.Options) {
	opts.Protocol = 2
	opts.ClientName, opts.DisableIdentity = "", true
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	opts.MaxRetries, opts.DialerRetries, opts.PipelinePoolSize = -1, 1, -1
	opts.MinIdleConns, opts.PoolSize = 0, 4
}

const (
	maxReplies    = 1 << 12 // in an array
	maxNested     = 8       // arrays in arrays: the client recurses without a limit
	maxReplyBytes = 2 << 20 // of a reply with all nested ones, which the client holds until it is complete
	replyBytes    = 32      // of memory per nested reply beside its text
)

// replies parses the lines of Redis's protocol: a bulk string announces how many bytes follow,
// an array how many replies.
type replies struct {
	left []int64 // replies to come in each open array
	size int64   // bytes that the client holds of the outermost reply
}

func (r *replies) length(line []byte) (n int64, follow bool) {
	if n, follow = r.next(line); n < 0 {
		return n, follow
	}
	if r.size += int64(len(line)) + n + replyBytes; r.size > maxReplyBytes {
		return -1, false
	}
	if len(r.left) == 0 {
		r.size = 0
	}
	return n, follow
}

func (r *replies) next(line []byte) (n int64, follow bool) {
	if len(line) == 0 {
		return 0, false
	}
	null := len(line) > 1 && line[1] == '-'
	switch line[0] {
	case '$':
		if !null {
			n, follow = notify.Decimal(line[1:]), true
		}
	case '*':
		if count := notify.Decimal(line[1:]); count > 0 && count <= maxReplies && len(r.left) < maxNested {
			r.left = append(r.left, count)
			return 0, false
		} else if count != 0 && !null {
			return -1, false
		}
	case '%', '~', '>', '|', '!', '=': // of RESP3
		return -1, false
	}
	for last := len(r.left) - 1; last >= 0; last-- {
		if r.left[last]--; r.left[last] > 0 {
			break
		}
		r.left = r.left[:last]
	}
	return n, follow
}
