// Package connlimit limits the open connections of an http.Server. At the limit a new
// connection replaces the one that matters least; nothing that is idle keeps others out.
package connlimit

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// reservedFiles is how many files a program may have open beside its connections:
	// the store, the log, brokers, certificates and its own requests.
	reservedFiles = 64
	// localSlots is the number of connections from this machine that are allowed beyond the
	// limit, each for localTimeout, so that a health check reaches a server that is full. A
	// connection younger than localMinAge keeps its slot, so that a local proxy cannot
	// close it before it is answered.
	localSlots   = 8
	localTimeout = 5 * time.Second
	localMinAge  = time.Second
	// warnInterval is the time between two warnings of a full table.
	warnInterval = time.Minute
)

// Max returns how many connections this process can hold below its limit of open files
// (ulimit -n), if each needs filesEach files.
func Max(filesEach int) int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return 1
	}
	return maxOf(files.Cur, filesEach)
}

func maxOf(files uint64, filesEach int) int {
	const unlimited = 1 << 30
	limit := int(min(files, unlimited))
	return max(1, (limit-min(reservedFiles, limit/2))/filesEach)
}

// Options are the limits of a Table.
type Options struct {
	Limit         int           // of open connections; at least 1
	Authenticates bool          // the server reports authenticated requests (Authenticated)
	IdleTimeout   time.Duration // of connections without an authenticated request, while Watch runs
}

// Table holds the open connections of one server, at most Options.Limit. At the limit a
// new connection replaces, in this order: the one that waited longest for a request and
// never carried an authenticated one; the one that was idle longest of those that did;
// and, if the server authenticates, the one with the oldest unauthenticated request. If
// there is none of these, the new connection is closed, unless it comes from this machine
// (localSlots).
type Table struct {
	Options
	log logrus.FieldLogger

	mu      sync.Mutex // guards the rest
	open    map[net.Conn]*conn
	waiting queue // for a request; never authenticated
	known   queue // for a request; authenticated before
	busy    queue // with a request that is not authenticated
	local   queue // beyond the limit
	warned  time.Time
	expiry  *time.Timer // nil unless Watch runs
}

// conn is an open connection.
type conn struct {
	net.Conn      // as http.Server passes it
	table         *Table
	authenticated atomic.Bool // it carried an authenticated request
	evict         *time.Timer // of one beyond the limit

	// Guarded by the lock of the table.
	since      time.Time // when it began to wait
	in         *queue
	prev, next *conn
}

// connKey is the key of a request's *conn in its context.
type connKey struct{}

// Authenticated reports to the table of r's connection that r is authenticated: the
// connection outlives Options.IdleTimeout, and is replaced after unauthenticated ones. It
// does nothing for a request of a server without a Table.
func Authenticated(r *http.Request) {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok || c.authenticated.Load() {
		return
	}
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	c.authenticated.Store(true)
	if c.in == &c.table.busy {
		c.table.busy.remove(c)
	}
}

// New returns an empty Table.
func New(o Options, log logrus.FieldLogger) *Table {
	o.Limit = max(1, o.Limit)
	return &Table{Options: o, log: log, open: map[net.Conn]*conn{}}
}

// ConnContext is the ConnContext of the http.Server: it makes room for a new connection,
// or closes it.
func (t *Table) ConnContext(ctx context.Context, nc net.Conn) context.Context {
	c := &conn{Conn: nc, table: t, since: time.Now()}
	t.mu.Lock()
	defer t.mu.Unlock()
	full := len(t.open)-t.local.length >= t.Limit
	switch {
	case !full || t.evictOldest():
		t.waiting.push(c)
	case fromThisMachine(nc) && t.freeLocal():
		t.local.push(c)
		c.evict = time.AfterFunc(localTimeout, func() { t.end(c) })
	default:
		t.warnFull()
		c.cut() // the server finds out when it reads
		return ctx
	}
	if full {
		t.warnFull()
	}
	t.open[nc] = c
	return context.WithValue(ctx, connKey{}, c)
}

