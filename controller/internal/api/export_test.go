package api

// Routes lists method, path and known parameters of every route.
func Routes() (routes [][3]string) {
	for _, r := range (&API{}).routes() {
		routes = append(routes, [3]string{r.method, r.path, r.query})
	}
	return routes
}
