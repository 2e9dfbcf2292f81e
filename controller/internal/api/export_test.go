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
