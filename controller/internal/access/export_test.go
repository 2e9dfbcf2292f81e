package access

// InFlightWhileHeld returns the number of requests in flight before a request is held, while it
// is held, when it has its slot again, and after its release.
func InFlightWhileHeld() (inFlight []int64) {
	c := entered()
	k := c.class
	note := func() { inFlight = append(inFlight, k.InFlight()) }
	note()
	reacquire := c.ReleaseWhileHeld()
	note()
	reacquire()
	note()
	c.Release()
	note()
	return inFlight
}

// InFlightAfterAbandonedHold returns the number of requests in flight after a held request is
// released without its slot, as after a panic.
func InFlightAfterAbandonedHold() int64 {
	c := entered()
	k := c.class
	c.ReleaseWhileHeld()
	c.Release()
	return k.InFlight()
}

// entered returns a caller with a slot.
func entered() *Caller {
	c := &Caller{class: newClasses(Limits{1, 1, 1, 1})[Readers]}
	c.class.Enter()
	return c
}
