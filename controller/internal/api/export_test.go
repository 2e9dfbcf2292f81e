package api

// Routes lists method and path of every route.
func Routes() (routes [][2]string) {
	for _, r := range (&API{}).routes() {
		routes = append(routes, [2]string{r.method, r.path})
	}
	return routes
}
