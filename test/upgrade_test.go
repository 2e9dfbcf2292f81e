package test

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// unpack writes the database and the 20 caches of a controller and agents of commit
// 99900f2, when all ran version 3 of the configuration. Agents had no secrets then, and
// the database had schema 3.
func unpack(t *testing.T, dir string) {
	t.Helper()
	file, err := os.Open("testdata/upgrade.tar.gz")
	must(t, err)
	defer func() { _ = file.Close() }()
	plain, err := gzip.NewReader(file)
	must(t, err)
	for archive := tar.NewReader(plain); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		must(t, err)
		path := filepath.Join(dir, filepath.FromSlash(header.Name))
		if header.Typeflag == tar.TypeDir {
			must(t, os.Mkdir(path, 0o700))
			continue
		}
		content, err := io.ReadAll(archive)
		must(t, err)
		must(t, os.WriteFile(path, content, 0o600))
	}
}

// Agents keep their ids, tokens and versions through an upgrade of the controller and
// then of the agents, and nothing is pushed to workers.
func TestUpgrade_OldData_KeepsIdentitiesAndVersions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	unpack(t, dir)
	var pushes, version atomic.Int64
	version.Store(3)
	worker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			pushes.Add(1)
			version.Store(4)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"url":"http://target.example/%d","version":%[1]d,"instance":"i"}`, version.Load())
	}))
	t.Cleanup(worker.Close)
	controller := run(t, "controller", "DB_PATH="+filepath.Join(dir, "controller.db"))

	type agent struct {
		ID             string `json:"id"`
		AppliedVersion *int64 `json:"applied_version"`
		Status         string `json:"status"`
	}
	list := func() (ids []string, err error) {
		all, _, err := get[[]agent](admin, controller.url()+"/api/v1/agents?status=all")
		for _, a := range all {
			ids = append(ids, a.ID)
			if a.AppliedVersion == nil || *a.AppliedVersion != 3 {
				err = errors.Join(err, fmt.Errorf("agent %s runs %v, want version 3", a.ID, a.AppliedVersion))
			}
		}
		return ids, err
	}
	before, err := list()
	must(t, err)
	if len(before) != 20 {
		t.Fatalf("after the upgrade of the controller there are %d agents, want 20", len(before))
	}

	// Agents of the old build: one polls on, and is restarted, as its cache has it.
	cached, err := os.ReadFile(filepath.Join(dir, "caches", "00"))
	must(t, err)
	_, payload, _ := strings.Cut(string(cached), "\n")
	var old struct {
		Identity struct {
			ID    string `json:"agent_id"`
			Token string `json:"agent_token"`
		} `json:"identity"`
		LastGood struct{ ETag string } `json:"last_good"`
	}
	must(t, json.Unmarshal([]byte(payload), &old))
	id, token, tag := old.Identity.ID, old.Identity.Token, old.LastGood.ETag
	poll := func() {
		t.Helper()
		a, err := call(id+":"+token, "GET", controller.url()+"/api/v1/config", "", "If-None-Match: "+tag)
		must(t, err)
		if a.status != http.StatusNotModified {
			t.Errorf("a poll of the old build with %s: got %v, want 304", tag, a)
		}
	}
	poll()
	registration := fmt.Sprintf(`{"hostname":"vm","agent_id":%q}`, id)
	a, err := call(agents, "POST", controller.url()+"/api/v1/register", registration)
	must(t, err)
	if a.status != http.StatusOK || !strings.Contains(a.body, id) {
		t.Errorf("a restart of the old build: got %v, want 200 with its id", a)
	}
	poll()

	// Agents of this build, with the caches of the old one.
	caches, err := os.ReadDir(filepath.Join(dir, "caches"))
	must(t, err)
	fleet := make([]*process, len(caches))
	for i, cache := range caches {
		fleet[i] = newProcess("agent", "CACHE_FILE="+filepath.Join(dir, "caches", cache.Name()),
			"CONTROLLER_URL="+controller.url(), "WORKER_URL="+worker.URL)
		cleanUp(t, fleet[i])
	}
	must(t, all(fleet, (*process).start))
	eventually(t, func() error {
		type entry struct{ Actor, Detail string }
		entries, _, err := get[[]entry](admin, controller.url()+"/api/v1/audit?action=reregister&limit=1000")
		if err == nil && len(entries) != len(fleet)+1 {
			err = fmt.Errorf("%d re-registrations in the audit log, want one of each agent and one of the old build",
				len(entries))
		}
		return err
	})
	eventually(t, func() error {
		return all(fleet, func(p *process) error {
			s, _, err := get[status]("", p.url()+"/status")
			well := s.Registered && s.LastError == "" && slices.Contains(before, s.AgentID)
			if err == nil && (!well || *s.AppliedVersion != 3) {
				err = fmt.Errorf("got %+v, want it registered under its id, with version 3", s)
			}
			return err
		})
	})
	after, err := list()
	must(t, err)
	if !slices.Equal(before, after) {
		t.Errorf("agents: got %v, want those from before: %v", after, before)
	}
	if n := pushes.Load(); n != 0 {
		t.Errorf("%d pushes, want none", n)
	}

	// From now on each id has a secret.
	a, err = call(agents, "POST", controller.url()+"/api/v1/register", registration)
	must(t, err)
	if a.status != http.StatusConflict {
		t.Errorf("a registration of %s without its secret: got %v, want 409", id, a)
	}
	if _, err := publish(controller.url(), "http://target.example/4"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		return all(fleet, func(p *process) error {
			s, _, err := get[status]("", p.url()+"/status")
			if err == nil && *s.AppliedVersion != 4 {
				err = fmt.Errorf("got %+v, want version 4", s)
			}
			return err
		})
	})
}
