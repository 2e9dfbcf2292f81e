package atomicfile

import (
	"os"
	"syscall"
	"testing"
)

// Observe notes the files and folders that this package syncs itself until the test
// ends, each of which fails with failure if it is not nil.
func Observe(t *testing.T, failure error) *[]string {
	t.Helper()
	before, synced := sync, new([]string)
	t.Cleanup(func() { sync = before })
	sync = func(f *os.File) error {
		*synced = append(*synced, f.Name())
		if failure != nil {
			return failure
		}
		return f.Sync()
	}
	return synced
}

// Break takes the first n ways to move a file from the file system until the test ends.
func Break(t *testing.T, n int) {
	t.Helper()
	before := moves
	t.Cleanup(func() { moves = before })
	moves = nil
	for i, move := range before {
		if i < n {
			move = func(string, string) error { return syscall.EPERM }
		}
		moves = append(moves, move)
	}
}
