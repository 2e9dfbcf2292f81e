package server

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
	// the store, log, brokers, certificates and what it asks others.
	reservedFiles = 64
	// localSlots are the connections beyond the limit that are for this machine, each
	// for localTimeout: a supervisor can ask for the health of a server that is full.
	// One that is younger than localMinAge keeps its slot, so that a local proxy's next
	// ones cannot close it before its answer.
	localSlots   = 8
	localTimeout = 5 * time.Second
	localMinAge  = time.Second
	// warnInterval is how often a full table is worth a warning.
	warnInterval = time.Minute
)

// MaxConnections returns how many connections this process can hold below its limit
// of open files (ulimit -n), where each needs that many files.
func MaxConnections(filesEach int) int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return 1
	}
	return maxConnections(files.Cur, filesEach)
}

func maxConnections(files uint64, filesEach int) int {
	const most = 1 << 30 // also where there is no limit
	limit := int(min(files, most))
	return max(1, (limit-min(reservedFiles, limit/2))/filesEach)
}

// table has the open connections of a server. There are at most limit: one that
// comes when there are as many takes the place of another, in this order: the one
// that waited longest for a request and never carried an authenticated one; the
// one that was idle longest of those that did; and, where the server knows callers
// (authenticates), the one whose unauthenticated request is the oldest. Where there
// is none of these, the new one is closed, unless it comes from this machine
// (localSlots).
type table struct {
	limit         int
	authenticates bool
	log           logrus.FieldLogger

	mu      sync.Mutex
	open    map[net.Conn]*conn
	waiting queue // for a request; never authenticated
	known   queue // for a request; authenticated before
	busy    queue // with a request that is not authenticated
	local   queue // beyond limit
	warned  time.Time
	expiry  *time.Timer
}

// conn is an open connection.
type conn struct {
	net.Conn      // as the server has it
	table         *table
	authenticated atomic.Bool // it carried an authenticated request
	evict         *time.Timer // of one beyond the limit

	// Under the lock of the table.
	since      time.Time // it waits
	in         *queue
	prev, next *conn
}

// connKey is the key of a request's *conn in its context.
type connKey struct{}

// Authenticated notes that a request is its caller's own: its connection is
// kept while it is idle for as long as Limits.Keep, and is closed after others when
// there are too many.
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

func newTable(limit int, authenticates bool, log logrus.FieldLogger) *table {
	return &table{limit: max(1, limit), authenticates: authenticates, log: log, open: map[net.Conn]*conn{}}
}

// admit is the server's ConnContext: it makes room for a connection that is new, or
// closes it.
func (t *table) admit(ctx context.Context, nc net.Conn) context.Context {
	c := &conn{Conn: nc, table: t, since: time.Now()}
	t.mu.Lock()
	defer t.mu.Unlock()
	full := len(t.open)-t.local.length >= t.limit
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

// freeLocal makes room for one more connection from this machine beyond the limit, and
// reports whether it could.
func (t *table) freeLocal() bool {
	if t.local.length < localSlots {
		return true
	}
	if time.Since(t.local.oldest.since) < localMinAge {
		return false
	}
	t.close(t.local.oldest)
	return true
}

// changed is the server's ConnState.
func (t *table) changed(nc net.Conn, state http.ConnState) {
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

// evictOldest closes the connection that is missed least, if there is one that may
// be closed.
func (t *table) evictOldest() bool {
	queues := []*queue{&t.waiting, &t.known}
	if t.authenticates {
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

// expire closes the connections that never carried an authenticated request and
// are idle for IdleTimeout, and comes back when the next may be.
func (t *table) expire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := IdleTimeout
	for c := t.waiting.oldest; c != nil; c = t.waiting.oldest {
		if left := IdleTimeout - time.Since(c.since); left > 0 {
			next = left
			break
		}
		t.close(c)
	}
	if t.expiry != nil {
		t.expiry.Reset(next)
	}
}

// watch has connections expire until the function that it returns is called.
func (t *table) watch() (stop func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expiry = time.AfterFunc(IdleTimeout, t.expire)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.expiry.Stop()
		t.expiry = nil
	}
}

func (t *table) end(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.close(c)
}

func (t *table) close(c *conn) {
	t.forget(c)
	c.cut()
}

func (t *table) forget(c *conn) {
	delete(t.open, c.Conn)
	c.leave()
	if c.evict != nil {
		c.evict.Stop()
	}
}

// cut closes a connection without a TLS alert: a peer that does not read would make
// the alert wait.
func (c *conn) cut() {
	if secure, ok := c.Conn.(*tls.Conn); ok {
		_ = secure.NetConn().Close()
		return
	}
	_ = c.Close()
}

func (t *table) warnFull() {
	if !t.warned.IsZero() && time.Since(t.warned) < warnInterval {
		return
	}
	t.warned = time.Now()
	advice := "raise the limit of open files (ulimit -n, LimitNOFILE)"
	t.log.WithFields(logrus.Fields{"limit": t.limit, "advice": advice}).Warn("Connection limit reached")
}

// fromThisMachine reports whether both ends of a connection are here.
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

// leave takes a connection out of the queue that it is in.
func (c *conn) leave() {
	if c.in != nil {
		c.in.remove(c)
	}
}
