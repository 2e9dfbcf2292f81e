package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/agent/internal/state"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

func version(v int64) state.Stored {
	release := func(v int64) *protocol.Release {
		return &protocol.Release{
			ETag:      fmt.Sprintf(`W/"v%d"`, v),
			Config:    wire.Config{Version: v, Data: wire.Data{URL: "http://target/?a=1&b=2"}, PollIntervalSeconds: 30},
			FetchedAt: time.Unix(1_700_000_000+v, 0).UTC(),
		}
	}
	return state.Stored{
		Identity:  protocol.Identity{AgentID: "agent-7", AgentToken: "tok/en+1"},
		Candidate: release(v + 1), LastGood: release(v),
	}
}

// opened returns the cache at path, open until the test ends.
func opened(t *testing.T, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func saved(t *testing.T, s state.Stored) (*File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.cache")
	f := opened(t, path)
	if err := f.Save(s); err != nil {
		t.Fatalf("Save: %v", err)
	}
	return f, path
}

func load(t *testing.T, f *File) state.Stored {
	t.Helper()
	s, err := f.Load()
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return s
}

func TestFile_SaveLoad_SameState(t *testing.T) {
	f, _ := saved(t, version(1))
	for _, want := range []state.Stored{
		version(2), {}, {Identity: version(1).Identity}, {LastGood: version(4).LastGood},
	} {
		if err := f.Save(want); err != nil {
			t.Fatalf("Save: %v", err)
		}
		if diff := cmp.Diff(want, load(t, f)); diff != "" {
			t.Errorf("state (-saved +loaded):\n%s", diff)
		}
	}
}

// Every field of a state is saved and loaded, including fields that are added later.
func TestFile_RoundTrip_EveryField(t *testing.T) {
	want := version(1)
	want.Identity.AgentSecret = strings.Repeat("s", 43)
	want.Registered, want.Fleet = "digest", "fleet-7"
	want.Candidate.Config.Data.Probe, want.LastGood.Config.Data.Probe = true, true
	filled(t, "State", reflect.ValueOf(want))
	f, _ := saved(t, want)
	if diff := cmp.Diff(want, load(t, f)); diff != "" {
		t.Errorf("state (-saved +loaded):\n%s", diff)
	}
}

// filled fails the test if a field has its zero value, which a round trip would not miss.
func filled(t *testing.T, name string, v reflect.Value) {
	t.Helper()
	switch _, isTime := v.Interface().(time.Time); {
	case v.IsZero():
		t.Errorf("%s is not set: set it in this test", name)
	case v.Kind() == reflect.Pointer:
		filled(t, name, v.Elem())
	case v.Kind() == reflect.Struct && !isTime:
		for i := range v.NumField() {
			filled(t, name+"."+v.Type().Field(i).Name, v.Field(i))
		}
	}
}

// The fleet is a part of a broker's subject, so that other text is dropped.
func TestLoad_InvalidFleet_Dropped(t *testing.T) {
	want := version(1)
	want.Fleet = "fleet.>"
	f, _ := saved(t, want)
	want.Fleet = ""
	if diff := cmp.Diff(want, load(t, f)); diff != "" {
		t.Errorf("state (-want +loaded):\n%s", diff)
	}
}

func TestLoad_NoFile_ZeroState(t *testing.T) {
	f := opened(t, filepath.Join(t.TempDir(), "none"))
	if diff := cmp.Diff(state.Stored{}, load(t, f)); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
}

func TestSave_Mode_OwnerOnly(t *testing.T) {
	f, path := saved(t, version(1))
	if err := os.Chmod(path, 0o644); err != nil { // by hand, say
		t.Fatal(err)
	}
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	if err := f.Save(version(2)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v (%v), want 0600", info.Mode(), err)
	}
}

func TestSave_NoFolder_Created(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	dir := filepath.Join(t.TempDir(), "a")
	check := func(by string) {
		t.Helper()
		for _, made := range []string{dir, filepath.Join(dir, "b")} {
			if info, err := os.Stat(made); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("%s made %s with mode %v (%v), want 0700", by, made, info.Mode(), err)
			}
		}
	}
	f := opened(t, filepath.Join(dir, "b", "agent.cache"))
	check("Open")
	must(t, os.RemoveAll(dir))
	must(t, f.Save(version(1)))
	check("Save")
	load(t, f)
}

