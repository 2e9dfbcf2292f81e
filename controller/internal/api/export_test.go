package api

import "net/http"

// NewWithoutRule is New with one more route, GET /api/v1/unset, that was given no
// access rule.
func NewWithoutRule(o Options) http.Handler {
	a := newAPI(o)
	unset := route{method: "GET", path: "/api/v1/unset", measured: admins}
	unset.handle = plain(func(http.ResponseWriter, *http.Request) {})
	return a.handler(append(a.routes(), unset))
}

// Routes lists method, path and known parameters of every route.
func Routes() (routes [][3]string) {
	for _, r := range (&API{}).routes() {
		routes = append(routes, [3]string{r.method, r.path, r.query})
	}
	return routes
}

// InFlightWhileHeld is how many are in flight before a call steps aside, meanwhile,
// when it is back, and when it has left.
func InFlightWhileHeld() (inFlight []int64) {
	c := entered()
	k := c.class
	note := func() { inFlight = append(inFlight, k.InFlight()) }
	note()
	reacquire := c.releaseWhileHeld()
	note()
	reacquire()
	note()
	c.release()
	note()
	return inFlight
}

// InFlightAfterAbandonedHold is how many are in flight when a call that stepped aside
// leaves without coming back, as one that panics does.
func InFlightAfterAbandonedHold() int64 {
	c := entered()
	k := c.class
	c.releaseWhileHeld()
	c.release()
	return k.InFlight()
}

// entered is a call with a place.
func entered() *call {
	c := &call{measured: NewMetrics(nil).measured(polls), class: newClasses(Limits{1, 1, 1, 1})[reading]}
	c.class.Enter()
	return c
}
