package api

import (
	"math"
	"slices"
	"strconv"
	"strings"

	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// The most entries of a list, and how many there are where nobody says.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// number reads a whole number from the query, 1 to most; fallback where it is
// not there.
func number(c *call, name string, fallback, most int64) (int64, error) {
	text, ok := c.GetQuery(name)
	if !ok {
		return fallback, nil
	}
	return positive(name, text, most)
}

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

// flag reads true or false from the query; false where it is not there.
func flag(c *call, name string) (bool, error) {
	switch text, ok := c.GetQuery(name); {
	case !ok || text == "false":
		return false, nil
	case text == "true":
		return true, nil
	}
	return false, wire.Bad(name, "must be true or false")
}

// oneOf reads one of the known words from the query; "" where it is not there.
func oneOf[T ~string](c *call, name string, known []T) (T, error) {
	text, ok := c.GetQuery(name)
	if !ok || slices.Contains(known, T(text)) {
		return T(text), nil
	}
	words := make([]string, len(known))
	for i, word := range known {
		words[i] = string(word)
	}
	return "", wire.Bad(name, "must be one of %s", strings.Join(words, ", "))
}
