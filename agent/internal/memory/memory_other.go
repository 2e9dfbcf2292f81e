//go:build !linux

package memory

func releaseCode() {}
