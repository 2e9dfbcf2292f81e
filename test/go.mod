module github.com/fleetconf/fleetconf/test

go 1.26.0
