package api

import "net/http"

// NewWithoutRule is New with one more route, GET /api/v1/unset, without an access rule.
func NewWithoutRule(o Options) http.Handler {
	a := newAPI(o)
	unset := route{method: "GET", path: "/api/v1/unset", measured: admins}
	unset.handle = plain(func(http.ResponseWriter, *http.Request) {})
	return a.handler(append(a.routes(), unset))
}

// Routes returns the method, the path and the known parameters of every route.
func Routes() (routes [][3]string) {
	for _, r := range (&API{}).routes() {
		routes = append(routes, [3]string{r.method, r.path, r.query})
	}
	return routes
}

// InFlightWhileHeld returns the number of requests in flight before a call is held, while it
// is held, when it has its slot again, and after its release.
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

// InFlightAfterAbandonedHold returns the number of requests in flight after a held call is
// released without its slot, as after a panic.
func InFlightAfterAbandonedHold() int64 {
	c := entered()
	k := c.class
	c.releaseWhileHeld()
	c.release()
	return k.InFlight()
}

// entered returns a call with a slot.
func entered() *call {
	c := &call{measured: NewMetrics(nil).measured(polls), class: newClasses(Limits{1, 1, 1, 1})[reading]}
	c.class.Enter()
	return c
}
