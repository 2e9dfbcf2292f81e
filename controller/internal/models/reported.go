package models

// Reported is what agents said of versions above the store's own, as they do
// when it was restored from an older backup. Its zero value is nothing.
type Reported struct {
	Highest      int64 // the highest version that an agent said it runs or tried, where the store had none as high
	ResumedBelow int64 // up to here an admin has seen it, and let agents follow the store again
}

// Conflict reports whether agents run, or may run, versions above the store's
// newest one, and no admin has decided yet: neither by a publish, whose version
// is above Highest, nor by resuming.
func (r Reported) Conflict(newest int64) bool {
	return r.Highest > newest && r.Highest > r.ResumedBelow
}
