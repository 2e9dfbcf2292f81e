package swarm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// agent is one simulated agent. Only its own goroutine uses it, except the atomic
// values and the meter.
type agent struct {
	swarm *Swarm
	ctx   context.Context
	id    string
	auth  string // of Authorization

	applied   atomic.Int64 // version; 0 for none
	appliedAt atomic.Int64 // nanoseconds since the swarm began
	waiting   atomic.Bool  // no report is pending: it waits for the next version
	meter     meter

	controller    *connection // nil: none is open
	lastUsed      time.Time   // with the controller
	etag          []byte      // of the applied version
	reportPending bool        // of the applied version
	failures      int         // in a row
	interval      time.Duration
	resync        time.Duration
	scratch       []byte // a request
}

var (
	errCut        = errors.New("the connection was cut")
	errNoLongPoll = errors.New("the controller does not long-poll; start it with PUSH=longpoll")
)

// refusal is a response with an error status.
type refusal struct {
	status     int
	retryAfter time.Duration // Retry-After
	body       string
}

func (r *refusal) Error() string { return fmt.Sprintf("answered %d %s", r.status, r.body) }

func (a *agent) run() {
	switch a.swarm.options.Transport {
	case LongPoll:
		a.longPoll()
	case Redis, NATS:
		a.subscribe()
	default:
		a.poll()
	}
}

// poll polls every interval. The first interval is a random part, so that agents that
// begin together spread.
func (a *agent) poll() {
	a.pollUntilSynced()
	for wait := random(a.interval); a.waitIdle(wait); wait = jittered(a.interval) {
		a.pollUntilSynced()
	}
}

// longPoll polls again after each response. The first wait is random, so that agents
// that begin together spread. It shortens waits that were cut, and polls without a
// wait after a failure.
func (a *agent) longPoll() {
	a.pollUntilSynced()
	longest := longestWait
	for wait := time.Second + random(longestWait-time.Second); a.ctx.Err() == nil; {
		began := time.Now()
		canWait, err := a.pollOnce(wait)
		if err != nil {
			if came := time.Since(began) * cutShare / 100; errors.Is(err, errCut) && came >= shortestWait {
				longest = min(longest, came)
			}
			a.backOff(err)
			wait = 0
			continue
		}
		if wait = longest; !canWait {
			a.swarm.trouble.note(a.id, errNoLongPoll)
			a.waitIdle(jittered(a.interval))
		}
	}
}

// broker is a subscription to the hints.
type broker interface {
	// open subscribes, and returns when that is confirmed.
	open() error
	// next reads the message that has begun to arrive; nil if it is not a hint.
	next() ([]byte, error)
	// ping sends a ping. next skips its response.
	ping() error
}

// subscribe follows hints until ctx ends.
func (a *agent) subscribe() {
	for a.ctx.Err() == nil {
		a.backOff(a.listen())
	}
}

// listen subscribes, fetches the current version, and follows hints until the
// connection is lost.
func (a *agent) listen() error {
	c, err := a.dial(a.swarm.options.Broker)
	if err != nil {
		return err
	}
	defer a.closeConnection(c)
	var b broker = &redisConn{c}
	if a.swarm.options.Transport == NATS {
		b = &natsConn{c}
	}
	if err := c.setTimeout(answerTimeout); err != nil {
		return err
	}
	if err := b.open(); err != nil {
		return wrapCut(err)
	}
	a.sleep(random(subscribeDelay))
	a.pollUntilSynced()
	now := time.Now()
	resyncAt, pingAt := now.Add(random(resyncWait(a.resync))), now.Add(random(pingEvery))
	for a.ctx.Err() == nil {
		wake := earlier(resyncAt, pingAt)
		if a.controller != nil {
			wake = earlier(wake, a.lastUsed.Add(idleTimeout))
		}
		received, err := a.await(c, wake)
		if err != nil {
			return err
		}
		if received {
			if err := a.receive(c, b); err != nil {
				return err
			}
		}
		now := time.Now()
		if !now.Before(resyncAt) {
			a.pollUntilSynced()
			resyncAt = now.Add(resyncWait(a.resync))
		}
		if !now.Before(pingAt) {
			if err := b.ping(); err != nil {
				return wrapCut(err)
			}
			pingAt = now.Add(pingEvery)
		}
		if a.controller != nil && time.Since(a.lastUsed) >= idleTimeout {
			a.disconnect()
		}
	}
	return nil
}