// A state larger than Load reads is not saved.
func TestSave_TooLarge_KeepsOldState(t *testing.T) {
	f, _ := saved(t, version(1))
	large := version(2)
	large.LastGood.ETag = strings.Repeat("x", maxBytes)
	if err := f.Save(large); err == nil {
		t.Error("Save: got no error")
	}
	if diff := cmp.Diff(version(1), load(t, f)); diff != "" {
		t.Errorf("state (-before +after):\n%s", diff)
	}
}

func TestSave_Unwritable_Fails(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"its folder is a file": filepath.Join(dir, "file", "agent.cache"),
		"it is a folder":       dir,
		"nothing may be there": "/proc/agent.cache",
	} {
		t.Run(name, func(t *testing.T) {
			if err := (&File{path: path}).Save(version(1)); err == nil {
				t.Error("Save: got no error")
			}
		})
	}
	if entries, _ := os.ReadDir(filepath.Dir(dir)); len(entries) != 1 {
		t.Errorf("%d entries beside the folder, want 1: what was not replaced is removed", len(entries))
	}
}

func TestSave_FullDisk_KeepsOldState(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"); err != nil {
		t.Skipf("cannot mount a small disk: %v", err)
	}
	defer func() { _ = syscall.Unmount(dir, 0) }()
	f := opened(t, filepath.Join(dir, "agent.cache"))
	defer func() { _ = f.Close() }() // before the disk is unmounted
	if err := f.Save(version(1)); err != nil {
		t.Fatalf("Save: %v", err)
	}
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 64<<10), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	if err := f.Save(version(2)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Save on a full disk: got %v, want no space left", err)
	}
	if diff := cmp.Diff(version(1), load(t, f)); diff != "" {
		t.Errorf("state (-before +after):\n%s", diff)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := f.Save(version(3)); err != nil {
		t.Errorf("Save with room again: %v", err)
	}
}

func TestLoad_Unreadable_Fails(t *testing.T) {
	f, path := saved(t, version(1))
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	if s, err := f.Load(); err == nil || s != (state.Stored{}) {
		t.Errorf("got %+v and %v, want an error and nothing else", s, err)
	}
}

func TestLoad_NotAFile_Refused(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, fifo, "/dev/zero"} {
		if s, err := (&File{path: path}).Load(); !errors.Is(err, ErrBroken) || s != (state.Stored{}) {
			t.Errorf("%s: got %+v and %v, want ErrBroken and nothing else", path, s, err)
		}
	}
	if _, err := (&File{path: filepath.Join(fifo, "below")}).Load(); err == nil {
		t.Error("below a file: got no error")
	}
}

// A file that is truncated anywhere, or has any flipped bit, is not used.
func TestLoad_TornFile_Refused(t *testing.T) {
	f, path := saved(t, version(1))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, document []byte, words string) {
		t.Helper()
		if err := os.WriteFile(path, document, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := f.Load()
		if !errors.Is(err, ErrBroken) || s != (state.Stored{}) {
			t.Errorf("%s: got %+v and %v, want ErrBroken and nothing else", what, s, err)
		} else if !strings.Contains(err.Error(), words) {
			t.Errorf("%s: error %q does not say %q", what, err, words)
		}
	}
	for cut := range whole {
		check(fmt.Sprintf("cut at %d", cut), whole[:cut], "")
	}
	for at := range whole {
		flipped := bytes.Clone(whole)
		flipped[at] ^= 1
		check(fmt.Sprintf("bit flipped at %d", at), flipped, "")
	}
	check("more behind it", append(bytes.Clone(whole), '\n'), "the checksum does not match")
	check("too long", append(bytes.Clone(whole), make([]byte, maxBytes)...), "longer than 65536 bytes")
	check(
		"another format", bytes.Replace(whole, []byte(magic+" 1"), []byte(magic+" 0"), 1),
		`format "0"; this build reads 1`,
	)
	check(
		"another program's", bytes.Replace(whole, []byte(magic), []byte("magic"), 1), "does not start with its header",
	)
	check("JSON without a header", whole[bytes.IndexByte(whole, '\n')+1:], "does not start with its header")
}

// A file that is longer than a cache is not read to its end.
func TestRead_EndlessFile_Bounded(t *testing.T) {
	endless := io.MultiReader(bytes.NewReader(make([]byte, maxBytes+1)), iotest.ErrReader(errors.New("read further")))
	if _, err := read(endless); !errors.Is(err, ErrBroken) {
		t.Errorf("got %v, want ErrBroken", err)
	}
}

