package poller

import (
	"context"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/pkg/requestid"
)

// attempts are those of one loop at an exchange with a neighbour, one after the
// other. Each has an id, which the neighbour logs too.
type attempts struct {
	to  logrus.FieldLogger
	log logrus.FieldLogger // of what comes of the attempt that was begun last
}

func newAttempts(log logrus.FieldLogger) attempts { return attempts{to: log, log: log} }

// begin begins another. The id goes along in the context.
func (a *attempts) begin(ctx context.Context) context.Context {
	id := requestid.New()
	a.log = a.to.WithField("request_id", id)
	return requestid.With(ctx, id)
}
