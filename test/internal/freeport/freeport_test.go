package freeport

import "testing"

// A program that is down for a moment must find its port free.
func TestAddress_Called500Times_AllDifferent(t *testing.T) {
	seen := map[string]bool{}
	for range 500 {
		address, err := Address()
		if err != nil {
			t.Fatal(err)
		}
		if seen[address] {
			t.Fatalf("got %s twice", address)
		}
		seen[address] = true
	}
}
