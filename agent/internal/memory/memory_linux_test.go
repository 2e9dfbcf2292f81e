package memory

import (
	"os"
	"regexp"
	"strconv"
	"testing"
)

func TestCodeOfFile(t *testing.T) {
	for line, want := range map[string]bool{
		"00400000-00800000 r-xp 00000000 fe:00 9986245                            /bin/agent": true,
		"00800000-00c35000 r--p 00400000 fe:00 9986245                            /bin/agent": false,
		"00c35000-00c96000 rw-p 00835000 fe:00 9986245                            /bin/agent": false,
		"157b05400000-157b05c00000 rw-p 00000000 00:00 0 ":                                    false,
		"7ffd1000-7ffd2000 r-xp 00000000 00:00 0                                  [vdso]":     false,
		"nonsense r-xp 0 0 0 /bin/agent":                                                      false,
		"":                                                                                    false,
	} {
		if from, to, ok := codeOfFile(line); ok != want || ok && from >= to {
			t.Errorf("%q: got %x-%x, %v, want %v", line, from, to, ok, want)
		}
	}
}

func TestRelease_GivesBackPagesOfTheBinary(t *testing.T) {
	touch(t)
	before := residentFile(t)
	Release()
	after := residentFile(t)
	if after >= before {
		t.Errorf("%d kB of files are resident, %d kB were before", after, before)
	}
	touch(t) // and all of it still works
}

// touch fails unless code runs as it did before.
func touch(t *testing.T) {
	t.Helper()
	if regexp.MustCompile(`^(a+)+b$`).MatchString("aaaaaaaab") != true {
		t.Fatal("the code is not what it was")
	}
}

func residentFile(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`RssFile:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		t.Skip("this kernel does not tell files apart")
	}
	kB, _ := strconv.Atoi(string(found[1])) // digits only
	return kB
}
