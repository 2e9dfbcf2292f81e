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

// Table holds a token bucket for each key, of any number of keys, in 256 KiB. It is
// a count-min sketch: a key shares each of its cells with others, and a bucket is
// empty when all cells of its key are. Nothing is ever evicted, so no flood of other
// keys refills a bucket. The price is that a bucket may be empty because of others,
// once thousands of keys exceed their rate together.
type Table struct {
	seed  maphash.Seed
	began time.Time

	mu    sync.Mutex // guards cells
	cells [tableRows][1 << tableBits]time.Duration
}

// NewTable returns a table of full buckets.
func NewTable() *Table { return &Table{seed: maphash.MakeSeed(), began: time.Now()} }

// Bucket is the size and the rate of a token bucket: Burst tokens, one of which
// comes back every Each.
type Bucket struct {
	Burst int
	Each  time.Duration
}

// Take takes a token out of a bucket that is full again at the moment full, or
// returns how long it takes until there is one. Moments are durations since any
// moment that stays the same; the zero moment is a full bucket.
func (b Bucket) Take(full *time.Duration, now time.Duration) (wait time.Duration) {
	next, wait := b.next(*full, now)
	if wait == 0 {
		*full = next
	}
	return wait
}

// next is full after another token was taken, and how long it takes until there is
// one.
func (b Bucket) next(full, now time.Duration) (next, wait time.Duration) {
	next = max(full, now) + b.Each
	return next, max(0, next-now-time.Duration(b.Burst)*b.Each)
}

// Source is the network that a client address is counted with: an IPv4 /24 or an
// IPv6 /48, which is what one customer of a provider gets.
func Source(client netip.Addr) netip.Prefix {
	bits := 48
	if client = client.Unmap(); client.Is4() {
		bits = 24
	}
	source, _ := client.Prefix(bits) // the zero Prefix where the address is unknown
	return source
}

// Key returns the key of a name at a source.
func (t *Table) Key(name string, source netip.Prefix) uint64 {
	var h maphash.Hash
	h.SetSeed(t.seed)
	address := source.Addr().As16()
	_, _ = h.Write(address[:])
	_, _ = h.WriteString(name)
	return h.Sum64()
}

// Take takes a token out of the bucket of key, or returns how long it takes until
// there is one.
func (t *Table) Take(key uint64, b Bucket) (wait time.Duration) { return t.take(key, b, true) }

// Wait is Take, but leaves the token.
func (t *Table) Wait(key uint64, b Bucket) (wait time.Duration) { return t.take(key, b, false) }

func (t *Table) take(key uint64, b Bucket, remove bool) (wait time.Duration) {
	now := time.Since(t.began)
	t.mu.Lock()
	defer t.mu.Unlock()
	var cells [tableRows]*time.Duration // each a moment at which a bucket is full again
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

// Guesses limits how often the password of an account is guessed.
//
// Wrong credentials are counted per account and source. Over the limit nobody is
// accepted there, or the answer would tell which guess was right. The exception is a
// source from which the account was used before: a host with an old password must
// not lock out the others behind the same address. There the limit is 50 times as
// high, which such hosts do not reach.
type Guesses struct {
	failures, atKnown *Table
	known             [1 << tableBits]atomic.Uint64 // keys, each in the place that its value says
}

// The most guesses: 20 a minute, and 1000 where the account was used before.
var (
	failures = Bucket{Burst: 20, Each: 3 * time.Second}
	atKnown  = Bucket{Burst: 1000, Each: 60 * time.Millisecond}
)

// NewGuesses returns Guesses that count from now on.
func NewGuesses() *Guesses { return &Guesses{failures: NewTable(), atKnown: NewTable()} }

// Right takes note of the right credentials of an account. They must be rejected
// unless wait is 0.
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

// Wrong takes note of wrong credentials. They were one guess too many unless wait
// is 0.
func (g *Guesses) Wrong(account string, source netip.Prefix) (wait time.Duration) {
	key := g.failures.Key(account, source)
	if g.known[key&(1<<tableBits-1)].Load() == key {
		g.atKnown.Take(key, atKnown)
	}
	return g.failures.Take(key, failures)
}

// TooManyGuesses is the error of a guess beyond the limit, and of the right credentials
// where it was exceeded.
type TooManyGuesses struct {
	Of   string        // what was guessed: "passwords of this account"
	Wait time.Duration // as Guesses returned it
}

func (e *TooManyGuesses) Error() string {
	return "too many wrong " + e.Of + " came from your network; try again after the time in Retry-After"
}

// RetryAfter returns the time to wait: random, from Wait to MaxRetryAfter.
func (e *TooManyGuesses) RetryAfter() time.Duration { return e.Wait + rand.N(MaxRetryAfter-e.Wait) }
