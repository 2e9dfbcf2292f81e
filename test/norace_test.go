//go:build !race

package test

// raceDetector reports whether this test, and so the binaries, use the race detector.
const raceDetector = false
