package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/fleetconf/fleetconf/controller/internal/database/sqlstore"
)

// Filling is what DB.Fill fills a store with.
type Filling = sqlstore.Filling

// ErrNotEmpty is the error of DB.Fill for a store that is not empty.
var ErrNotEmpty = sqlstore.ErrNotEmpty

// OpenSnapshot opens the store in the file at path, which a controller may have open.
// The caller closes the snapshot.
func OpenSnapshot(ctx context.Context, path string) (*sqlstore.Snapshot, error) {
	s, err := openSnapshot(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, explain(err))
	}
	return s, nil
}

func openSnapshot(ctx context.Context, path string) (*sqlstore.Snapshot, error) {
	db, err := openToRead(ctx, path)
	if err != nil {
		return nil, err
	}
	var tx *sql.Tx
	schema, newest, err := schemas(ctx, db)
	if err == nil && schema < newest {
		err = fmt.Errorf("its schema is version %d and that of this build is %d; "+
			"start this controller on it once, to migrate it", schema, newest)
	}
	if err == nil {
		tx, err = db.BeginTx(ctx, nil)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return sqlstore.NewSnapshot(tx, explain, db.Close), nil
}
