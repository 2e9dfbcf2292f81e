// Package cache keeps the agent's state in one file, so that a restarted agent
// is the same agent and can feed its worker while the controller is away.
//
// The file is replaced as a whole and synced, never written in place: after a
// crash at any moment it is the old state or the new one. It holds the agent's
// token, hence mode 0600. A line with the format's version and a SHA-256 sum
// stands before the JSON, so that a torn, cut or edited file is seen for what
// it is.
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

	"github.com/google/renameio/v2"

	"github.com/fleetconf/fleetconf/agent/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

const (
	magic  = "fleetconf-agent-cache"
	format = "1"
	// maxBytes bounds what is read: two configurations, an identity, and room.
	maxBytes = 64 << 10
)

// ErrBroken is the error of a file that is not, or not wholly, a cache of this
// format.
var ErrBroken = errors.New("broken cache")

// File is the cache. It has one owner at a time: the agent's poller.
type File struct {
	path string
}

// New returns the cache at path. The file need not exist.
func New(path string) *File { return &File{path: path} }

// Load returns what the file holds: the zero State, and no error, if there is
// no file. With an error the State holds what can still be trusted, which may
// be nothing; it is never one that must not be run.
func (f *File) Load() (models.State, error) {
	f.sweep()
	// A FIFO or a device would block, or never end.
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return models.State{}, nil
	case err != nil:
		return models.State{}, fmt.Errorf("look at cache: %w", err)
	case !info.Mode().IsRegular():
		return models.State{}, fmt.Errorf("%w: %s is not a regular file", ErrBroken, f.path)
	}
	file, err := os.Open(f.path)
	if err != nil {
		return models.State{}, fmt.Errorf("open cache: %w", err)
	}
	defer func() { _ = file.Close() }() // it was only read
	state, err := read(file)
	if err != nil {
		return state, fmt.Errorf("read %s: %w", f.path, err)
	}
	return state, nil
}

// Save replaces what the file holds by state. When it returns nil, state
// outlives a power cut; when it returns an error, the file holds what it held
// before, or all of state: never a part.
func (f *File) Save(state models.State) error {
	document, err := encode(state)
	if err != nil {
		return err
	}
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the cache's folder: %w", err)
	}
	pending, err := renameio.NewPendingFile(f.path, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return fmt.Errorf("create cache: %w", err)
	}
	defer func() { _ = pending.Cleanup() }() // does nothing once it is replaced
	if _, err := pending.Write(document); err != nil {
		return fmt.Errorf("write cache: %w", err)
	}
	if err := pending.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("replace cache: %w", err)
	}
	return syncDir(dir)
}

// syncDir makes a rename within dir outlive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open the cache's folder: %w", err)
	}
	defer func() { _ = d.Close() }() // it was only read
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync the cache's folder: %w", err)
	}
	return nil
}

// sweep removes what an agent that was killed while it saved has left: the
// file's own name with a dot before it and digits behind.
func (f *File) sweep() {
	prefix := "." + filepath.Base(f.path)
	entries, err := os.ReadDir(filepath.Dir(f.path))
	if err != nil {
		return // Save will meet the same and say so
	}
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), prefix)
		if ok && digits != "" && strings.Trim(digits, "0123456789") == "" && e.Type().IsRegular() {
			_ = os.Remove(filepath.Join(filepath.Dir(f.path), e.Name())) // it only takes room
		}
	}
}

func encode(state models.State) ([]byte, error) {
	payload, err := wire.Encode(state)
	if err != nil {
		return nil, err
	}
	document := append(header(payload), payload...)
	if len(document) > maxBytes {
		return nil, fmt.Errorf("state of %d bytes is larger than a cache may be", len(document))
	}
	return document, nil
}

func header(payload []byte) []byte {
	sum := sha256.Sum256(payload)
	return fmt.Appendf(nil, "%s %s %s\n", magic, format, hex.EncodeToString(sum[:]))
}

// read is Load without the file. A configuration that this build would not run
// is left out and named in the error; the rest stands.
func read(r io.Reader) (models.State, error) {
	document, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	switch {
	case err != nil:
		return models.State{}, err
	case len(document) > maxBytes:
		return models.State{}, fmt.Errorf("%w: longer than %d bytes", ErrBroken, maxBytes)
	}
	line, payload, _ := bytes.Cut(document, []byte("\n"))
	words := strings.Fields(string(line))
	switch {
	case len(words) != 3 || words[0] != magic:
		return models.State{}, fmt.Errorf("%w: it does not begin as one", ErrBroken)
	case words[1] != format:
		return models.State{}, fmt.Errorf("%w: format %.20q; this build reads %s", ErrBroken, words[1], format)
	case !bytes.HasPrefix(document, header(payload)):
		return models.State{}, fmt.Errorf("%w: the checksum does not fit", ErrBroken)
	}
	state, err := wire.Decode[models.State](payload)
	if err != nil {
		return models.State{}, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	if id := state.Identity.AgentID; id != "" {
		err = wire.RegisterRequest{Hostname: "cache", AgentID: id}.Validate()
		if err != nil {
			state.Identity = models.Identity{}
		}
	}
	return state, errors.Join(
		err,
		judge("candidate", &state.Candidate),
		judge("last good", &state.LastGood),
	)
}

// judge empties a slot whose configuration must not be run.
func judge(name string, slot **models.Release) error {
	if *slot == nil {
		return nil
	}
	err := (*slot).Config.Validate()
	if err == nil {
		return nil
	}
	*slot = nil
	return fmt.Errorf("%s configuration: %w", name, err)
}
