// Package query reads parameters of a URL's query. Its errors are *models.Invalid, and name the
// parameter.
package query

import (
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
)

// Check returns an error if a raw query has a parameter that is not one of known, so that a
// misspelt one is not ignored, or has one more than once. A query that cannot be parsed is a
// *problem.Problem with status 400.
func Check(raw string, known []string) error {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return problem.New(http.StatusBadRequest, "the query cannot be read: %v", err)
	}
	for name, value := range values {
		switch {
		case !slices.Contains(known, name):
			return models.Bad(name, "is not a parameter of this route")
		case len(value) > 1:
			return models.Bad(name, "is given more than once")
		}
	}
	return nil
}

// Number returns a parameter as a whole number, 1 to most, or fallback if the query does not
// have it.
func Number(q url.Values, name string, fallback, most int64) (int64, error) {
	if !q.Has(name) {
		return fallback, nil
	}
	return Positive(name, q.Get(name), most)
}

// Positive parses a whole number, 1 to most. Its errors name field.
func Positive(field, text string, most int64) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case (err != nil || n < 1) && most == math.MaxInt64:
		return 0, models.Bad(field, "must be a whole number, 1 or more")
	case err != nil || n < 1 || n > most:
		return 0, models.Bad(field, "must be a whole number, 1 to %d", most)
	}
	return n, nil
}

// Flag returns a parameter that is true or false; false if the query does not have it.
func Flag(q url.Values, name string) (bool, error) {
	switch text := q.Get(name); {
	case !q.Has(name) || text == "false":
		return false, nil
	case text == "true":
		return true, nil
	}
	return false, models.Bad(name, "must be true or false")
}

// OneOf returns a parameter that must be one of known; "" if the query does not have it.
func OneOf[T ~string](q url.Values, name string, known []T) (T, error) {
	text := T(q.Get(name))
	if !q.Has(name) || slices.Contains(known, text) {
		return text, nil
	}
	values := make([]string, len(known))
	for i, value := range known {
		values[i] = string(value)
	}
	return "", models.Bad(name, "must be one of %s", strings.Join(values, ", "))
}

// Duration parses a Go duration, or a whole number of seconds.
func Duration(text string) (d time.Duration, ok bool) {
	if _, err := strconv.ParseInt(text, 10, 64); err == nil {
		text += "s"
	}
	d, err := time.ParseDuration(text)
	return d, err == nil
}
