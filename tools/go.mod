module github.com/fleetconf/fleetconf/tools

go 1.26.0
