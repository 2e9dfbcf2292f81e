package api

import (
	"math"
	"slices"
	"strconv"
	"strings"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// Bounds of the number of entries on a page.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// number returns a parameter of the query as a whole number, 1 to most, or fallback if the
// query does not have it.
func number(c *call, name string, fallback, most int64) (int64, error) {
	text, ok := c.GetQuery(name)
	if !ok {
		return fallback, nil
	}
	return positive(name, text, most)
}

// positive parses a whole number, 1 to most. Its errors name field.
func positive(field, text string, most int64) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case (err != nil || n < 1) && most == math.MaxInt64:
		return 0, wire.Bad(field, "must be a whole number, 1 or more")
	case err != nil || n < 1 || n > most:
		return 0, wire.Bad(field, "must be a whole number, 1 to %d", most)
	}
	return n, nil
}

// flag returns a parameter of the query that is true or false; false if the query does not
// have it.
func flag(c *call, name string) (bool, error) {
	switch text, ok := c.GetQuery(name); {
	case !ok || text == "false":
		return false, nil
	case text == "true":
		return true, nil
	}
	return false, wire.Bad(name, "must be true or false")
}

// oneOf returns a parameter of the query that must be one of known; "" if the query does not
// have it.
func oneOf[T ~string](c *call, name string, known []T) (T, error) {
	text, ok := c.GetQuery(name)
	if !ok || slices.Contains(known, T(text)) {
		return T(text), nil
	}
	values := make([]string, len(known))
	for i, value := range known {
		values[i] = string(value)
	}
	return "", wire.Bad(name, "must be one of %s", strings.Join(values, ", "))
}