// await returns true when data arrives over c, and false at the time wake.
func (a *agent) await(c *connection, wake time.Time) (bool, error) {
	if err := c.SetDeadline(wake); err != nil {
		return false, wrapCut(err)
	}
	a.waiting.Store(true)
	_, err := c.in.Peek(1)
	a.waiting.Store(false)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return false, c.setTimeout(answerTimeout)
	case err != nil:
		return false, wrapCut(err)
	}
	return true, c.setTimeout(answerTimeout)
}

// receive reads a message, and fetches if it is a hint for a newer version.
func (a *agent) receive(c *connection, b broker) error {
	message, err := b.next()
	if err != nil {
		return wrapCut(err)
	}
	version, ok := number(message, "version")
	if !ok || version <= a.applied.Load() {
		return nil
	}
	spread, _ := number(message, "spread_ms")
	if a.sleep(random(time.Duration(spread) * time.Millisecond)) {
		a.pollUntilSynced()
	}
	return c.setTimeout(answerTimeout)
}

// pollUntilSynced polls and reports until the agent runs the current version and the
// controller has acknowledged the report.
func (a *agent) pollUntilSynced() {
	for a.ctx.Err() == nil {
		_, err := a.pollOnce(0)
		if err == nil && !a.reportPending {
			break
		}
		a.backOff(err)
	}
}

// pollOnce fetches, applies a newer version, and reports it. canWait reports whether the
// controller supports the wait.
func (a *agent) pollOnce(wait time.Duration) (canWait bool, err error) {
	if a.reportPending {
		return true, a.report()
	}
	answer, err := a.send(a.pollRequest(wait), wait)
	if err != nil {
		return false, err
	}
	a.failures = 0
	a.interval = clamp(answer.poll, a.interval)
	a.resync = clamp(answer.resync, a.resync)
	canWait = answer.canWait
	switch answer.status {
	case 304:
		return canWait, nil
	case 404: // nothing was published yet
		return canWait, nil
	case 200:
		version, ok := number(answer.body, "version")
		if !ok {
			return canWait, fmt.Errorf("a configuration without a version: %.100q", answer.body)
		}
		a.etag = append(a.etag[:0], answer.etag...)
		if a.applied.Load() != version {
			a.appliedAt.Store(int64(time.Since(a.swarm.began)))
			a.applied.Store(version)
			a.reportPending = true
			if answer.spread > 0 { // the whole fleet fetches, and reports come later
				a.sleep(answer.spread)
			}
			return true, a.report()
		}
		return canWait, nil
	}
	return false, answer.asRefusal()
}

// report reports the current version as applied.
func (a *agent) report() error {
	answer, err := a.send(a.reportRequest(), 0)
	switch {
	case err != nil:
		return err
	case answer.status != 200 && answer.status != 204:
		return answer.asRefusal()
	}
	a.reportPending = false
	return nil
}

// send sends a request and reads the response, which is valid until the next one. It
// retries once if a kept connection turns out to be closed, but not for a long poll:
// then the controller has gone.
func (a *agent) send(request []byte, wait time.Duration) (answer, error) {
	for {
		kept := a.controller != nil
		if !kept {
			c, err := a.dial(a.swarm.options.Controller)
			if err != nil {
				return answer{}, err
			}
			a.controller = c
		}
		got, err := a.roundTrip(a.controller, request, wait)
		if err == nil {
			a.lastUsed = time.Now()
			if got.closes {
				a.disconnect()
			}
			return got, nil
		}
		a.disconnect()
		if wait > 0 {
			return answer{}, wrapCut(err)
		}
		if !kept || a.ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return answer{}, err
		}
	}
}

