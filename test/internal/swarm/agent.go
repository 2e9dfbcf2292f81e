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

// agent is one of a swarm. Its own goroutine alone touches it, but for the
// atomic values and the meter.
type agent struct {
	swarm *Swarm
	ctx   context.Context
	id    string
	auth  string // of Authorization

	applied   atomic.Int64 // version; 0 for none
	appliedAt atomic.Int64 // nanoseconds since the swarm began
	resting   atomic.Bool  // nothing is owed: it waits for what comes next
	meter     meter

	controller *connection // nil: none is open
	spokeAt    time.Time   // with the controller
	etag       []byte      // of the applied version
	owed       bool        // a report of it
	failures   int         // in a row
	interval   time.Duration
	sweep      time.Duration
	scratch    []byte // a request
}

var (
	errCut     = errors.New("the connection was cut")
	errNotHeld = errors.New("the controller holds no answer; it was to be one with PUSH=longpoll")
)

// refusal is an answer that the contract has no use for here.
type refusal struct {
	status int
	floor  time.Duration // Retry-After
	body   string
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

// poll asks every interval. The first one is cut short, so that agents which
// began together do not stay together.
func (a *agent) poll() {
	a.insist()
	for wait := random(a.interval); a.rest(wait); wait = jittered(a.interval) {
		a.insist()
	}
}

// longPoll asks again after each answer. The first wait is a random one, so
// that agents which began together do not stay together. What was cut is asked
// for no more; and after a failure the first answer is not to be held.
func (a *agent) longPoll() {
	a.insist()
	longest := longestWait
	for wait := time.Second + random(longestWait-time.Second); a.ctx.Err() == nil; {
		began := time.Now()
		held, err := a.turn(wait)
		if err != nil {
			if came := time.Since(began) * cutShare / 100; errors.Is(err, errCut) && came >= shortestWait {
				longest = min(longest, came)
			}
			a.recover(err)
			wait = 0
			continue
		}
		if wait = longest; !held {
			a.swarm.trouble.note(a.id, errNotHeld)
			a.rest(jittered(a.interval))
		}
	}
}

// broker is a subscription to the hints.
type broker interface {
	// open subscribes, and returns when that was confirmed.
	open() error
	// next reads what has begun to come; nil if that was no hint.
	next() ([]byte, error)
	// ping asks the broker for a sign of life, which next passes over.
	ping() error
}

// subscribe hears hints until ctx ends.
func (a *agent) subscribe() {
	for a.ctx.Err() == nil {
		a.recover(a.listen())
	}
}

// listen subscribes, fetches what was published until then, and follows the
// hints until the connection is lost.
func (a *agent) listen() error {
	c, err := a.dial(a.swarm.options.Broker)
	if err != nil {
		return err
	}
	defer a.hangUp(c)
	var b broker = &redisConn{c}
	if a.swarm.options.Transport == NATS {
		b = &natsConn{c}
	}
	if err := c.within(patience); err != nil {
		return err
	}
	if err := b.open(); err != nil {
		return cut(err)
	}
	a.sleep(random(resubscribed))
	a.insist()
	now := time.Now()
	sweepAt, pingAt := now.Add(random(swept(a.sweep))), now.Add(random(pingEvery))
	for a.ctx.Err() == nil {
		wake := earlier(sweepAt, pingAt)
		if a.controller != nil {
			wake = earlier(wake, a.spokeAt.Add(idleTimeout))
		}
		heard, err := a.await(c, wake)
		if err != nil {
			return err
		}
		if heard {
			if err := a.hear(c, b); err != nil {
				return err
			}
		}
		now := time.Now()
		if !now.Before(sweepAt) {
			a.insist()
			sweepAt = now.Add(swept(a.sweep))
		}
		if !now.Before(pingAt) {
			if err := b.ping(); err != nil {
				return cut(err)
			}
			pingAt = now.Add(pingEvery)
		}
		if a.controller != nil && time.Since(a.spokeAt) >= idleTimeout {
			a.leave()
		}
	}
	return nil
}

// await returns true when something comes over c, false when it is time to wake.
func (a *agent) await(c *connection, wake time.Time) (bool, error) {
	if err := c.SetDeadline(wake); err != nil {
		return false, cut(err)
	}
	a.resting.Store(true)
	_, err := c.in.Peek(1)
	a.resting.Store(false)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return false, c.within(patience)
	case err != nil:
		return false, cut(err)
	}
	return true, c.within(patience)
}

// hear reads a message, and fetches if it is news.
func (a *agent) hear(c *connection, b broker) error {
	message, err := b.next()
	if err != nil {
		return cut(err)
	}
	version, ok := number(message, "version")
	if !ok || version <= a.applied.Load() {
		return nil
	}
	spread, _ := number(message, "spread_ms")
	if a.sleep(random(time.Duration(spread) * time.Millisecond)) {
		a.insist()
	}
	return c.within(patience)
}

