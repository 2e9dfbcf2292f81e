// Package memory gives back what only the start of a process needed. Of an idle
// agent's resident memory a third is code that ran once, while settings were read
// and the first connections made; it comes back from the page cache if it is ever
// needed.
package memory

import "runtime/debug"

// Release collects garbage and lets go of what is not in use. It is for a
// process that has done its start and will be idle for long; it costs
// milliseconds, once.
func Release() {
	debug.FreeOSMemory()
	releaseCode()
}
