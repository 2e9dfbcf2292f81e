package poller

import (
	"context"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/pkg/requestid"
)

// attempts are the requests of one loop, one after the other. Each has an id that the
// receiver logs too.
type attempts struct {
	base logrus.FieldLogger
	log  logrus.FieldLogger // with the id of the last attempt
}

func newAttempts(log logrus.FieldLogger) attempts { return attempts{base: log, log: log} }

// begin returns the context of a new attempt, which carries its id.
func (a *attempts) begin(ctx context.Context) context.Context {
	id := requestid.New()
	a.log = a.base.WithField("request_id", id)
	return requestid.With(ctx, id)
}
