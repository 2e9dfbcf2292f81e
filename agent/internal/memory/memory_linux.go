package memory

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// releaseCode unmaps the resident pages of the binary's code and its libraries'.
// The kernel maps them again on the next access (madvise(2), MADV_DONTNEED).
// Code only: nobody writes to it, so that what is in the file is all there is.
// Other read-only pages may have been written before they became read-only
// (RELRO), and what was written would be lost.
func releaseCode() {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return // nothing depends on it
	}
	defer func() { _ = maps.Close() }() // it was only read
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		if from, to, ok := codeOfFile(lines.Text()); ok {
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, from, to-from, syscall.MADV_DONTNEED)
		}
	}
}

// codeOfFile takes the addresses from a line of /proc/self/maps (proc(5)), if it
// is of a file's code.
func codeOfFile(line string) (from, to uintptr, ok bool) {
	fields := strings.Fields(line) // address perms offset dev inode path
	if len(fields) < 6 || !strings.HasPrefix(fields[5], "/") || fields[1] != "r-xp" {
		return 0, 0, false
	}
	n, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to)
	return from, to, err == nil && n == 2 && from < to
}
