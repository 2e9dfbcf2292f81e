// Package requestid identifies requests across programs, so that their log lines can be correlated.
// The id is in the X-Request-Id header, and within a program in a context.
package requestid

import (
	"context"
	"math/rand/v2"
	"strconv"
)

// Header is the header of a request and its response.
const Header = "X-Request-Id"

// New returns a random id. It is not a secret.
func New() string { return strconv.FormatUint(rand.Uint64(), 36) }

type key struct{}

// With returns a context with the id of a request.
func With(ctx context.Context, id string) context.Context { return context.WithValue(ctx, key{}, id) }

// Of returns the id of the request of ctx, "" if there is none.
func Of(ctx context.Context) string {
	id, _ := ctx.Value(key{}).(string)
	return id
}