// freeLocal reports whether it made room for another connection from this machine beyond
// the limit.
func (t *Table) freeLocal() bool {
	if t.local.length < localSlots {
		return true
	}
	if time.Since(t.local.oldest.since) < localMinAge {
		return false
	}
	t.close(t.local.oldest)
	return true
}

// ConnState is the ConnState of the http.Server.
func (t *Table) ConnState(nc net.Conn, state http.ConnState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.open[nc]
	if c == nil {
		return
	}
	switch state {
	case http.StateNew:
	case http.StateActive:
		if c.in == &t.local {
			return
		}
		c.leave()
		if !c.authenticated.Load() {
			t.busy.push(c)
		}
	case http.StateIdle:
		switch {
		case c.in == &t.local:
		case c.authenticated.Load():
			c.leave()
			t.known.push(c)
		default:
			c.leave()
			c.since = time.Now()
			t.waiting.push(c)
		}
	case http.StateHijacked, http.StateClosed:
		t.forget(c)
	}
}

// evictOldest reports whether it closed the connection that matters least.
func (t *Table) evictOldest() bool {
	queues := []*queue{&t.waiting, &t.known}
	if t.Authenticates {
		queues = append(queues, &t.busy)
	}
	for _, q := range queues {
		if q.oldest != nil {
			t.close(q.oldest)
			return true
		}
	}
	return false
}

// expire closes the connections that never carried an authenticated request and have been
// idle for IdleTimeout, and runs again when the next one may have been.
func (t *Table) expire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := t.IdleTimeout
	for c := t.waiting.oldest; c != nil; c = t.waiting.oldest {
		if left := t.IdleTimeout - time.Since(c.since); left > 0 {
			next = left
			break
		}
		t.close(c)
	}
	if t.expiry != nil {
		t.expiry.Reset(next)
	}
}

// Watch closes connections after Options.IdleTimeout, until stop is called.
func (t *Table) Watch() (stop func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expiry = time.AfterFunc(t.IdleTimeout, t.expire)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.expiry.Stop()
		t.expiry = nil
	}
}

func (t *Table) end(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.close(c)
}

func (t *Table) close(c *conn) {
	t.forget(c)
	c.cut()
}

func (t *Table) forget(c *conn) {
	delete(t.open, c.Conn)
	c.leave()
	if c.evict != nil {
		c.evict.Stop()
	}
}

// cut closes a connection without a TLS alert, which would block on a peer that does not
// read.
func (c *conn) cut() {
	if secure, ok := c.Conn.(*tls.Conn); ok {
		_ = secure.NetConn().Close()
		return
	}
	_ = c.Close()
}

func (t *Table) warnFull() {
	if !t.warned.IsZero() && time.Since(t.warned) < warnInterval {
		return
	}
	t.warned = time.Now()
	advice := "raise the limit of open files (ulimit -n, LimitNOFILE)"
	t.log.WithFields(logrus.Fields{"limit": t.Limit, "advice": advice}).Warn("Connection limit reached")
}

// fromThisMachine reports whether both ends of a connection are on this machine.
func fromThisMachine(nc net.Conn) bool {
	remote, ok := nc.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return false
	}
	local, ok := nc.LocalAddr().(*net.TCPAddr)
	return remote.IP.IsLoopback() || ok && local.IP.Equal(remote.IP)
}

// queue is a list of connections, in the order in which they came.
type queue struct {
	oldest, newest *conn
	length         int
}

func (q *queue) push(c *conn) {
	c.in, c.prev, c.next = q, q.newest, nil
	if q.newest != nil {
		q.newest.next = c
	} else {
		q.oldest = c
	}
	q.newest = c
	q.length++
}

func (q *queue) remove(c *conn) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		q.oldest = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		q.newest = c.prev
	}
	c.in, c.prev, c.next = nil, nil, nil
	q.length--
}

// leave removes a connection from its queue.
func (c *conn) leave() {
	if c.in != nil {
		c.in.remove(c)
	}
}
