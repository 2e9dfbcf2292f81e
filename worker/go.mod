module github.com/fleetconf/fleetconf/worker

go 1.26.0

require github.com/fleetconf/fleetconf/pkg v0.0.0

replace github.com/fleetconf/fleetconf/pkg => ../pkg