func TestLoad_BadConfiguration_DroppedAndNamed(t *testing.T) {
	bad := version(1)
	bad.Candidate.Config.Data.URL = "file:///etc/passwd"
	f, _ := saved(t, bad)
	got, err := f.Load()
	if err == nil || !strings.Contains(err.Error(), "candidate configuration: data.url") {
		t.Errorf("error %v does not name the field", err)
	}
	want := version(1)
	want.Candidate = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("state (-want +got): what is well must stay:\n%s", diff)
	}
}

func TestLoad_BadIdentity_Dropped(t *testing.T) {
	for _, identity := range []protocol.Identity{
		{AgentID: "a:b", AgentToken: "token"}, {AgentID: "agent-7", AgentToken: "token", AgentSecret: "short"},
	} {
		bad := version(1)
		bad.Identity = identity
		f, _ := saved(t, bad)
		got, err := f.Load()
		if err == nil || got.Identity != (protocol.Identity{}) || got.LastGood == nil {
			t.Errorf("got %+v and %v, want no identity, an error, and the configuration", got, err)
		}
	}
}

func TestLoad_LeftoverTempFiles_Removed(t *testing.T) {
	f, path := saved(t, version(1))
	dir := filepath.Dir(path)
	for _, name := range []string{
		".agent.cache12345", ".agent.cache", ".agent.cache12x", "agent.cache1", ".other.cache1",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	must(t, os.Mkdir(filepath.Join(dir, ".agent.cache6"), 0o700))
	load(t, f)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{
		".agent.cache", ".agent.cache12x", ".agent.cache6", ".other.cache1", "agent.cache", "agent.cache.lock",
		"agent.cache1",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// A process that saves 1, 2, 3… is killed many times. The file always holds one of them
// completely, and never an older one than the process said was saved.
func TestSave_KilledAtAnyMoment_OldOrNewState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.cache")
	if os.Getenv("CACHE_TEST_SAVE") != "" {
		t.Skip("this is the child")
	}
	for round := range 20 {
		child := exec.Command(os.Args[0], "-test.run=^TestSave_Child$")
		child.Env = append(os.Environ(), "CACHE_TEST_SAVE="+path)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		var safe int64
		if _, err := fmt.Fscanln(out, &safe); err != nil {
			t.Fatalf("round %d: the child said nothing: %v", round, err)
		}
		time.Sleep(time.Duration(round) * 700 * time.Microsecond)
		_ = child.Process.Kill()
		for { // what it printed before it was killed
			var n int64
			if _, err := fmt.Fscanln(out, &n); err != nil {
				break
			}
			safe = n
		}
		_ = child.Wait()
		got := load(t, &File{path: path}).LastGood.Config.Version
		if got < safe || got > safe+1 {
			t.Errorf("round %d: cache holds %d, the child said that %d is safe", round, got, safe)
		}
	}
}

func TestSave_Child(t *testing.T) {
	path := os.Getenv("CACHE_TEST_SAVE")
	if path == "" {
		t.Skip("only as a child of TestSave_KilledAtAnyMoment_OldOrNewState")
	}
	f := &File{path: path}
	for v := int64(1); ; v++ {
		if err := f.Save(version(v)); err != nil {
			t.Fatal(err)
		}
		fmt.Println(v)
	}
}

func FuzzRead(f *testing.F) {
	for _, s := range []state.Stored{{}, version(1), {Identity: version(1).Identity}} {
		document, err := encode(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(document)
		f.Add(document[:len(document)/2])
	}
	for _, payload := range []string{
		"", "{}", "null", "[]", `{"identity":{"agent_id":"a:b"}}`, `{"last_good":{"etag":"","config":{"version":1}}}`,
		`{"surplus":1}`, "{}{}",
	} {
		f.Add(append(header([]byte(payload)), payload...))
	}
	f.Add([]byte(magic + " 2 00\n{}"))
	f.Fuzz(func(t *testing.T, document []byte) {
		// As it is, and with a matching sum, which the fuzzer would not find.
		for _, d := range [][]byte{document, append(header(document), document...)} {
			got, err := read(bytes.NewReader(d))
			for _, r := range []*protocol.Release{got.Candidate, got.LastGood} {
				if r != nil && r.Config.Validate() != nil {
					t.Fatalf("gave a configuration that must not run: %+v", r)
				}
			}
			if err != nil {
				continue
			}
			again, err := encode(got)
			if err != nil {
				t.Fatalf("what was read cannot be written: %v", err)
			}
			back, err := read(bytes.NewReader(again))
			if err != nil || !cmp.Equal(got, back) {
				t.Fatalf("wrote %+v, read %+v (%v)", got, back, err)
			}
		}
	})
}