func (a *agent) roundTrip(c *connection, request []byte, wait time.Duration) (answer, error) {
	// The controller may wait for a 16th longer than requested.
	if err := c.setTimeout(wait + wait/16 + answerTimeout); err != nil {
		return answer{}, err
	}
	if _, err := c.Write(request); err != nil {
		return answer{}, err
	}
	a.swarm.requests[a.swarm.second(time.Now())].Add(1)
	if wait > 0 {
		a.waiting.Store(true)
		defer a.waiting.Store(false)
		if _, err := c.in.Peek(1); err != nil {
			return answer{}, err
		}
		a.waiting.Store(false)
	}
	return readAnswer(c.in)
}

// backOff waits after a failure: for a random part of half a minute if a long poll was
// cut, since that may concern the whole fleet; else longer each time, up to two poll
// intervals, and at least as long as Retry-After says.
func (a *agent) backOff(err error) {
	if a.ctx.Err() != nil || err == nil {
		return
	}
	a.swarm.trouble.note(a.id, err)
	if errors.Is(err, errCut) {
		a.failures = 0
		a.sleep(random(a.swarm.options.CutSpread))
		return
	}
	wait := random(min(retryFirst<<min(a.failures, 10), retryLimit))
	a.failures++
	var refused *refusal
	if errors.As(err, &refused) && refused.retryAfter > 0 {
		wait += refused.retryAfter + random(refused.retryAfter/10)
	} else if most := 2 * a.interval; wait > most {
		wait = random(most)
	}
	a.sleep(wait)
}

// waitIdle waits without a pending report. It returns false when ctx has ended.
func (a *agent) waitIdle(d time.Duration) bool {
	a.waiting.Store(true)
	defer a.waiting.Store(false)
	return a.sleep(d)
}

// sleep returns true after d, or false when ctx ends.
func (a *agent) sleep(d time.Duration) bool {
	if d <= 0 {
		return a.ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-a.ctx.Done():
		return false
	}
}

// connection is a measured socket with a small buffer.
type connection struct {
	*net.TCPConn
	in *bufio.Reader
}

// bufferBytes holds the longest line that is read.
const bufferBytes = 1 << 10

// setTimeout sets the deadline of what follows.
func (c *connection) setTimeout(d time.Duration) error {
	return wrapCut(c.SetDeadline(time.Now().Add(d)))
}

func (a *agent) dial(address string) (*connection, error) {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: -1}
	if a.swarm.options.Transport == None {
		dialer.KeepAlive = keepAlive
	}
	c, err := dialer.DialContext(a.ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn := &connection{c.(*net.TCPConn), bufio.NewReaderSize(c, bufferBytes)}
	a.meter.add(conn.TCPConn)
	return conn, nil
}

func (a *agent) closeConnection(c *connection) { a.meter.remove(c.TCPConn) }

// disconnect closes the connection to the controller.
func (a *agent) disconnect() {
	if a.controller != nil {
		a.closeConnection(a.controller)
		a.controller = nil
	}
}

// wrapCut marks the error of a connection that waited for data.
func wrapCut(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errCut, err)
}

// jittered returns d ±10 %.
func jittered(d time.Duration) time.Duration { return d - d/10 + random(d/5) }

// resyncWait returns d times 1.0 to 1.5.
func resyncWait(d time.Duration) time.Duration { return d + random(d/2) }

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// clamp returns the interval of a response, within the contract's bounds, or the
// previous one if it names none.
func clamp(named, before time.Duration) time.Duration {
	if named == 0 {
		return before
	}
	return min(max(named, time.Second), 24*time.Hour)
}