// insist takes turns until one has gone well: the controller has said what is
// current, and knows that it was applied.
func (a *agent) insist() {
	for a.ctx.Err() == nil {
		_, err := a.turn(0)
		if err == nil && !a.owed {
			break
		}
		a.recover(err)
	}
}

// turn fetches, applies what is newer, and reports it. held says that the
// answer was held, or would have been.
func (a *agent) turn(wait time.Duration) (held bool, err error) {
	if a.owed {
		return true, a.report()
	}
	answer, err := a.ask(a.fetch(wait), wait)
	if err != nil {
		return false, err
	}
	a.failures = 0
	a.interval = clamp(answer.poll, a.interval)
	a.sweep = clamp(answer.sweep, a.sweep)
	held = answer.holds
	switch answer.status {
	case 304:
		return held, nil
	case 404: // nothing was published yet
		return held, nil
	case 200:
		version, ok := number(answer.body, "version")
		if !ok {
			return held, fmt.Errorf("a configuration without a version: %.100q", answer.body)
		}
		a.etag = append(a.etag[:0], answer.etag...)
		if a.applied.Load() != version {
			a.appliedAt.Store(int64(time.Since(a.swarm.began)))
			a.applied.Store(version)
			a.owed = true
			if answer.spread > 0 { // the whole fleet fetches, and comes first
				a.sleep(answer.spread)
			}
			return true, a.report()
		}
		return held, nil
	}
	return false, answer.refused()
}

// report says that the current version was applied.
func (a *agent) report() error {
	answer, err := a.ask(a.applies(), 0)
	switch {
	case err != nil:
		return err
	case answer.status != 200 && answer.status != 204:
		return answer.refused()
	}
	a.owed = false
	return nil
}

// ask sends a request and reads the answer, which holds until the next one. It
// tries once more where a connection that was kept turns out to be closed, but
// not where an answer was being held on it: then the controller has gone.
func (a *agent) ask(request []byte, wait time.Duration) (answer, error) {
	for {
		kept := a.controller != nil
		if !kept {
			c, err := a.dial(a.swarm.options.Controller)
			if err != nil {
				return answer{}, err
			}
			a.controller = c
		}
		got, err := a.exchange(a.controller, request, wait)
		if err == nil {
			a.spokeAt = time.Now()
			if got.closes {
				a.leave()
			}
			return got, nil
		}
		a.leave()
		if wait > 0 {
			return answer{}, cut(err)
		}
		if !kept || a.ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return answer{}, err
		}
	}
}

func (a *agent) exchange(c *connection, request []byte, wait time.Duration) (answer, error) {
	// The controller may hold an answer for a 16th longer than it was asked to.
	if err := c.within(wait + wait/16 + patience); err != nil {
		return answer{}, err
	}
	if _, err := c.Write(request); err != nil {
		return answer{}, err
	}
	a.swarm.requests[a.swarm.second(time.Now())].Add(1)
	if wait > 0 {
		a.resting.Store(true)
		defer a.resting.Store(false)
		if _, err := c.in.Peek(1); err != nil {
			return answer{}, err
		}
		a.resting.Store(false)
	}
	return readAnswer(c.in)
}

// recover waits after a failure: for a random part of half a minute where
// something was awaited on a connection that was cut, as those of the whole fleet
// may have been; else longer each time, up to two poll intervals. What Retry-After
// asks for is the least of it.
func (a *agent) recover(err error) {
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
	if errors.As(err, &refused) && refused.floor > 0 {
		wait += refused.floor + random(refused.floor/10)
	} else if most := 2 * a.interval; wait > most {
		wait = random(most)
	}
	a.sleep(wait)
}

// rest waits with nothing owed. It returns false when ctx has ended.
func (a *agent) rest(d time.Duration) bool {
	a.resting.Store(true)
	defer a.resting.Store(false)
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

// connection is a socket that is measured, and a small buffer.
type connection struct {
	*net.TCPConn
	in *bufio.Reader
}

// bufferBytes holds the longest line that is read.
const bufferBytes = 1 << 10

// within says how long what follows may take.
func (c *connection) within(d time.Duration) error {
	return cut(c.SetDeadline(time.Now().Add(d)))
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

func (a *agent) hangUp(c *connection) { a.meter.remove(c.TCPConn) }

// leave closes the connection to the controller.
func (a *agent) leave() {
	if a.controller != nil {
		a.hangUp(a.controller)
		a.controller = nil
	}
}

// cut marks the error of a connection on which something was awaited.
func cut(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errCut, err)
}

// jittered is d give or take 10 %.
func jittered(d time.Duration) time.Duration { return d - d/10 + random(d/5) }

// swept is d times 1.0 to 1.5.
func swept(d time.Duration) time.Duration { return d + random(d/2) }

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// clamp is an interval that an answer named, within the contract's bounds, or
// the one that held before.
func clamp(named, held time.Duration) time.Duration {
	if named == 0 {
		return held
	}
	return min(max(named, time.Second), 24*time.Hour)
}
