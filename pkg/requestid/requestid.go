// Package requestid names what one program asks of another, so that the lines
// that it left in their logs can be found together. The name goes along in the
// X-Request-Id header; within a program it travels in a context.
package requestid

import (
	"context"
	"math/rand/v2"
	"strconv"
)

// Header carries a request's id, both ways.
const Header = "X-Request-Id"

// New makes an id. It tells requests apart, and keeps no secret.
func New() string { return strconv.FormatUint(rand.Uint64(), 36) }

type key struct{}

// With returns a context of the request that id names.
func With(ctx context.Context, id string) context.Context { return context.WithValue(ctx, key{}, id) }

// Of is the id of the request that ctx belongs to, "" if it belongs to none.
func Of(ctx context.Context) string {
	id, _ := ctx.Value(key{}).(string)
	return id
}
