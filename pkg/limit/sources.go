package limit

import (
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	tableRows = 4
	tableBits = 13 // of the index of a cell
)

// Table holds a token bucket for each of any number of keys, in 256 KiB. It is a count-min
// sketch: a key shares each of its cells with other keys, and its bucket is empty when all
// its cells are. Nothing is evicted, so a flood of other keys never refills a bucket. But a
// bucket may be empty because of other keys, once thousands exceed their rate together.
type Table struct {
	seed  maphash.Seed
	began time.Time

	mu    sync.Mutex // guards cells
	cells [tableRows][1 << tableBits]time.Duration
}

// NewTable returns a table of full buckets.
func NewTable() *Table { return &Table{seed: maphash.MakeSeed(), began: time.Now()} }

// Bucket is the size and the rate of a token bucket: Burst tokens, one more every Each.
type Bucket struct {
	Burst int
	Each  time.Duration
}

// Take takes a token from a bucket, or returns the time until there is one. *full is when the
// bucket is full again, and now the current time, both since a fixed time. A zero *full is a
// full bucket.
func (b Bucket) Take(full *time.Duration, now time.Duration) (wait time.Duration) {
	next, wait := b.next(*full, now)
	if wait == 0 {
		*full = next
	}
	return wait
}

// next returns full after another token is taken, and the time until there is one.
func (b Bucket) next(full, now time.Duration) (next, wait time.Duration) {
	next = max(full, now) + b.Each
	return next, max(0, next-now-time.Duration(b.Burst)*b.Each)
}

// Source returns the network that a client's address is counted with: an IPv4 /24 or an IPv6
// /48, the usual allocation of one customer. It is the zero Prefix for an invalid address.
func Source(client netip.Addr) netip.Prefix {
	bits := 48
	if client = client.Unmap(); client.Is4() {
		bits = 24
	}
	source, _ := client.Prefix(bits) // fails only for an invalid address
	return source
}

// Key returns the key of a name at a source, which differs from Table to Table.
func (t *Table) Key(name string, source netip.Prefix) uint64 {
	var h maphash.Hash
	h.SetSeed(t.seed)
	address := source.Addr().As16()
	_, _ = h.Write(address[:])
	_, _ = h.WriteString(name)
	return h.Sum64()
}

// Take takes a token from the bucket of key, or returns the time until there is one.
func (t *Table) Take(key uint64, b Bucket) (wait time.Duration) { return t.take(key, b, true) }

// Wait is Take without taking the token.
func (t *Table) Wait(key uint64, b Bucket) (wait time.Duration) { return t.take(key, b, false) }

func (t *Table) take(key uint64, b Bucket, remove bool) (wait time.Duration) {
	now := time.Since(t.began)
	t.mu.Lock()
	defer t.mu.Unlock()
	var cells [tableRows]*time.Duration // each the time at which its bucket is full again
	full := time.Duration(1<<63 - 1)
	for i := range cells {
		cells[i] = &t.cells[i][key>>(i*tableBits)&(1<<tableBits-1)]
		full = min(full, *cells[i])
	}
	next, wait := b.next(full, now)
	if wait == 0 && remove {
		for _, cell := range cells {
			*cell = max(*cell, next)
		}
	}
	return wait
}

// Guesses limits guesses of the password of an account.
//
// Wrong credentials count per account and source. Over the limit correct ones are rejected
// too, or the response would tell which guess was right. A source from which the account was
// used before has a limit 50 times as high, so that a host with an old password does not lock
// out others behind the same address.
type Guesses struct {
	failures, atKnown *Table
	known             [1 << tableBits]atomic.Uint64 // keys, each at the index of its low bits
}

// The limits: 20 guesses a minute, and 1000 from a source that used the account before.
var (
	failures = Bucket{Burst: 20, Each: 3 * time.Second}
	atKnown  = Bucket{Burst: 1000, Each: 60 * time.Millisecond}
)

// NewGuesses returns Guesses without any count.
func NewGuesses() *Guesses { return &Guesses{failures: NewTable(), atKnown: NewTable()} }

// Right records correct credentials of an account. They must be rejected unless wait is 0.
func (g *Guesses) Right(account string, source netip.Prefix) (wait time.Duration) {
	key := g.failures.Key(account, source)
	place := &g.known[key&(1<<tableBits-1)]
	if place.Load() == key {
		return g.atKnown.Wait(key, atKnown)
	}
	if wait = g.failures.Wait(key, failures); wait == 0 {
		place.Store(key)
	}
	return wait
}

// Wrong records wrong credentials. They exceed the limit unless wait is 0.
func (g *Guesses) Wrong(account string, source netip.Prefix) (wait time.Duration) {
	key := g.failures.Key(account, source)
	if g.known[key&(1<<tableBits-1)].Load() == key {
		g.atKnown.Take(key, atKnown)
	}
	return g.failures.Take(key, failures)
}

// TooManyGuesses is the error of credentials, right or wrong, beyond the limit.
type TooManyGuesses struct {
	Of   string        // what was guessed: "passwords of this account"
	Wait time.Duration // as Guesses returned it
}

func (e *TooManyGuesses) Error() string {
	return "too many wrong " + e.Of + " came from your network; try again after the time in Retry-After"
}

// RetryAfter returns a random time from Wait to MaxRetryAfter.
func (e *TooManyGuesses) RetryAfter() time.Duration { return e.Wait + rand.N(MaxRetryAfter-e.Wait) }
