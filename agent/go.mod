module github.com/fleetconf/fleetconf/agent

go 1.26.0

require github.com/fleetconf/fleetconf/pkg v0.0.0

replace github.com/fleetconf/fleetconf/pkg => ../pkg
