package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/archive"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/pkg/atomicfile"
	"github.com/fleetconf/fleetconf/pkg/cli"
)

// commands are the commands of the program. All but the last work on a store.
var commands = []cli.Command{
	{
		Name: "backup", Argument: "FILE",
		About: "copy the database at DB_PATH to a new file and verify the copy; a controller may be running",
	},
	{Name: "export", Argument: "[FILE]", About: "write versions, audit log and agents as JSON lines, " +
		"without credentials but with the key of the ETags; without FILE, or with -, to standard output"},
	{
		Name: "import", Argument: "[FILE]",
		About: "read exported lines into a new database; without FILE, or with -, from standard input",
	},
	cli.Health,
}

// progressInterval is the time between two progress lines of a backup.
const progressInterval = 2 * time.Second

// backup copies the database at path to a new file, and prints progress to stderr.
func backup(ctx context.Context, path, to string, stdout, stderr io.Writer) error {
	lastProgress := time.Now()
	made, err := sqlite.Backup(ctx, path, to, func(done, total int) {
		if time.Since(lastProgress) >= progressInterval {
			lastProgress = time.Now()
			_, _ = fmt.Fprintf(stderr, "%d %% of %d pages copied\n", 100*done/max(1, total), total)
		}
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "Backed up to %s and verified: version %d, agents: %d, bytes: %d\n",
		to, made.Newest, made.Agents, made.Bytes)
	return err
}

// export writes the database at path to a file, or to stdout if to is empty or "-".
func export(ctx context.Context, path, to string, stdout, stderr io.Writer) (err error) {
	snapshot, err := sqlite.OpenSnapshot(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	out := stdout
	if to != "" && to != "-" {
		file, err := atomicfile.Create(to, 0o600)
		if err != nil {
			return err
		}
		defer file.Discard()
		out = file
		defer func() {
			if err == nil {
				err = file.Commit()
			}
		}()
	}
	counts, err := archive.Write(ctx, snapshot, out)
	if err != nil {
		return fmt.Errorf("export database %s: %w", path, err)
	}
	_, err = fmt.Fprintln(stderr, "Exported", counts)
	return err
}

// importFrom fills a new database at path from a file, or from stdin if from is empty or "-".
func importFrom(ctx context.Context, path, from string, stdin io.Reader, stdout io.Writer) (err error) {
	in := stdin
	if from != "" && from != "-" {
		file, err := os.Open(from)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		in = file
	}
	db, err := sqlite.Open(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var counts archive.Counts
	err = db.Fill(ctx, func(filling *sqlite.Filling) (err error) {
		counts, err = archive.Read(ctx, in, filling)
		return err
	})
	if err != nil {
		return fmt.Errorf("import into database %s: %w; nothing was imported", path, err)
	}
	_, err = fmt.Fprintln(stdout, "Imported", counts)
	return err
}
