// Package cache keeps the agent's state in one file, so that a restarted agent keeps its
// identity and can configure its worker while the controller is unavailable.
//
// The file is replaced as a whole and synced, never written in place: after a crash at any
// moment it holds the old state or the new one. It holds the agent's token, hence mode
// 0600. The JSON is preceded by a line with the format's version and a SHA-256 sum, so
// that a torn, truncated or edited file is detected. Fields that a newer agent has added
// are ignored, and dropped by the next Save.
//
// Only a regular file of this user that no other user may write is read or replaced, and
// only one process at a time has it open.
package cache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/agent/internal/state"
	"github.com/fleetconf/fleetconf/pkg/atomicfile"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

const (
	magic  = "fleetconf-agent-cache"
	format = "1"
	// maxBytes bounds what is read: two configurations, an identity, and room.
	maxBytes = 64 << 10
)

// ErrBroken is the error of a file that is not a complete cache of this format.
var ErrBroken = errors.New("broken cache")

// File is the cache. It has one owner at a time: the agent's poller.
type File struct {
	path string   // with symbolic links resolved
	lock *os.File // nil if none could be made
}

// Open opens the cache at path for this process alone. The file need not exist. Symbolic
// links on the way to it are resolved once, here. The error names the file and says why
// it is refused: it is not a regular file, another user could have written it, or another
// agent has it open.
func Open(path string) (*File, error) {
	path, err := atomicfile.Resolve(path)
	if err != nil {
		return nil, fmt.Errorf("cannot be followed: %w", err)
	}
	f := &File{path: path}
	file, err := f.open()
	switch {
	case err == nil:
		_ = file.Close() // nothing was written
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.EIO): // Load and Save report a disk that fails
	default:
		return nil, err
	}
	if f.lock, err = lock(path); err != nil {
		return nil, err
	}
	return f, nil
}

// Close lets another process open the cache.
func (f *File) Close() error {
	if f.lock == nil {
		return nil
	}
	return f.lock.Close()
}

// Load returns what the file holds: the zero Stored, and no error, if there is no file.
// With an error it returns what can still be trusted, which may be nothing. Every
// configuration that it returns is valid.
func (f *File) Load() (state.Stored, error) {
	f.removeLeftovers()
	file, err := f.open()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return state.Stored{}, nil
	case err != nil:
		return state.Stored{}, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	defer func() { _ = file.Close() }() // it was only read
	stored, err := read(file)
	if err != nil {
		return stored, fmt.Errorf("read %s: %w", f.path, err)
	}
	return stored, nil
}

// Save replaces what the file holds by stored. If it returns nil, stored survives a power
// cut. After an error, the file holds what it held before, or all of stored.
func (f *File) Save(stored state.Stored) error {
	data, err := encode(stored)
	if err != nil {
		return err
	}
	if info, err := os.Lstat(f.path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("replace cache: %s is %s by now", f.path, atomicfile.Kind(info.Mode()))
	}
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the cache's folder: %w", err)
	}
	pending, err := atomicfile.Create(f.path, 0o600)
	if err != nil {
		return fmt.Errorf("create cache: %w", err)
	}
	defer pending.Discard() // does nothing once it is replaced
	if _, err := pending.Write(data); err != nil {
		return fmt.Errorf("write cache: %w", err)
	}
	if err := pending.Commit(); err != nil {
		return fmt.Errorf("replace cache: %w", err)
	}
	return nil
}

// removeLeftovers removes the temporary files of agents that were killed while they
// saved. Their names are that of the file, between a dot and digits.
func (f *File) removeLeftovers() {
	prefix := "." + filepath.Base(f.path)
	entries, err := os.ReadDir(filepath.Dir(f.path))
	if err != nil {
		return // Save reports it
	}
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), prefix)
		if ok && digits != "" && strings.Trim(digits, "0123456789") == "" && e.Type().IsRegular() {
			_ = os.Remove(filepath.Join(filepath.Dir(f.path), e.Name())) // it only takes space
		}
	}
}

func encode(stored state.Stored) ([]byte, error) {
	payload, err := wire.Encode(stored)
	if err != nil {
		return nil, err
	}
	data := append(header(payload), payload...)
	if len(data) > maxBytes {
		return nil, fmt.Errorf("state of %d bytes is larger than a cache may be", len(data))
	}
	return data, nil
}

func header(payload []byte) []byte {
	sum := sha256.Sum256(payload)
	return fmt.Appendf(nil, "%s %s %s\n", magic, format, hex.EncodeToString(sum[:]))
}

// read is Load without the file. A configuration that is not valid is left out and named
// in the error; the rest is returned.
func read(r io.Reader) (state.Stored, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	switch {
	case err != nil:
		return state.Stored{}, err
	case len(data) > maxBytes:
		return state.Stored{}, fmt.Errorf("%w: longer than %d bytes", ErrBroken, maxBytes)
	}
	line, payload, _ := bytes.Cut(data, []byte("\n"))
	fields := strings.Fields(string(line))
	switch {
	case len(fields) != 3 || fields[0] != magic:
		return state.Stored{}, fmt.Errorf("%w: it does not start with its header", ErrBroken)
	case fields[1] != format:
		return state.Stored{}, fmt.Errorf("%w: format %.20q; this build reads %s", ErrBroken, fields[1], format)
	case !bytes.HasPrefix(data, header(payload)):
		return state.Stored{}, fmt.Errorf("%w: the checksum does not match", ErrBroken)
	}
	return decode(payload)
}

// document is a state.Stored as it is read: each configuration is validated by itself.
type document struct {
	Identity   protocol.Identity `json:"identity"`
	Registered string            `json:"registered"`
	Fleet      string            `json:"fleet"`
	Candidate  *storedRelease    `json:"candidate"`
	LastGood   *storedRelease    `json:"last_good"`
}

type storedRelease struct {
	ETag      string         `json:"etag"`
	Config    jsontext.Value `json:"config"`
	FetchedAt time.Time      `json:"fetched_at"`
}

// decode reads the JSON of a state. Unknown fields are ignored, except within a
// configuration, which would then be run in part.
func decode(payload []byte) (state.Stored, error) {
	var d document
	if err := json.Unmarshal(payload, &d); err != nil {
		return state.Stored{}, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	stored := state.Stored{Identity: d.Identity, Registered: d.Registered}
	if wire.IsFleet(d.Fleet) {
		stored.Fleet = d.Fleet
	}
	var faults [3]error
	if id := stored.Identity.AgentID; id != "" {
		self := wire.RegisterRequest{Hostname: "cache", AgentID: id, AgentSecret: stored.Identity.AgentSecret}
		faults[0] = self.Validate()
	}
	if faults[0] != nil {
		stored.Identity = protocol.Identity{} // the agent registers with a new one
	}
	stored.Candidate, faults[1] = d.Candidate.release("candidate")
	stored.LastGood, faults[2] = d.LastGood.release("last good")
	return stored, errors.Join(faults[:]...)
}

// release returns a valid configuration, or why it is not valid.
func (s *storedRelease) release(name string) (*protocol.Release, error) {
	if s == nil {
		return nil, nil
	}
	config, err := wire.DecodeConfig(s.Config)
	if err != nil {
		return nil, fmt.Errorf("%s configuration: %w", name, err)
	}
	return &protocol.Release{ETag: s.ETag, Config: config, FetchedAt: s.FetchedAt}, nil
}
