//go:build !race

package test

// raceDetector says whether the binaries are built as this test is.
const raceDetector = false
